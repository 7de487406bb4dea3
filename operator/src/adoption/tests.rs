//! Each thing that can be seen, and the step that follows; then whole adoptions against a small model of the cluster.

use lb_crds::load_balancer_stack::AdoptionStep;
use serde_json::json;

use super::*;

fn mk_workload(kind: Kind, name: &str, ports: &[i32]) -> Workload {
    let ports: Vec<_> = ports.iter().map(|port| json!({"containerPort": port})).collect();
    Workload {
        id: ObjectId::new(kind, "metallb-system", name),
        uid: format!("uid of {name}"),
        terminating: false,
        keeper: None,
        body: json!({
            "metadata": {"name": name, "uid": "x", "resourceVersion": "7", "labels": {"app": "metallb"},
                         "annotations": {"deployment.kubernetes.io/revision": "3", "own": "kept"}},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "it", "ports": ports}]}}},
            "status": {"replicas": 1},
        }),
    }
}

fn mk_pod(node: &str, speaker: bool) -> Pod {
    Pod {
        name: format!("{}-{node}", if speaker { "speaker" } else { "controller" }),
        uid: format!("pod {node} {speaker}"),
        node: node.to_owned(),
        speaker,
        component: Some(if speaker { "speaker" } else { "controller" }.to_owned()),
        ..Pod::default()
    }
}

/// MetalLB on three nodes, two of which announce something.
fn mk_found(ports: &[i32]) -> Found {
    Found {
        workloads: vec![
            mk_workload(Kind::Deployment, "controller", &[]),
            mk_workload(Kind::DaemonSet, "speaker", ports),
        ],
        pods: vec![
            mk_pod("n1", false),
            mk_pod("n1", true),
            mk_pod("n2", true),
            mk_pod("n3", true),
        ],
        strict_webhook: true,
        announcing: ["n1", "n2"].map(str::to_owned).into(),
        active: 2,
        ..Found::default()
    }
}

fn mk_record(found: &Found) -> Record {
    let object = Record::object("metallb-system", &found.workloads, &[]);
    Record::read(&object["data"])
}

/// Just before it begins.
fn mk_seen() -> Seen {
    Seen {
        found: mk_found(&[9120]),
        checked: true,
        images: Images::Pulled,
        ..Seen::default()
    }
}

#[test]
fn nothing_begins_before_it_can_be_brought_to_an_end() {
    type Change = fn(&mut Seen);
    let bgp: Change = |seen| seen.found.bgp = vec!["BGPAdvertisement metallb-system/lan".to_owned()];
    let kept: Change = |seen| seen.found.workloads[1].keeper = Some(Keeper::MetalLbOperator);
    let denied: Change = |seen| seen.found.denied = vec!["delete Deployment lan/x".to_owned()];
    let failed: Change = |seen| seen.images = Images::Failed("not found".to_owned());
    let port: Change = |seen| seen.found = mk_found(&[7472]);
    let blocked: [(Change, &str); 5] = [
        (port, "give it another port"),
        (bgp, "BGPAdvertisement metallb-system/lan"),
        (kept, "kubectl delete metallb --all --cascade=orphan"),
        (denied, "delete Deployment lan/x"),
        (failed, "not found"),
    ];
    for (change, says) in blocked {
        let mut seen = mk_seen();
        change(&mut seen);
        let due = step(&seen);
        assert!(matches!(due, Step::Blocked(_)), "{due:?}");
        let report = report(&due, &seen).unwrap();
        assert!(report.blocked && report.message.contains(says), "{report:?}");
        let may = match due {
            // It may be had in a while.
            Step::Blocked(Block::Images(_)) => Admitted::PrePull,
            _ => Admitted::Nothing,
        };
        assert_eq!(admitted(&due, &seen), may);
    }
    let others: [(Change, Step, Admitted); 5] = [
        (|_| {}, Step::Record, Admitted::PrePull),
        (
            |seen| seen.images = Images::Waits,
            Step::PrePull,
            Admitted::PrePull,
        ),
        // The checks hold back what they have to.
        (|seen| seen.checked = false, Step::Rest, Admitted::All),
        (|seen| seen.found = Found::default(), Step::Rest, Admitted::All),
        // Somebody has installed MetalLB beside a stack that runs, which is kept up.
        (
            |seen| {
                seen.images = Images::Waits;
                seen.ours.exists = true;
            },
            Step::Record,
            Admitted::All,
        ),
    ];
    for (change, wanted, may) in others {
        let mut seen = mk_seen();
        change(&mut seen);
        let due = step(&seen);
        assert_eq!((&due, admitted(&due, &seen)), (&wanted, may));
    }
}

