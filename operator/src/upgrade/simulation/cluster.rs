//! The simulated cluster: workload controllers, kubelets, images with faults, nodes that fail, return and join, and an
//! operator that is killed at random.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{Revision, UpgradeOutcome, UpgradeStep as Step};

use crate::upgrade::{
    ClusterSnapshot, ControllerSnapshot, FailedVerification, PodSnapshot, PrePullSnapshot, SpeakerSnapshot,
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

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) struct SimNode {
    name: String,
    pub(super) up: bool,
    control_plane: bool,
    pub(super) announced_services: usize,
    pulled: bool,
}

#[derive(Clone, Debug)]
pub(super) struct SimPod {
    pub(super) pod: PodSnapshot,
    started: i64,
    ready_at: i64,
    pub(super) gone_at: Option<i64>,
    /// When other nodes reported that it does not reply.
    unanswered_since: Option<i64>,
}

pub(super) struct SimCluster {
    rng: Rng,
    pub(super) now: i64,
    pub(super) nodes: Vec<SimNode>,
    pub(super) speakers: Vec<SimPod>,
    controllers: Vec<SimPod>,
    pub(super) speaker_template: String,
    on_delete: bool,
    /// When the DaemonSet controller observes the template.
    observed_at: i64,
    controller_template: String,
    pre_pull: Option<(String, i64)>,
    pub(super) images: Vec<Image>,
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

fn image_index(name: &str) -> usize {
    name.get(1..)
        .and_then(|rest| rest.parse().ok())
        .unwrap_or_default()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

impl SimCluster {
    pub(super) fn new(seed: u64, nodes: u64, images: &[Image]) -> Self {
        let mut cluster = Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            nodes: Vec::new(),
            speakers: Vec::new(),
            controllers: Vec::new(),
            speaker_template: "s0".to_owned(),
            on_delete: false,
            observed_at: 0,
            controller_template: "c0".to_owned(),
            pre_pull: None,
            images: images.to_vec(),
            target: 0,
            generation: 1,
            paused: false,
            settings: UpgradeSettings {
                needs_approval: false,
                approved_plan: None,
                soak_seconds: 20,
                max_unavailable: 1,
                progress_deadline_seconds: 120,
                rollback: true,
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
        cluster.restarts.clear();
        cluster
    }

    pub(super) fn join(&mut self) {
        let name = format!("n{}", self.nodes.len());
        let announced_services = self.rng.below(3);
        self.nodes.push(SimNode {
            control_plane: self.nodes.is_empty(),
            name,
            up: true,
            announced_services: usize::try_from(announced_services).unwrap(),
            pulled: false,
        });
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
            unanswered_since: None,
        }
    }

    /// One second of the workload controllers and the kubelets.
    fn run_kubernetes(&mut self) {
        let now = self.now;
        self.run_kubelets();
        self.speakers
            .retain(|pod| pod.gone_at.is_none_or(|gone| gone > now));
        self.controllers
            .retain(|pod| pod.gone_at.is_none_or(|gone| gone > now));
        if now >= self.observed_at {
            self.run_daemon_set_controller();
        }
        self.run_deployment_controller();
        let images = self.pre_pull.clone();
        for index in 0..self.nodes.len() {
            let bad = images
                .as_ref()
                .is_some_and(|(revision, _)| self.image(revision) == Image::CannotBePulled);
            let lucky = self.rng.one_in(3);
            let node = &mut self.nodes[index];
            node.pulled = images.is_some() && !bad && (node.pulled || (node.up && lucky));
        }
        let ready: BTreeSet<_> = self
            .speakers
            .iter()
            .filter(|pod| pod.pod.ready && pod.gone_at.is_none())
            .map(|pod| pod.pod.node.clone())
            .collect();
        let up: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|node| node.up)
            .map(|node| node.name.clone())
            .collect();
        self.restarting
            .retain(|node| !ready.contains(node) && up.contains(node));
    }

    fn run_kubelets(&mut self) {
        let now = self.now;
        let images = self.images.clone();
        let up: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|node| node.up)
            .map(|node| node.name.clone())
            .collect();
        for running in self.speakers.iter_mut().chain(&mut self.controllers) {
            let pod = &mut running.pod;
            pod.lost = !pod.node.is_empty() && !up.contains(&pod.node);
            if pod.lost {
                pod.ready = false;
                // The pod remains until its node is back.
                running.gone_at = running.gone_at.map(|_| now + 2);
                continue;
            }
            let age = now - running.started;
            let starts = now >= running.ready_at;
            match images
                .get(image_index(&pod.revision))
                .copied()
                .unwrap_or(Image::Good)
            {
                Image::Good => pod.ready = starts,
                Image::NeverReplies => {
                    pod.ready = starts;
                    if starts && now >= running.ready_at + 6 {
                        running.unanswered_since.get_or_insert(now);
                    }
                }
                Image::CannotBePulled => pod.problem = starts.then(|| "ErrImagePull".to_owned()),
                Image::NeverReady => pod.ready = false,
                Image::Crashes => {
                    if starts {
                        pod.restarts = 1 + i32::try_from(age / 20).unwrap();
                        pod.problem = Some("CrashLoopBackOff".to_owned());
                    }
                }
                Image::DiesAfter(seconds) => {
                    let alive = age - (running.ready_at - running.started);
                    pod.ready = starts && (alive < seconds || alive % 40 < 5);
                    if alive >= seconds {
                        pod.restarts = 1;
                    }
                }
            }
            pod.ready_since = if pod.ready {
                pod.ready_since.or(Some(at(now)))
            } else {
                None
            };
        }
    }

