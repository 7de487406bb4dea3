//! Each observable state and the action that follows; then whole adoptions against a small model of the cluster.

use lb_crds::load_balancer_stack::AdoptionStep;
use serde_json::json;

use super::*;

fn mk_workload(kind: Kind, name: &str, ports: &[i32]) -> MetalLbWorkload {
    let ports: Vec<_> = ports.iter().map(|port| json!({"containerPort": port})).collect();
    MetalLbWorkload {
        id: ObjectId::new(kind, "metallb-system", name),
        uid: format!("uid of {name}"),
        terminating: false,
        managed_by: None,
        body: json!({
            "metadata": {"name": name, "uid": "x", "resourceVersion": "7", "labels": {"app": "metallb"},
                         "annotations": {"deployment.kubernetes.io/revision": "3", "own": "kept"}},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "it", "ports": ports}]}}},
            "status": {"replicas": 1},
        }),
    }
}

fn mk_pod(node: &str, speaker: bool) -> MetalLbPod {
    MetalLbPod {
        name: format!("{}-{node}", if speaker { "speaker" } else { "controller" }),
        uid: format!("pod {node} {speaker}"),
        node: node.to_owned(),
        speaker,
        component: Some(if speaker { "speaker" } else { "controller" }.to_owned()),
        ..MetalLbPod::default()
    }
}

/// MetalLB on three nodes, two of which announce something.
fn mk_metallb(ports: &[i32]) -> MetalLb {
    MetalLb {
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
        active_advertisements: 2,
        ..MetalLb::default()
    }
}

fn mk_backup(found: &MetalLb) -> Backup {
    let object = Backup::object("metallb-system", &found.workloads, &[]);
    Backup::read(&object["data"])
}

/// The state before the first change.
fn mk_input() -> AdoptionInput {
    AdoptionInput {
        found: mk_metallb(&[9120]),
        port: 7472,
        preflight_passed: true,
        images: ImagePull::Complete,
        ..AdoptionInput::default()
    }
}

#[test]
fn adoption_begins_only_if_it_can_complete() {
    type Change = fn(&mut AdoptionInput);
    let bgp: Change = |seen| seen.found.bgp = vec!["BGPAdvertisement metallb-system/lan".to_owned()];
    let kept: Change = |seen| seen.found.workloads[1].managed_by = Some(WorkloadManager::MetalLbOperator);
    let denied: Change = |seen| seen.found.denied = vec!["delete Deployment lan/x".to_owned()];
    let failed: Change = |seen| seen.images = ImagePull::Failed("not found".to_owned());
    let port: Change = |seen| seen.found = mk_metallb(&[7472]);
    let blocked: [(Change, &str); 5] = [
        (port, "give MetalLB another port"),
        (bgp, "BGPAdvertisement metallb-system/lan"),
        (kept, "kubectl delete metallb --all --cascade=orphan"),
        (denied, "delete Deployment lan/x"),
        (failed, "not found"),
    ];
    for (change, says) in blocked {
        let mut seen = mk_input();
        change(&mut seen);
        let due = next_action(&seen);
        assert!(matches!(due, AdoptionAction::Blocked(_)), "{due:?}");
        let report = report(&due, &seen).unwrap();
        assert!(report.blocked && report.message.contains(says), "{report:?}");
        let may = match due {
            // The pull may succeed later.
            AdoptionAction::Blocked(AdoptionBlocker::ImagePullFailed(_)) => AllowedObjects::PrePull,
            _ => AllowedObjects::None,
        };
        assert_eq!(allowed_objects(&due, &seen), may);
    }
    let others: [(Change, AdoptionAction, AllowedObjects); 5] = [
        (|_| {}, AdoptionAction::SaveBackup, AllowedObjects::PrePull),
        (
            |seen| seen.images = ImagePull::Pending,
            AdoptionAction::PrePull,
            AllowedObjects::PrePull,
        ),
        // The checks block an installation themselves.
        (
            |seen| seen.preflight_passed = false,
            AdoptionAction::None,
            AllowedObjects::All,
        ),
        (
            |seen| seen.found = MetalLb::default(),
            AdoptionAction::None,
            AllowedObjects::All,
        ),
        // MetalLB was installed beside a running stack.
        (
            |seen| {
                seen.images = ImagePull::Pending;
                seen.ours.exists = true;
            },
            AdoptionAction::SaveBackup,
            AllowedObjects::All,
        ),
    ];
    for (change, wanted, may) in others {
        let mut seen = mk_input();
        change(&mut seen);
        let due = next_action(&seen);
        assert_eq!((&due, allowed_objects(&due, &seen)), (&wanted, may));
    }
}