#[test]
fn what_somebody_puts_back_is_told_and_left_alone() {
    let mut seen = mk_seen();
    seen.record = Some(mk_record(&seen.found));
    seen.found.workloads[0].uid = "another".to_owned();
    // How far it was, and what is kept up meanwhile.
    let cases = [
        (Ours::default(), Admitted::PrePull, AdoptionStep::Controller),
        (
            Ours {
                exists: true,
                controllers: true,
                ..Ours::default()
            },
            Admitted::Controllers,
            AdoptionStep::Speakers,
        ),
        (
            Ours {
                exists: true,
                controllers: true,
                speakers_made: true,
                speakers: true,
            },
            Admitted::All,
            AdoptionStep::HandOver,
        ),
    ];
    for (ours, may, stage) in cases {
        seen.ours = ours;
        let due = step(&seen);
        let names = vec!["Deployment metallb-system/controller".to_owned()];
        assert_eq!(due, Step::Blocked(Block::PutBack(names)));
        assert_eq!(admitted(&due, &seen), may);
        let report = report(&due, &seen).unwrap();
        assert_eq!((report.step, report.blocked), (stage, true));
    }
}

/// A cluster in which all that is asked for comes about one look later.
struct Cluster {
    seen: Seen,
    /// What has happened, in order.
    history: Vec<&'static str>,
}

impl Cluster {
    fn new(ports: &[i32]) -> Self {
        let seen = Seen {
            found: mk_found(ports),
            images: Images::Waits,
            ..mk_seen()
        };
        Self {
            seen,
            history: Vec::new(),
        }
    }

    fn nodes(&self, speaker: bool) -> Vec<&str> {
        let pods = self.seen.found.pods.iter().filter(|pod| pod.speaker == speaker);
        pods.map(|pod| pod.node.as_str()).collect()
    }

    /// What was deleted is gone, and what was made is there.
    fn come_about(&mut self) {
        let seen = &mut self.seen;
        seen.found.workloads.retain(|workload| !workload.terminating);
        let has = |kind| {
            seen.found
                .workloads
                .iter()
                .any(|workload| workload.id.kind == kind)
        };
        if !has(Kind::Deployment) {
            seen.found.pods.retain(|pod| pod.speaker);
        }
        for (away, kind) in [Kind::Deployment, Kind::DaemonSet].into_iter().enumerate() {
            let since = if has(kind) {
                Duration::ZERO
            } else {
                seen.away_for[away] + Duration::from_secs(1)
            };
            seen.away_for[away] = since;
        }
        seen.found.pods.retain(|pod| !pod.terminating);
        if seen.found.active == 0 {
            seen.found.announcing.clear();
            seen.still_for += Duration::from_secs(1);
        }
    }

    /// Takes the step that is due, as the operator does.
    fn take(&mut self) -> Step {
        let due = step(&self.seen);
        let may = admitted(&due, &self.seen);
        if matches!(may, Admitted::Controllers | Admitted::All) {
            assert!(self.nodes(false).is_empty(), "one allocator: {due:?}");
            self.seen.ours.exists = true;
            self.seen.ours.controllers = true;
        }
        if may == Admitted::All {
            for pod in self.seen.found.pods.iter().filter(|pod| pod.speaker) {
                assert!(pod.parted.is_some(), "ours would take it for its own: {due:?}");
            }
            self.seen.ours.speakers_made = true;
            self.seen.ours.speakers = true;
        }
        let seen = &mut self.seen;
        match &due {
            Step::PrePull => seen.images = Images::Pulled,
            Step::Record => {
                seen.record = Some(mk_record(&seen.found));
                self.history.push("record");
            }
            Step::Relax => {
                seen.found.strict_webhook = false;
                self.history.push("relax");
            }
            Step::EndControllers(_) => {
                seen.found.workloads[0].terminating = true;
                self.history.push("controller");
            }
            Step::Part(_) => {
                seen.found.workloads[0].terminating = true;
                self.history.push("part");
            }
            Step::Label(_) => {
                for pod in seen.found.pods.iter_mut().filter(|pod| pod.speaker) {
                    pod.parted = Some("speaker".to_owned());
                }
                self.history.push("label");
            }
            Step::EndSpeakers(pods) => {
                assert!(seen.ours.speakers, "ours answer before");
                assert_eq!(seen.found.active, 0, "they would elect anew");
                assert!(seen.found.announcing.is_empty());
                for pod in &mut seen.found.pods {
                    pod.terminating |= pods.iter().any(|other| other.uid == pod.uid);
                }
                self.history.push("speakers");
            }
            Step::Halt => {
                assert!(seen.ours.speakers, "ours answer before");
                (seen.found.active, seen.found.halted) = (0, seen.found.active);
                self.history.push("halt");
            }
            Step::Resume => {
                assert!(seen.found.pods.is_empty());
                (seen.found.active, seen.found.halted) = (seen.found.halted, 0);
                self.history.push("resume");
            }
            Step::Rest | Step::Blocked(_) | Step::Wait(_) | Step::Adopted => {}
        }
        due
    }
}