    fn run_daemon_set_controller(&mut self) {
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].clone();
            if !self.speakers.iter().any(|pod| pod.pod.node == node.name) && self.rng.one_in(2) {
                let template = self.speaker_template.clone();
                let mut pod = self.mk_pod("speaker", &node.name, &template);
                pod.pod.control_plane = node.control_plane;
                pod.pod.announced_services = node.announced_services;
                self.speakers.push(pod);
            }
        }
        if self.on_delete {
            return;
        }
        // RollingUpdate, maxUnavailable 1: unready pods of an old template are deleted first.
        let away = self.speakers.iter().filter(|pod| !pod.pod.ready).count();
        let template = self.speaker_template.clone();
        let now = self.now;
        let mut room = usize::from(away == 0);
        for pod in &mut self.speakers {
            if pod.pod.revision == template || pod.gone_at.is_some() {
                continue;
            }
            if !pod.pod.ready {
                pod.gone_at = Some(now + 2);
            } else if room > 0 {
                room -= 1;
                pod.gone_at = Some(now + 2);
            }
        }
    }

    fn run_deployment_controller(&mut self) {
        let template = self.controller_template.clone();
        let now = self.now;
        let new = self.controllers.iter().filter(|pod| pod.pod.revision == template);
        let ready = new.clone().filter(|pod| pod.pod.ready).count();
        let (count, all) = (new.count(), self.controllers.len());
        if count < 2 && all < 3 {
            let pod = self.mk_pod("controller", "", &template);
            self.controllers.push(pod);
        }
        let staying = self
            .controllers
            .iter()
            .filter(|pod| pod.gone_at.is_none() && pod.pod.ready)
            .count();
        let unready = self
            .controllers
            .iter()
            .any(|pod| pod.pod.revision != template && !pod.pod.ready);
        let surplus = staying > 2 || (ready > 0 && all > 2) || unready;
        if surplus
            && let Some(old) = self
                .controllers
                .iter_mut()
                .filter(|pod| pod.pod.revision != template && pod.gone_at.is_none())
                .min_by_key(|pod| pod.pod.ready)
        {
            old.gone_at = Some(now + 1);
        }
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
        let speakers = pods(&self.speakers);
        let complete = |pods: &[PodSnapshot], revision: &str| {
            pods.iter()
                .all(|pod| pod.lost || (pod.ready && pod.revision == revision && !pod.terminating))
        };
        let observed = self.now >= self.observed_at;
        let up = self.nodes.iter().filter(|node| node.up);
        ClusterSnapshot {
            target: revision(self.target),
            generation: self.generation,
            operator_version: "0.1.0".to_owned(),
            paused: self.paused,
            settings: self.settings.clone(),
            obstacle: None,
            ledger: Some("ledger".to_owned()),
            changed_addresses: Vec::new(),
            failed_verifications: self
                .speakers
                .iter()
                .filter(|pod| pod.pod.announced_services > 0 && !pod.pod.lost)
                .filter_map(|pod| {
                    Some(FailedVerification {
                        node: pod.pod.node.clone(),
                        message: format!("{} does not reply", pod.pod.node),
                        since: at(pod.unanswered_since?),
                    })
                })
                .collect(),
            crds_applied: true,
            crds_refused: None,
            rbac_applied: true,
            rollback_available: true,
            controllers: ControllerSnapshot {
                template: Some(self.controller_template.clone()),
                settled: controllers.len() == 2 && complete(&controllers, &self.controller_template),
                has_leader: true,
                pods: controllers,
            },
            speakers: SpeakerSnapshot {
                template: Some(self.speaker_template.clone()),
                on_delete: self.on_delete,
                observed,
                settled: observed
                    && speakers.len() == self.nodes.len()
                    && complete(&speakers, &self.speaker_template),
                desired: i32::try_from(self.nodes.len()).unwrap(),
                pods: speakers,
            },
            pre_pull: self.pre_pull.as_ref().map(|(revision, _)| PrePullSnapshot {
                revision: revision.clone(),
                desired: i32::try_from(up.clone().count()).unwrap(),
                done: i32::try_from(up.filter(|node| node.pulled).count()).unwrap(),
                failed: (self.image(revision) == Image::CannotBePulled)
                    .then(|| "n0: ErrImagePull".to_owned()),
            }),
        }
    }

    /// One reconciliation, which may be killed at any point.
    fn run_operator(&mut self) {
        if self.chaos && self.rng.one_in(6) {
            return;
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
            TemplateSource::Target => new.to_owned(),
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
        if speaker != self.speaker_template || actions.on_delete != self.on_delete {
            self.observed_at = self.now + 1 + i64::try_from(self.rng.below(2)).unwrap();
        }
        self.speaker_template = speaker;
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
                self.restarting.insert(restart.node.clone());
            }
        }
    }

    fn check_invariants(&self) {
        let allowed = usize::try_from(self.settings.max_unavailable).unwrap();
        assert!(
            self.restarting.len() <= allowed,
            "{} speakers down because of the operator\n{}",
            self.restarting.len(),
            self.history_text()
        );
        let controller = image_index(&self.controller_template);
        // A node that returns may run a revision of an earlier upgrade.
        let Some(upgrade) = self.state.upgrade.as_ref() else {
            return;
        };
        if !matches!(
            upgrade.step,
            Step::Canary | Step::Soak | Step::Speakers | Step::Verify
        ) {
            return;
        }
        for pod in self.speakers.iter().filter(|pod| !pod.pod.lost) {
            assert!(
                pod.pod.revision != upgrade.to.speaker || image_index(&pod.pod.revision) <= controller,
                "speaker {} ahead of controller {controller}\n{}",
                pod.pod.revision,
                self.history_text()
            );
        }
    }

    pub(super) fn history_text(&self) -> String {
        let upgrade = self.state.upgrade.as_ref();
        format!(
            "{}\nat {} in {:?}, templates {} {}, on_delete {}, pods {:#?}",
            self.log.join("\n"),
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
        self.target = target;
        self.generation += 1;
    }

    /// No upgrade is in progress, and the last good revision runs on every reachable node.
    pub(super) fn is_at_rest(&self) -> bool {
        let good = self.state.last_good.clone().unwrap_or_default();
        self.state.upgrade.is_none()
            && !self.on_delete
            && self.controller_template == good.controller
            && self.speakers.len() == self.nodes.len()
            && self
                .speakers
                .iter()
                .all(|pod| pod.pod.lost || (pod.pod.revision == good.speaker && pod.pod.ready))
    }

    pub(super) fn outcomes(&self) -> Vec<UpgradeOutcome> {
        self.state.history.iter().map(|record| record.outcome).collect()
    }
}
