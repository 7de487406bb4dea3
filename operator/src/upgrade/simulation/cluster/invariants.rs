//! Invariants, checked in every second of a simulation.

use std::collections::BTreeSet;

use lb_crds::load_balancer_stack::UpgradeStep as Step;

use super::{Image, SimCluster, SimNode, SimPod, image_index, revision};

impl SimCluster {
    pub(super) fn check_invariants(&self) {
        let allowed = usize::try_from(self.settings.max_unavailable).unwrap();
        let healthy = self.state.upgrade.as_ref().map(|upgrade| &upgrade.healthy_nodes);
        let down = self
            .restarting
            .iter()
            .filter(|node| healthy.is_some_and(|healthy| healthy.contains(node)));
        let down = down.count();
        assert!(
            down <= allowed,
            "{down} speakers down because of the operator\n{}",
            self.history_text()
        );
        self.check_coverage();
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

    /// Each node that the spec serves has a ready speaker, unless there is a cause outside of the operator, or the
    /// operator replaces it.
    fn check_coverage(&self) {
        let ready: BTreeSet<_> = self
            .speakers
            .iter()
            .filter(|pod| pod.pod.ready)
            .map(|pod| pod.pod.node.as_str())
            .collect();
        let before = self.state.upgrade.as_ref().map(|upgrade| &upgrade.from);
        let before = before.or(self.state.last_good.as_ref());
        let target = revision(self.target);
        let calm = |node: &&SimNode| {
            node.up
                && !node.broken
                && self.now > node.disturbed_until
                && !self.restarting.contains(&node.name)
        };
        let served = |node: &&SimNode| {
            self.serves(&target.speaker, &node.name)
                && before.is_some_and(|before| self.serves(&before.speaker, &node.name))
        };
        for node in self.nodes.iter().filter(calm).filter(served) {
            let faulty_image = |pod: &SimPod| self.image(&pod.pod.revision) != Image::Good;
            let mut pods = self.speakers.iter().filter(|pod| pod.pod.node == node.name);
            let faulty = self.refuses_pods || self.registry_down || pods.any(faulty_image);
            assert!(
                faulty || ready.contains(node.name.as_str()),
                "node {} has no ready speaker\n{}",
                node.name,
                self.history_text()
            );
        }
    }
}
