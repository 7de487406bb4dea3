//! The simulated cluster: images with faults, nodes that fail, return and join, and an operator that is killed at random.

mod invariants;
mod kubernetes;

use std::collections::BTreeSet;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{OnFailure, Revision, UpgradeOutcome, UpgradeStep as Step};

use super::tenants::Tenants;
use crate::upgrade::{
    ClusterSnapshot, ControllerSnapshot, NodeSnapshot, PodSnapshot, PrePullSnapshot, SpeakerSnapshot,
    StepActions, TemplateSource, UpgradeSettings, UpgradeState, advance, step_actions,
};

/// Fault of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Image {
    Good,
    CannotBePulled,
    Crashes,
    NeverReplies,
    DiesAfter(i64),
    NeverReady,
}

/// Deterministic random numbers (xorshift).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) struct SimNode {
    pub(super) name: String,
    pub(super) up: bool,
    /// No speaker becomes ready there, whatever its revision.
    pub(super) broken: bool,
    /// The network suppresses its replies.
    pub(super) muted: bool,
    /// Until when its speaker may be away for a reason that is not the operator.
    disturbed_until: i64,
    control_plane: bool,
    pulled: bool,
}

#[derive(Clone, Debug)]
pub(super) struct SimPod {
    pub(super) pod: PodSnapshot,
    started: i64,
    ready_at: i64,
    pub(super) gone_at: Option<i64>,
    /// Whether it does not reply to other nodes.
    unanswered: bool,
}

pub(super) struct SimCluster {
    seed: u64,
    rng: Rng,
    pub(super) now: i64,
    pub(super) nodes: Vec<SimNode>,
    pub(super) speakers: Vec<SimPod>,
    controllers: Vec<SimPod>,
    pub(super) speaker_template: String,
    /// The revision whose node selector the template has.
    selector: String,
    on_delete: bool,
    /// When the DaemonSet controller observes the template.
    observed_at: i64,
    controller_template: String,
    pre_pull: Option<(String, i64)>,
    pub(super) images: Vec<Image>,
    /// Nodes that each revision does not select.
    pub(super) unserved: Vec<BTreeSet<String>>,
    /// Whether admission refuses all pods.
    pub(super) refuses_pods: bool,
    /// Whether no image can be pulled.
    pub(super) registry_down: bool,
    pub(super) tenants: Tenants,
    pub(super) target: usize,
    pub(super) generation: i64,
    pub(super) paused: bool,
    pub(super) settings: UpgradeSettings,
    pub(super) state: UpgradeState,
    uids: u64,
    pub(super) chaos: bool,
    /// Nodes whose speaker the operator deleted, until a replacement is ready.
    restarting: BTreeSet<String>,
    /// Restarts by the operator: node and previous revision.
    pub(super) restarts: Vec<(String, String)>,
    log: Vec<String>,
}

pub(super) fn revision(number: usize) -> Revision {
    Revision {
        version: format!("0.1.{number}"),
        revision: format!("r{number}"),
        controller: format!("c{number}"),
        speaker: format!("s{number}"),
    }
}

/// Problem of a pod whose image cannot be pulled.
const NO_IMAGE: &str = "ErrImagePull";
/// Seconds in which a speaker is back after a fault that is not the operator's.
const GRACE: i64 = 30;