#[test]
fn recreated_objects_are_reported_and_not_changed() {
    let mut seen = mk_input();
    seen.record = Some(mk_backup(&seen.found));
    seen.found.workloads[0].uid = "another".to_owned();
    seen.found.workloads[0].body["metadata"]["managedFields"] = json!([
        {"manager": "kubectl", "time": "2026-01-01T00:00:00Z"},
        {"manager": "helm", "time": "2026-01-02T00:00:00Z"},
        {"manager": "kube-controller-manager", "time": "2026-01-03T00:00:00Z", "subresource": "status"},
    ]);
    // Progress of the stack, the allowed objects, and the step.
    let cases = [
        (
            StackProgress::default(),
            AllowedObjects::PrePull,
            AdoptionStep::Controller,
        ),
        (
            StackProgress {
                exists: true,
                controllers: true,
                ..StackProgress::default()
            },
            AllowedObjects::Controllers,
            AdoptionStep::Speakers,
        ),
        (
            StackProgress {
                exists: true,
                controllers: true,
                speakers_created: true,
                speakers: true,
            },
            AllowedObjects::All,
            AdoptionStep::HandOver,
        ),
    ];
    for (ours, may, stage) in cases {
        seen.ours = ours;
        let due = next_action(&seen);
        let recreated = vec![RecreatedObject {
            id: ObjectId::new(Kind::Deployment, "metallb-system", "controller"),
            manager: Some("helm".to_owned()),
        }];
        assert_eq!(
            due,
            AdoptionAction::Blocked(AdoptionBlocker::Recreated(recreated))
        );
        assert_eq!(allowed_objects(&due, &seen), may);
        let report = report(&due, &seen).unwrap();
        assert_eq!((report.step, report.blocked), (stage, true));
        let object = "Deployment metallb-system/controller (by helm)";
        assert!(report.message.contains(object), "{report:?}");
    }
}

/// A cluster in which every action has taken effect at the next read.
struct Cluster {
    seen: AdoptionInput,
    /// The actions that were performed, in order.
    history: Vec<&'static str>,
}

impl Cluster {
    fn new(ports: &[i32]) -> Self {
        let seen = AdoptionInput {
            found: mk_metallb(ports),
            images: ImagePull::Pending,
            ..mk_input()
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

    /// Actions take effect: deleted objects disappear.
    fn take_effect(&mut self) {
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
                seen.absent_for[away] + Duration::from_secs(1)
            };
            seen.absent_for[away] = since;
        }
        seen.found.pods.retain(|pod| !pod.terminating);
        if seen.found.active_advertisements == 0 {
            seen.found.announcing.clear();
            seen.withdrawn_for += Duration::from_secs(1);
        }
    }

