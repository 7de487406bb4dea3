//! The control plane: etcd, API server, controller manager and scheduler on one machine.

use std::fmt::Write as _;

use super::layout::{self, Layout, Machine};
use super::machine;

/// Networks of Services, IPv4 first.
const SERVICE_NETWORKS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Networks of pods, IPv4 first; a node's part follows from its number.
pub(super) const POD_NETWORKS: &str = "10.244.0.0/16,fd00:10:244::/56";

/// A file on the control plane's disk: the API server is not started while it exists.
pub(super) const API_SERVER_STOPPED_FILE: &str = "apiserver.stopped";

/// Starts the control plane. It is ready when the API server answers `/readyz`.
pub(super) fn start(layout: &Layout) -> anyhow::Result<()> {
    let pki = layout.pki();
    let pki = pki.display();
    let disk = layout.disk(Machine::ControlPlane);
    let address = Machine::ControlPlane.address();
    let etcd = format!(
        "/usr/bin/etcd --data-dir={}/etcd --unsafe-no-fsync --log-level=warn --listen-client-urls=http://127.0.0.1:2379 \
         --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380",
        disk.display()
    );
    let apiserver = format!(
        "--etcd-servers=http://127.0.0.1:2379 --advertise-address={address} --service-cluster-ip-range={SERVICE_NETWORKS} \
         --client-ca-file={pki}/ca.crt --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key \
         --kubelet-client-certificate={pki}/kubelet-client.crt --kubelet-client-key={pki}/kubelet-client.key \
         --service-account-key-file={pki}/tokens.pub --service-account-signing-key-file={pki}/tokens.key \
         --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC --allow-privileged \
         --enable-admission-plugins=NodeRestriction --enable-aggregator-routing=true \
         --kubelet-preferred-address-types=InternalIP"
    );
    // A lost node becomes NotReady after 20 seconds, not 50, because many scenarios wait for it.
    let controller_manager = format!(
        "--kubeconfig={pki}/controller-manager.kubeconfig --service-account-private-key-file={pki}/tokens.key \
         --root-ca-file={pki}/ca.crt --use-service-account-credentials --cluster-cidr={POD_NETWORKS} --allocate-node-cidrs=false \
         --node-monitor-grace-period=20s --leader-elect=false --authentication-skip-lookup"
    );
    let scheduler =
        format!("--kubeconfig={pki}/scheduler.kubeconfig --leader-elect=false --authentication-skip-lookup");

    let mut script =
        "#!/usr/bin/env bash\n# The first process of the control plane.\nset -u\nhostname cp\n".to_owned();
    for (log, command) in [
        ("etcd", etcd),
        (
            "apiserver",
            format!(
                "[ ! -e {}/{API_SERVER_STOPPED_FILE} ] && {} {apiserver}",
                disk.display(),
                layout::binary("kube-apiserver").display()
            ),
        ),
        (
            "controller-manager",
            format!(
                "{} {controller_manager}",
                layout::binary("kube-controller-manager").display()
            ),
        ),
        (
            "scheduler",
            format!("{} {scheduler}", layout::binary("kube-scheduler").display()),
        ),
    ] {
        // A program that exits before the others are ready is started again, as a service manager would do.
        let log = layout.log(log);
        let _ = writeln!(
            script,
            "(until {command}; do sleep 0.2; done) >{} 2>&1 &",
            log.display()
        );
    }
    script.push_str("wait\n");
    machine::boot(layout, Machine::ControlPlane, &script)
}
