//! The workload controllers and the kubelets of the simulated cluster.

use std::collections::BTreeSet;

use super::{Image, NO_IMAGE, SimCluster, SimNode, at, image_index};

impl SimCluster {
    /// One second of the workload controllers and the kubelets.
    pub(super) fn run_kubernetes(&mut self) {
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
            let lucky = self.rng.one_in(3) && !self.registry_down;
            let node = &mut self.nodes[index];
            node.pulled = images.is_some() && !bad && (node.pulled || (node.up && lucky));
        }
        let ready = self.available();
        let up = self.nodes_where(|node| node.up);
        self.restarting
            .retain(|node| !ready.contains(node) && up.contains(node));
    }

    /// Nodes with a ready speaker that stays.
    fn available(&self) -> BTreeSet<String> {
        let speakers = self.speakers.iter();
        speakers
            .filter(|pod| pod.pod.ready && pod.gone_at.is_none())
            .map(|pod| pod.pod.node.clone())
            .collect()
    }

    pub(super) fn nodes_where(&self, is_wanted: impl Fn(&SimNode) -> bool) -> BTreeSet<String> {
        let nodes = self.nodes.iter().filter(|node| is_wanted(node));
        nodes.map(|node| node.name.clone()).collect()
    }

    fn run_kubelets(&mut self) {
        let now = self.now;
        let images = self.images.clone();
        let up = self.nodes_where(|node| node.up);
        let broken = self.nodes_where(|node| node.broken);
        let registry_down = self.registry_down;
        for running in self.speakers.iter_mut().chain(&mut self.controllers) {
            let pod = &mut running.pod;
            pod.lost = !pod.node.is_empty() && !up.contains(&pod.node);
            if pod.lost {
                pod.ready = false;
                // The pod remains until its node is back.
                running.gone_at = running.gone_at.map(|_| now + 2);
                continue;
            }
            if broken.contains(&pod.node) {
                (pod.ready, pod.ready_since) = (false, None);
                continue;
            }
            if !pod.ready && pod.restarts == 0 && (registry_down || pod.problem.as_deref() == Some(NO_IMAGE))
            {
                pod.problem = registry_down.then(|| NO_IMAGE.to_owned());
                running.ready_at = now + 2;
                continue;
            }
            let age = now - running.started;
            let restarts = pod.restarts;
            let starts = now >= running.ready_at;
            match images
                .get(image_index(&pod.revision))
                .copied()
                .unwrap_or(Image::Good)
            {
                Image::Good => {
                    pod.ready = starts;
                    (pod.problem, pod.own_fault) = (None, false);
                }
                Image::NeverReplies => {
                    pod.ready = starts;
                    running.unanswered = starts && now >= running.ready_at + 6;
                }
                Image::CannotBePulled => pod.problem = starts.then(|| "ErrImagePull".to_owned()),
                Image::NeverReady => pod.ready = false,
                Image::Crashes => {
                    if starts {
                        pod.restarts = 1 + i32::try_from(age / 20).unwrap();
                        pod.problem = Some("CrashLoopBackOff".to_owned());
                        pod.own_fault = true;
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
            if pod.restarts > restarts {
                pod.restarted_at = Some(at(now));
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
            let selector = self.selector.clone();
            if !self.serves(&selector, &node.name) {
                let now = self.now;
                for pod in self.speakers.iter_mut().filter(|pod| pod.pod.node == node.name) {
                    pod.gone_at.get_or_insert(now + 1);
                }
                continue;
            }
            let absent = !self.speakers.iter().any(|pod| pod.pod.node == node.name);
            if absent && !self.refuses_pods && self.rng.one_in(2) {
                let template = self.speaker_template.clone();
                let mut pod = self.mk_pod("speaker", &node.name, &template);
                pod.pod.control_plane = node.control_plane;
                self.speakers.push(pod);
            }
        }
        if self.on_delete {
            return;
        }
        // RollingUpdate, maxUnavailable 1: unready pods of an old template are deleted first.
        // A node whose pod terminates or is missing counts as unavailable.
        let available = self.available();
        let away = self
            .nodes_where(|node| self.serves(&self.selector, &node.name))
            .difference(&available)
            .count();
        let template = self.speaker_template.clone();
        let now = self.now;
        let mut room = usize::from(away == 0);
        let mut unready = Vec::new();
        for pod in &mut self.speakers {
            if pod.pod.revision == template || pod.gone_at.is_some() {
                continue;
            }
            if !pod.pod.ready {
                pod.gone_at = Some(now + 2);
                unready.push(pod.pod.node.clone());
            } else if room > 0 {
                room -= 1;
                pod.gone_at = Some(now + 2);
                // It is away because of the operator, which has set the template.
                self.restarting.insert(pod.pod.node.clone());
            }
        }
        unready.iter().for_each(|node| self.disturb(node));
    }

    fn run_deployment_controller(&mut self) {
        let template = self.controller_template.clone();
        let now = self.now;
        let new = self.controllers.iter().filter(|pod| pod.pod.revision == template);
        let ready = new.clone().filter(|pod| pod.pod.ready).count();
        let (count, all) = (new.count(), self.controllers.len());
        if count < 2 && all < 3 && !self.refuses_pods {
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
}