    /// Performs the next action, as the operator does.
    fn take(&mut self) -> AdoptionAction {
        let due = next_action(&self.seen);
        let may = allowed_objects(&due, &self.seen);
        if matches!(may, AllowedObjects::Controllers | AllowedObjects::All) {
            assert!(self.nodes(false).is_empty(), "one allocator: {due:?}");
            self.seen.ours.exists = true;
            self.seen.ours.controllers = true;
        }
        if may == AllowedObjects::All {
            for pod in self.seen.found.pods.iter().filter(|pod| pod.speaker) {
                assert!(
                    pod.orphaned_component.is_some(),
                    "ours would take it for its own: {due:?}"
                );
            }
            self.seen.ours.speakers_created = true;
            self.seen.ours.speakers = true;
        }
        let seen = &mut self.seen;
        match &due {
            AdoptionAction::PrePull => seen.images = ImagePull::Complete,
            AdoptionAction::SaveBackup => {
                seen.record = Some(mk_backup(&seen.found));
                self.history.push("record");
            }
            AdoptionAction::RelaxWebhook => {
                seen.found.strict_webhook = false;
                self.history.push("relax");
            }
            AdoptionAction::DeleteControllers(_) => {
                seen.found.workloads[0].terminating = true;
                self.history.push("controller");
            }
            AdoptionAction::OrphanSpeakers(_) => {
                seen.found.workloads[0].terminating = true;
                self.history.push("part");
            }
            AdoptionAction::LabelPods(_) => {
                for pod in seen.found.pods.iter_mut().filter(|pod| pod.speaker) {
                    pod.orphaned_component = Some("speaker".to_owned());
                }
                self.history.push("label");
            }
            AdoptionAction::DeleteSpeakers(pods) => {
                assert!(seen.ours.speakers, "the new speakers are ready");
                assert_eq!(
                    seen.found.active_advertisements, 0,
                    "they would elect another owner"
                );
                assert!(seen.found.announcing.is_empty());
                for pod in &mut seen.found.pods {
                    pod.terminating |= pods.iter().any(|other| other.uid == pod.uid);
                }
                self.history.push("speakers");
            }
            AdoptionAction::WithdrawSpeakers => {
                assert!(seen.ours.speakers, "the new speakers are ready");
                (seen.found.active_advertisements, seen.found.withdrawn) =
                    (0, seen.found.active_advertisements);
                self.history.push("halt");
            }
            AdoptionAction::RestoreAdvertisements => {
                assert!(seen.found.pods.is_empty());
                (seen.found.active_advertisements, seen.found.withdrawn) = (seen.found.withdrawn, 0);
                self.history.push("resume");
            }
            AdoptionAction::None
            | AdoptionAction::Blocked(_)
            | AdoptionAction::Wait(_)
            | AdoptionAction::Adopted => {}
        }
        due
    }
}