#[test]
fn an_adoption_has_one_allocator_and_ours_answer_before_metallbs_speakers_end() {
    let mut cluster = Cluster::new(&[9120, 7946]);
    let mut looks = 0;
    loop {
        looks += 1;
        assert!(looks < 100, "it comes to an end: {:?}", cluster.history);
        let due = cluster.take();
        assert!(report(&due, &cluster.seen).is_some());
        if due == Step::Adopted {
            break;
        }
        cluster.come_about();
    }
    let order = [
        "record",
        "relax",
        "controller",
        "part",
        "label",
        "halt",
        "speakers",
        "resume",
    ];
    assert_eq!(cluster.history, order);
    assert_eq!(
        admitted(&step(&cluster.seen), &cluster.seen),
        Admitted::All,
        "it is kept up"
    );
    let said = report(&Step::Adopted, &cluster.seen).unwrap().message;
    for part in [
        "spec.adopt to false",
        "delete controllerrevision metallb-before-adoption",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_records_of_a_lost_node_are_not_waited_for_for_ever() {
    let mut seen = mk_seen();
    seen.record = Some(mk_record(&seen.found));
    seen.found.workloads.clear();
    seen.found.pods.retain(|pod| pod.speaker);
    for pod in &mut seen.found.pods {
        pod.parted = Some("speaker".to_owned());
    }
    seen.found.strict_webhook = false;
    (seen.found.active, seen.found.halted) = (0, 1);
    seen.ours = Ours {
        exists: true,
        controllers: true,
        speakers_made: true,
        speakers: true,
    };
    seen.away_for = [CALM; 2];
    let [least, most] = HALT;
    seen.still_for = most - least;
    assert_eq!(step(&seen), Step::Wait(Wait::Standstill));
    seen.still_for = most;
    assert!(matches!(step(&seen), Step::EndSpeakers(pods) if pods.len() == 3));
}

#[test]
fn on_the_way_back_ours_leave_first() {
    let owned = |kind: Kind| OwnedObject {
        id: ObjectId::new(kind, "metallb-system", "x"),
        uid: kind.to_string(),
        terminating: false,
    };
    let mut behind = Behind {
        owned: [Kind::ClusterRole, Kind::Deployment, Kind::DaemonSet]
            .map(owned)
            .to_vec(),
        controllers: 2,
        speakers: 3,
        parted: vec![mk_pod("n1", true)],
        missing: true,
        halted: true,
    };
    assert_eq!(back(&behind), Back::Resume, "MetalLB's announce before ours end");
    behind.halted = false;
    for (kind, pods) in [
        (Kind::Deployment, true),
        (Kind::DaemonSet, true),
        (Kind::ClusterRole, false),
    ] {
        assert_eq!(back(&behind), Back::Delete(vec![owned(kind)]));
        for owned in behind.owned.iter_mut().filter(|owned| owned.id.kind == kind) {
            owned.terminating = true;
        }
        assert_eq!(back(&behind), Back::Wait);
        behind.owned.retain(|owned| owned.id.kind != kind);
        if pods {
            assert_eq!(back(&behind), Back::Wait, "its pods end");
        }
        match kind {
            Kind::Deployment => behind.controllers = 0,
            _ => behind.speakers = 0,
        }
    }
    assert_eq!(back(&behind), Back::Label(vec![mk_pod("n1", true)]));
    behind.parted.clear();
    assert_eq!(back(&behind), Back::Restore);
    behind.missing = false;
    assert_eq!(back(&behind), Back::Forget);
}

#[test]
fn a_record_holds_what_is_needed_to_make_it_again_and_no_more() {
    let account = ObjectId::new(Kind::ServiceAccount, "metallb-system", "speaker");
    let theirs = json!({"metadata": {"labels": {"app": "metallb"}, "resourceVersion": "9"}, "secrets": []});
    let object = Record::object(
        "metallb-system",
        &mk_found(&[]).workloads,
        &[(account.clone(), theirs)],
    );
    assert_eq!(
        object["metadata"]["ownerReferences"],
        Value::Null,
        "it outlives the stack"
    );
    let record = Record::read(&object["data"]);
    assert!(record.knows("uid of speaker") && !record.knows("another"));
    assert!(record.has(&account));
    let (id, body) = record.objects().nth(1).unwrap();
    assert_eq!(
        *id,
        ObjectId::new(Kind::Deployment, "metallb-system", "controller")
    );
    assert_eq!(
        body["metadata"],
        json!({"name": "controller", "namespace": "metallb-system", "labels": {"app": "metallb"}, "annotations": {"own": "kept"}})
    );
    assert_eq!(
        (&body["apiVersion"], &body["kind"]),
        (&json!("apps/v1"), &json!("Deployment"))
    );
    assert!(body["status"].is_null() && body["spec"]["replicas"] == 1);

    // Ours went over the account: our labels and our owner go.
    let (_, recorded) = record.objects().next().unwrap();
    let now = json!({"app": "metallb", "app.kubernetes.io/managed-by": "lb-operator"});
    let patch = backup::undo(recorded, &now);
    assert_eq!(
        patch["metadata"]["labels"],
        json!({"app": "metallb", "app.kubernetes.io/managed-by": null})
    );
    assert!(
        patch["metadata"]
            .get("ownerReferences")
            .is_some_and(Value::is_null)
    );
}
