//! A node: containerd, kubelet and kube-proxy, with the CNI's bridge plugin.
//!
//! Its disk is a directory mounted at `/var`; its `/run` is a tmpfs, which is lost when the node is switched off.
//! Programs find their usual paths, and nodes do not see each other.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::layout::{self, Layout, Machine};
use super::server::POD_NETWORKS;
use super::{cgroup, machine, network, run};

/// Where containerd listens, inside the node.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Boots a node and imports `images` before its kubelet starts.
pub(super) fn start(layout: &Layout, number: usize, images: &[PathBuf]) -> anyhow::Result<()> {
    cgroup::create(&layout.cgroup(number))?;
    let node = Machine::Node(number);
    let name = node.name();
    let disk = layout.disk(node);
    for directory in ["var/lib/cni", "var/log/containers", "var/tmp", "cni"] {
        let path = disk.join(directory);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    let cni = disk.join("cni");
    layout.write(
        &format!("{name}/cni/10-lab.conflist"),
        &cni_config(number).to_string(),
    )?;
    let containerd = layout.write(
        &format!("{name}/containerd.toml"),
        &containerd_config(&cni, &layout.registries()),
    )?;
    let kubelet = layout.write(
        &format!("{name}/kubelet.json"),
        &kubelet_config(layout, number).to_string(),
    )?;
    let proxy = layout.write(
        &format!("{name}/kube-proxy.json"),
        &proxy_config(layout, &name).to_string(),
    )?;
    machine::boot(
        layout,
        node,
        &script(layout, node, &containerd, &kubelet, &proxy, images),
    )
}

/// Imports an image on a running node.
pub(super) fn load(layout: &Layout, number: usize, image: &Path) -> anyhow::Result<()> {
    let image = image.display().to_string();
    run(&mut machine::command(
        layout,
        Machine::Node(number),
        &import(&image),
    )?)?;
    Ok(())
}

fn import(image: &str) -> Vec<&str> {
    vec![
        "ctr",
        "--address",
        CONTAINERD_SOCKET,
        "--namespace",
        "k8s.io",
        "images",
        "import",
        image,
    ]
}

fn script(
    layout: &Layout,
    node: Machine,
    containerd: &Path,
    kubelet: &Path,
    proxy: &Path,
    images: &[PathBuf],
) -> String {
    let name = node.name();
    let log = |program: &str| layout.log(&format!("{name}-{program}")).display().to_string();
    let imports: String = images
        .iter()
        .map(|image| {
            format!(
                "{} >>{} 2>&1\n",
                import(&image.display().to_string()).join(" "),
                log("images")
            )
        })
        .collect();
    format!(
        "#!/usr/bin/env bash
# The first process of node {name}.
set -u
hostname {name}
mount --bind {var} /var
mount -t tmpfs -o mode=755 tmpfs /run
[ -L /var/run ] || ln -s /run /var/run
mkdir -p /run/containerd /run/lock /run/netns /var/log/pods
containerd --config {containerd} >{containerd_log} 2>&1 &
until ctr --address {CONTAINERD_SOCKET} version >/dev/null 2>&1; do sleep 0.1; done
{imports}{kubelet_binary} --config={kubelet} --kubeconfig={pki}/{name}.kubeconfig --hostname-override={name} \\
  --node-ip={address},{address6} --root-dir=/var/lib/kubelet --cert-dir=/var/lib/kubelet/pki >{kubelet_log} 2>&1 &
{proxy_binary} --config={proxy} >{proxy_log} 2>&1 &
wait
",
        var = layout.disk(node).join("var").display(),
        containerd = containerd.display(),
        containerd_log = log("containerd"),
        kubelet_binary = layout::binary("kubelet").display(),
        kubelet = kubelet.display(),
        pki = layout.pki().display(),
        address = node.address(),
        address6 = node.address6(),
        kubelet_log = log("kubelet"),
        proxy_binary = layout::binary("kube-proxy").display(),
        proxy = proxy.display(),
        proxy_log = log("kube-proxy"),
    )
}

fn cni_config(number: usize) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network::pod_network(number)}], [{"subnet": network::pod_network6(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd_config(cni: &Path, registries: &Path) -> String {
    // restrict_oom_score_adj: without the capability for it, containers start without the adjustment.
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "lab.local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        cni.display(),
        registries.display()
    )
}

fn kubelet_config(layout: &Layout, number: usize) -> serde_json::Value {
    let pki = layout.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file(&format!("n{number}.crt")),
        "tlsPrivateKeyFile": file(&format!("n{number}.key")),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", layout.cgroup(number)),
        // From v1.35 on, a kubelet refuses control groups of version 1 by default.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        // The disk is the host's, and its free space does not matter to the lab.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "imagefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.inodesFree": "0%",
        },
        "nodeStatusUpdateFrequency": "4s",
        // 0 means the kubelet's default, one minute.
        "syncFrequency": format!("{}s", layout.kubelet_sync_period.unwrap_or_default().as_secs()),
        "podCIDR": network::pod_network(number),
    })
}

fn proxy_config(layout: &Layout, name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": layout.pki().join("proxy.kubeconfig")},
        "hostnameOverride": name,
        "mode": "iptables",
        "clusterCIDR": POD_NETWORKS,
        // A namespace may not change the kernel's limits.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    })
}