#[test]
fn new_speakers_are_ready_before_metallb_speakers_are_deleted() {
    let mut cluster = Cluster::new(&[9120, 7946]);
    let mut looks = 0;
    loop {
        looks += 1;
        assert!(looks < 100, "it comes to an end: {:?}", cluster.history);
        let due = cluster.take();
        assert!(report(&due, &cluster.seen).is_some());
        if due == AdoptionAction::Adopted {
            break;
        }
        cluster.take_effect();
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
        allowed_objects(&next_action(&cluster.seen), &cluster.seen),
        AllowedObjects::All,
        "it is kept up"
    );
    let said = report(&AdoptionAction::Adopted, &cluster.seen).unwrap().message;
    for part in [
        "spec.restore to true",
        "delete controllerrevision metallb-before-adoption",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn statuses_of_a_lost_node_delay_deletion_15_s_at_most() {
    let mut seen = mk_input();
    seen.record = Some(mk_backup(&seen.found));
    seen.found.workloads.clear();
    seen.found.pods.retain(|pod| pod.speaker);
    for pod in &mut seen.found.pods {
        pod.orphaned_component = Some("speaker".to_owned());
    }
    seen.found.strict_webhook = false;
    (seen.found.active_advertisements, seen.found.withdrawn) = (0, 1);
    seen.ours = StackProgress {
        exists: true,
        controllers: true,
        speakers_created: true,
        speakers: true,
    };
    seen.absent_for = [MIN_ABSENCE; 2];
    let [least, most] = WITHDRAWAL_WAIT;
    seen.withdrawn_for = most - least;
    assert_eq!(next_action(&seen), AdoptionAction::Wait(AdoptionWait::Withdrawal));
    seen.withdrawn_for = most;
    assert!(matches!(next_action(&seen), AdoptionAction::DeleteSpeakers(pods) if pods.len() == 3));
}

#[test]
fn restore_deletes_the_stack_first() {
    let owned = |kind: Kind| OwnedObject {
        id: ObjectId::new(kind, "metallb-system", "x"),
        uid: kind.to_string(),
        terminating: false,
    };
    let mut behind = RestoreInput {
        missing_accounts: Vec::new(),
        owned: [Kind::ClusterRole, Kind::Deployment, Kind::DaemonSet]
            .map(owned)
            .to_vec(),
        controllers: 2,
        speakers: 3,
        orphaned_component: vec![mk_pod("n1", true)],
        missing: true,
        withdrawn: true,
    };
    assert_eq!(
        next_restore_action(&behind),
        RestoreAction::RestoreAdvertisements,
        "MetalLB's announce before ours end"
    );
    behind.withdrawn = false;
    for (kind, pods) in [
        (Kind::Deployment, true),
        (Kind::DaemonSet, true),
        (Kind::ClusterRole, false),
    ] {
        assert_eq!(
            next_restore_action(&behind),
            RestoreAction::DeleteOwned(vec![owned(kind)])
        );
        for owned in behind.owned.iter_mut().filter(|owned| owned.id.kind == kind) {
            owned.terminating = true;
        }
        assert_eq!(next_restore_action(&behind), RestoreAction::Wait);
        behind.owned.retain(|owned| owned.id.kind != kind);
        if pods {
            assert_eq!(next_restore_action(&behind), RestoreAction::Wait, "its pods end");
        }
        match kind {
            Kind::Deployment => behind.controllers = 0,
            _ => behind.speakers = 0,
        }
    }
    assert_eq!(
        next_restore_action(&behind),
        RestoreAction::LabelPods(vec![mk_pod("n1", true)])
    );
    behind.orphaned_component.clear();
    assert_eq!(next_restore_action(&behind), RestoreAction::RestoreObjects);
    behind.missing = false;
    assert_eq!(next_restore_action(&behind), RestoreAction::DeleteBackup);
}

#[test]
fn backup_contains_what_a_restore_needs() {
    let account = ObjectId::new(Kind::ServiceAccount, "metallb-system", "speaker");
    let theirs = json!({"metadata": {"labels": {"app": "metallb"}, "resourceVersion": "9"}, "secrets": []});
    let object = Backup::object(
        "metallb-system",
        &mk_metallb(&[]).workloads,
        &[(account.clone(), theirs)],
    );
    assert_eq!(
        object["metadata"]["ownerReferences"],
        Value::Null,
        "it outlives the stack"
    );
    let record = Backup::read(&object["data"]);
    assert!(record.contains_uid("uid of speaker") && !record.contains_uid("another"));
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

    // StackProgress went over the account: our labels and our owner go.
    let (_, recorded) = record.objects().next().unwrap();
    let now = json!({"app": "metallb", "app.kubernetes.io/managed-by": "lb-operator"});
    let patch = backup::restore_patch(recorded, &now);
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

#[test]
fn leftover_webhook_is_relaxed_without_an_adoption() {
    let mut seen = mk_input();
    seen.found = MetalLb {
        strict_webhook: true,
        ..MetalLb::default()
    };
    let due = next_action(&seen);
    assert_eq!(due, AdoptionAction::RelaxWebhook);
    assert_eq!(allowed_objects(&due, &seen), AllowedObjects::All);
    assert_eq!(report(&due, &seen), None, "nothing is adopted");
    // Without rbac.adoption, which is the default, the API server would refuse the change.
    seen.found.denied = vec!["patch validatingwebhookconfigurations".to_owned()];
    let due = next_action(&seen);
    assert_eq!(allowed_objects(&due, &seen), AllowedObjects::All);
    let report = report(&due, &seen).unwrap();
    assert!(report.blocked);
    assert!(
        report
            .message
            .starts_with("a webhook of a removed MetalLB refuses every change of pools")
            && report
                .message
                .contains("kubectl delete validatingwebhookconfiguration"),
        "{}",
        report.message
    );
    seen.found.strict_webhook = false;
    assert_eq!(next_action(&seen), AdoptionAction::None);
}

#[test]
fn restore_without_service_accounts_is_blocked_and_deletes_nothing() {
    let account = ObjectId::new(Kind::ServiceAccount, "metallb-system", "metallb-controller");
    let behind = RestoreInput {
        missing_accounts: vec![account.clone()],
        withdrawn: true,
        missing: true,
        ..RestoreInput::default()
    };
    let due = next_restore_action(&behind);
    assert_eq!(due, RestoreAction::Blocked(vec![account]));
    let report = AdoptionReport::of_restore(&due);
    assert!(report.blocked);
    assert!(
        report
            .message
            .contains("ServiceAccount metallb-system/metallb-controller"),
        "{}",
        report.message
    );
}