fn image_index(name: &str) -> usize {
    name.get(1..)
        .and_then(|rest| rest.parse().ok())
        .unwrap_or_default()
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

impl SimCluster {
    pub(super) fn new(seed: u64, nodes: u64, images: &[Image]) -> Self {
        let mut cluster = Self {
            seed,
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            nodes: Vec::new(),
            speakers: Vec::new(),
            controllers: Vec::new(),
            speaker_template: "s0".to_owned(),
            selector: "s0".to_owned(),
            on_delete: false,
            observed_at: 0,
            controller_template: "c0".to_owned(),
            pre_pull: None,
            images: images.to_vec(),
            unserved: vec![BTreeSet::new(); images.len()],
            refuses_pods: false,
            registry_down: false,
            tenants: Tenants::new(seed),
            target: 0,
            generation: 1,
            paused: false,
            settings: UpgradeSettings {
                needs_approval: false,
                approved_plan: None,
                soak_seconds: 20,
                max_unavailable: 1,
                progress_deadline_seconds: 120,
                on_failure: OnFailure::Rollback,
                skip_nodes: Vec::new(),
            },
            state: UpgradeState::default(),
            uids: 0,
            chaos: false,
            restarting: BTreeSet::new(),
            restarts: Vec::new(),
            log: Vec::new(),
        };
        for _ in 0..nodes {
            cluster.join();
        }
        cluster.run_until(200, |cluster| cluster.state.last_good.is_some());
        assert_eq!(
            cluster.state.last_good,
            Some(revision(0)),
            "the first install is good"
        );
        cluster.run_until(60, Self::is_at_rest);
        cluster.restarts.clear();
        cluster
    }

    pub(super) fn join(&mut self) {
        let name = format!("n{}", self.nodes.len());
        let announced_services = self.rng.below(3);
        for _ in 0..announced_services {
            self.tenants.add_service(&name, self.now);
        }
        self.nodes.push(SimNode {
            control_plane: self.nodes.is_empty(),
            name,
            up: true,
            broken: false,
            muted: false,
            disturbed_until: self.now + GRACE,
            pulled: false,
        });
    }

    /// Powers a node on or off.
    pub(super) fn toggle(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.up = !node.up;
        node.disturbed_until = self.now + GRACE;
    }

    /// From now on no speaker becomes ready on a node, or they do again.
    pub(super) fn break_or_mend(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.broken = !node.broken;
        node.disturbed_until = self.now + GRACE;
    }

    /// A user deletes a speaker.
    pub(super) fn delete_speaker(&mut self, index: usize) {
        let now = self.now;
        let Some(pod) = self.speakers.get_mut(index) else {
            return;
        };
        pod.gone_at.get_or_insert(now + 1);
        let name = pod.pod.node.clone();
        self.disturb(&name);
    }

    /// From now on, speakers may be away for a while.
    pub(super) fn disturb_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.nodes[index].disturbed_until = self.now + GRACE;
        }
    }

    fn disturb(&mut self, name: &str) {
        let until = self.now + GRACE;
        let mut nodes = self.nodes.iter_mut();
        if let Some(node) = nodes.find(|node| node.name == name) {
            node.disturbed_until = until;
        }
    }

    /// Whether a revision has a speaker on a node.
    fn serves(&self, revision: &str, node: &str) -> bool {
        let unserved = self.unserved.get(image_index(revision));
        unserved.is_none_or(|unserved| !unserved.contains(node))
    }

    fn image(&self, revision: &str) -> Image {
        self.images
            .get(image_index(revision))
            .copied()
            .unwrap_or(Image::Good)
    }

    fn mk_pod(&mut self, kind: &str, node: &str, revision: &str) -> SimPod {
        self.uids += 1;
        let name = format!("{kind}-{}", self.uids);
        SimPod {
            pod: PodSnapshot {
                uid: name.clone(),
                name,
                node: node.to_owned(),
                revision: revision.to_owned(),
                ..PodSnapshot::default()
            },
            started: self.now,
            ready_at: self.now + 1 + i64::try_from(self.rng.below(4)).unwrap(),
            gone_at: None,
            unanswered: false,
        }
    }

    /// As the controllers of Kubernetes report them.
    fn refused_pods(&self) -> Vec<String> {
        let of_template = |pod: &&SimPod| pod.pod.revision == self.controller_template;
        let refused = |is_refused: bool, workload: &str| {
            let refused = self.refuses_pods && is_refused;
            refused.then(|| format!("{workload} pods are refused: exceeded quota"))
        };
        let has_speaker = |node: &SimNode| self.speakers.iter().any(|pod| pod.pod.node == node.name);
        let mut served = self
            .nodes
            .iter()
            .filter(|node| self.serves(&self.selector, &node.name));
        let controller = refused(
            self.controllers.iter().filter(of_template).count() < 2,
            "controller",
        );
        let speaker = refused(!served.all(has_speaker), "speaker");
        controller.into_iter().chain(speaker).collect()
    }

    pub(super) fn snapshot(&self) -> ClusterSnapshot {
        let pods = |running: &[SimPod]| -> Vec<PodSnapshot> {
            let pod = |running: &SimPod| PodSnapshot {
                terminating: running.gone_at.is_some(),
                ..running.pod.clone()
            };
            running.iter().map(pod).collect()
        };
        let controllers = pods(&self.controllers);
        let mut speakers = pods(&self.speakers);
        let announced = self.tenants.observer().announced_services();
        for pod in &mut speakers {
            pod.announced_services = announced.get(pod.node.as_str()).copied().unwrap_or_default();
        }
        let complete = |pods: &[PodSnapshot], revision: &str| {
            pods.iter()
                .all(|pod| pod.lost || (pod.ready && pod.revision == revision && !pod.terminating))
        };
        let target = revision(self.target);
        let before = match (&self.state.upgrade, &self.state.last_good) {
            (Some(upgrade), _) => upgrade.from.speaker.clone(),
            (None, Some(good)) => good.speaker.clone(),
            (None, None) => target.speaker.clone(),
        };
        let node = |node: &SimNode| NodeSnapshot {
            reachable: node.up,
            served: self.serves(&target.speaker, &node.name),
            served_before: self.serves(&before, &node.name),
        };
        let served = self
            .nodes
            .iter()
            .filter(|node| self.serves(&self.selector, &node.name));
        ClusterSnapshot {
            generation: self.generation,
            operator_version: "0.1.0".to_owned(),
            paused: self.paused,
            settings: self.settings.clone(),
            obstacle: None,
            observes: true,
            addresses_at_risk: Vec::new(),
            changed_addresses: self.tenants.observer().changed_addresses(at(self.now)),
            failed_verifications: self.tenants.observer().failed_verifications(at(self.now)),
            failing_writes: Vec::new(),
            refused_pods: self.refused_pods(),
            announces: speakers.iter().any(|pod| pod.ready && pod.is_active()),
            nodes: self
                .nodes
                .iter()
                .map(|sim| (sim.name.clone(), node(sim)))
                .collect(),
            crds_applied: true,
            crds_refused: None,
            rbac_applied: true,
            rollback_available: true,
            controllers: ControllerSnapshot {
                template: Some(self.controller_template.clone()),
                version: Some(revision(image_index(&self.controller_template)).version),
                settled: controllers.len() == 2 && complete(&controllers, &self.controller_template),
                has_leader: true,
                pods: controllers,
            },
            speakers: SpeakerSnapshot {
                template: Some(self.speaker_template.clone()),
                on_delete: self.on_delete,
                observed: self.now >= self.observed_at,
                desired: i32::try_from(served.count()).unwrap(),
                pods: speakers,
            },
            pre_pull: self
                .pre_pull
                .as_ref()
                .map(|(revision, _)| self.pull_progress(revision)),
            target,
        }
    }

    fn pull_progress(&self, revision: &str) -> PrePullSnapshot {
        let speaker = format!("s{}", image_index(revision));
        let (mut done, mut pending) = (0, std::collections::BTreeMap::new());
        for node in self
            .nodes
            .iter()
            .filter(|node| node.up && self.serves(&speaker, &node.name))
        {
            if node.pulled {
                done += 1;
            } else {
                pending.insert(node.name.clone(), Some(NO_IMAGE.to_owned()));
            }
        }
        PrePullSnapshot {
            revision: revision.to_owned(),
            done,
            pending,
            ..PrePullSnapshot::default()
        }
    }

    /// One reconciliation, which may be killed at any point.
    fn run_operator(&mut self) {
        if self.chaos && self.rng.one_in(6) {
            return;
        }
        if self.chaos && self.rng.one_in(60) {
            // Another operator takes over, without the observations of this one.
            self.tenants.restart_observer(self.now);
        }
        let step = self.state.upgrade.as_ref().map(|upgrade| upgrade.step);
        if step.is_none_or(|step| step <= Step::Rbac) {
            self.tenants.set_baseline();
        }
        let snapshot = self.snapshot();
        let (next, events) = advance(&self.state, &snapshot, at(self.now));
        if self.chaos && self.rng.one_in(8) {
            // Killed before the status was written.
            return;
        }
        for events in events {
            self.log
                .push(format!("{:>5} {}: {}", self.now, events.reason, events.note));
        }
        if self.state.upgrade.is_none() && next.upgrade.is_some() {
            self.tenants.restart_observer(self.now);
        }
        self.state = next;
        if self.chaos && self.rng.one_in(8) {
            // Killed before the actions were applied.
            return;
        }
        if !self.paused {
            let actions = step_actions(&self.state, &snapshot, at(self.now));
            self.apply(&actions, &snapshot);
        }
    }

    fn apply(&mut self, actions: &StepActions, snapshot: &ClusterSnapshot) {
        let previous = self.state.upgrade.as_ref().map(|upgrade| upgrade.from.clone());
        let previous = previous
            .or(self.state.last_good.clone())
            .unwrap_or(snapshot.target.clone());
        let template = |source, previous: &str, new: &str, has: &str| match source {
            TemplateSource::Previous => previous.to_owned(),
            TemplateSource::Target | TemplateSource::Canary => new.to_owned(),
            TemplateSource::Current => has.to_owned(),
        };
        let new = &snapshot.target;
        self.controller_template = template(
            actions.controller,
            &previous.controller,
            &new.controller,
            &self.controller_template,
        );
        let speaker = template(
            actions.speaker,
            &previous.speaker,
            &new.speaker,
            &self.speaker_template,
        );
        let selector = template(actions.speaker, &previous.speaker, &new.speaker, &self.selector);
        let selector = if actions.speaker == TemplateSource::Canary {
            previous.speaker.clone()
        } else {
            selector
        };
        if selector != self.selector
            || speaker != self.speaker_template
            || actions.on_delete != self.on_delete
        {
            self.observed_at = self.now + 1 + i64::try_from(self.rng.below(2)).unwrap();
        }
        (self.speaker_template, self.selector) = (speaker, selector);
        self.on_delete = actions.on_delete;
        match (&self.pre_pull, actions.pre_pull) {
            (None, true) => self.pre_pull = Some((new.revision.clone(), self.now)),
            (Some((revision, _)), true) if *revision != new.revision => self.pre_pull = None,
            (Some(_), false) => self.pre_pull = None,
            _ => {}
        }
        for restart in &actions.restarts {
            let gone = self.now + 1 + i64::try_from(self.rng.below(2)).unwrap();
            if let Some(pod) = self.speakers.iter_mut().find(|pod| pod.pod.uid == restart.uid) {
                pod.gone_at = Some(gone);
                self.restarts
                    .push((restart.node.clone(), pod.pod.revision.clone()));
                if pod.pod.ready {
                    self.restarting.insert(restart.node.clone());
                } else {
                    self.disturb(&restart.node);
                }
            }
        }
    }

    pub(super) fn history_text(&self) -> String {
        let upgrade = self.state.upgrade.as_ref();
        format!(
            "{}\nseed {} at {} in {:?}, templates {} {}, on_delete {}, pods {:#?}",
            self.log.join("\n"),
            self.seed,
            self.now,
            upgrade,
            self.controller_template,
            self.speaker_template,
            self.on_delete,
            self.speakers.iter().map(|pod| &pod.pod).collect::<Vec<_>>(),
        )
    }

    pub(super) fn advance_second(&mut self) {
        self.now += 1;
        self.run_kubernetes();
        let unanswered = self.speakers.iter().filter(|pod| pod.unanswered && pod.pod.ready);
        let mut unanswered: BTreeSet<_> = unanswered.map(|pod| pod.pod.node.clone()).collect();
        unanswered.extend(self.nodes_where(|node| node.muted));
        self.tenants.verify(&unanswered, self.now);
        self.run_operator();
        self.check_invariants();
    }

    pub(super) fn run_until(&mut self, limit: i64, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while self.now < end {
            self.advance_second();
            if done(self) {
                return;
            }
        }
        panic!("not done after {limit} seconds\n{}", self.history_text());
    }

    pub(super) fn ask_for(&mut self, target: usize) {
        // A node that the former target does not serve may have no speaker yet.
        let former = revision(self.target).speaker;
        let names = self.nodes.iter().map(|node| node.name.clone());
        let unserved: Vec<_> = names.filter(|name| !self.serves(&former, name)).collect();
        unserved.iter().for_each(|name| self.disturb(name));
        self.target = target;
        self.generation += 1;
    }

    /// No upgrade is in progress, and the last good revision runs on every reachable node.
    pub(super) fn is_at_rest(&self) -> bool {
        let good = self.state.last_good.clone().unwrap_or_default();
        self.state.upgrade.is_none()
            && !self.on_delete
            && self.controller_template == good.controller
            && self
                .nodes
                .iter()
                .filter(|node| node.up && !node.broken)
                .all(|node| {
                    let pod = self.speakers.iter().find(|pod| pod.pod.node == node.name);
                    let runs = pod.is_some_and(|pod| pod.pod.revision == good.speaker && pod.pod.ready);
                    runs == self.serves(&good.speaker, &node.name)
                })
    }

    pub(super) fn outcomes(&self) -> Vec<UpgradeOutcome> {
        self.state.history.iter().map(|record| record.outcome).collect()
    }
}
