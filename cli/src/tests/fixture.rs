//! Constructed clusters, as YAML.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::why::{self, Why};

/// When the snapshot is taken.
const NOW: &str = "2026-05-01T12:00:00Z";
/// Five hours before.
pub(crate) const EARLIER: &str = "2026-05-01T07:00:00Z";

/// A stack in namespace `metallb-system` that runs on three nodes.
pub(crate) fn cluster() -> Snapshot {
    let mut snapshot = Snapshot {
        now: NOW.parse::<Timestamp>().unwrap(),
        ..Snapshot::default()
    };
    add(
        &mut snapshot,
        "
kind: LoadBalancerStack
metadata: {name: default}
spec: {}
status: {phase: Ready, version: 0.1.0, operatorVersion: 0.1.0, controller: 2/2, speakers: 3/3}
---
kind: Namespace
metadata: {name: default}
---
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
kind: Pod
metadata: {name: controller-0, namespace: metallb-system, labels: {app: metallb, component: controller}}
spec: {containers: [{name: controller, image: 'r/controller:0.1.0'}], nodeName: n1}
status: {conditions: [{type: Ready, status: 'True'}]}
",
    );
    for (number, name) in ["n1", "n2", "n3"].into_iter().enumerate() {
        let address = format!("192.168.50.{}", 21 + number);
        add_value(
            &mut snapshot,
            json!({
                "kind": "Node",
                "metadata": {"name": name, "uid": format!("uid-{name}")},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": address}],
                },
            }),
        );
        speaker(&mut snapshot, name, true);
    }
    snapshot
}

/// The pod of a speaker.
pub(crate) fn speaker(snapshot: &mut Snapshot, node: &str, ready: bool) {
    add_value(
        snapshot,
        json!({
            "kind": "Pod",
            "metadata": {
                "name": format!("speaker-{node}"),
                "namespace": "metallb-system",
                "labels": {"app": "metallb", "component": "speaker"},
            },
            "spec": {"nodeName": node, "containers": [{"name": "speaker", "image": "r/speaker:0.1.0"}]},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }),
    );
}

/// A pool in the stack's namespace.
pub(crate) fn pool(snapshot: &mut Snapshot, name: &str, addresses: &str, spec: &str) {
    add(
        snapshot,
        &format!(
            "kind: IPAddressPool\nmetadata: {{name: {name}, namespace: metallb-system}}\nspec: {{addresses: \
             ['{addresses}']{spec}}}"
        ),
    );
}

/// An L2Advertisement in the stack's namespace.
pub(crate) fn advertisement(snapshot: &mut Snapshot, name: &str, spec: &str) {
    add(
        snapshot,
        &format!(
            "kind: L2Advertisement\nmetadata: {{name: {name}, namespace: metallb-system}}\nspec: {{{spec}}}"
        ),
    );
}

/// A load balancer Service; `metadata` and `spec` are more fields, each after a comma.
pub(crate) fn service(snapshot: &mut Snapshot, key: &str, address: Option<&str>, metadata: &str, spec: &str) {
    let (namespace, name) = key.split_once('/').unwrap();
    let status = address.map_or_else(String::new, |address| {
        format!(
            "status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}, conditions: [{{type: \
             lb-operator.io/AddressAssigned, status: 'True', reason: Assigned, message: '', lastTransitionTime: \
             '{EARLIER}'}}, {{type: lb-operator.io/Announced, status: 'True', reason: Announced, message: '', \
             lastTransitionTime: '{EARLIER}'}}]}}"
        )
    });
    add(
        snapshot,
        &format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: {namespace}, uid: uid-{name}, creationTimestamp: \
             '{EARLIER}'{metadata}}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], \
             ports: [{{port: 80, protocol: TCP}}], selector: {{app: {name}}}, externalTrafficPolicy: \
             Cluster{spec}}}\n{status}"
        ),
    );
}

/// Ready endpoints of a Service on these nodes.
pub(crate) fn endpoints(snapshot: &mut Snapshot, key: &str, nodes: &[&str]) {
    let (namespace, name) = key.split_once('/').unwrap();
    let endpoints: Vec<_> = nodes
        .iter()
        .map(|node| json!({"addresses": ["10.0.0.1"], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    add_value(
        snapshot,
        json!({
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-abc"),
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
        }),
    );
}

/// The status of an announced Service; `more` are more fields of the status, as YAML lines.
pub(crate) fn announced(snapshot: &mut Snapshot, key: &str, address: &str, node: &str, more: &str) {
    let (namespace, name) = key.split_once('/').unwrap();
    add(
        snapshot,
        &format!(
            "kind: ServiceL2Status\nmetadata: {{name: l2-{name}, namespace: metallb-system}}\nspec: {{}}\nstatus:\n  \
             node: '{node}'\n  serviceName: {name}\n  serviceNamespace: {namespace}\n  address: {address}\n{more}"
        ),
    );
}

/// The condition `Verified` with its field.
pub(crate) fn verified(answered: bool) -> String {
    format!(
        "  verifiedBy: n2\n  conditions:\n  - {{type: Verified, status: '{}', reason: X, message: '', \
         lastTransitionTime: '{EARLIER}'}}\n",
        if answered { "True" } else { "False" }
    )
}

/// Adds objects.
pub(crate) fn add(snapshot: &mut Snapshot, yaml: &str) {
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document).unwrap();
        add_value(snapshot, value);
    }
}

/// Adds an object.
pub(crate) fn add_value(snapshot: &mut Snapshot, mut object: Value) {
    fn read<T: DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).expect("a valid object")
    }
    let kind = object["kind"].as_str().unwrap().to_owned();
    let core = ["Service", "Node", "Pod", "Namespace"].contains(&kind.as_str());
    let version = match kind.as_str() {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "LoadBalancerStack" => "lb-operator.io/v1alpha1",
        "BGPPeer" => "metallb.io/v1beta2",
        _ if core => "v1",
        _ => "metallb.io/v1beta1",
    };
    object["apiVersion"] = json!(version);
    match kind.as_str() {
        "Service" => snapshot.services.push(read(object)),
        "Node" => snapshot.nodes.push(read(object)),
        "Pod" => snapshot.pods.push(read(object)),
        "Namespace" => snapshot.namespaces.push(read(object)),
        "EndpointSlice" => snapshot.slices.push(read(object)),
        "LoadBalancerStack" => snapshot.stacks.push(read(object)),
        "IPAddressPool" => snapshot.pools.push(read(object)),
        "L2Advertisement" => snapshot.l2_advertisements.push(read(object)),
        "BGPAdvertisement" => snapshot.bgp_advertisements.push(read(object)),
        "BGPPeer" => snapshot.bgp_peers.push(read(object)),
        "ServiceL2Status" => snapshot.statuses.push(read(object)),
        "ConfigurationState" => snapshot.states.push(read(object)),
        other => panic!("unexpected kind {other}"),
    }
}

/// The text of a report without colors, and its verdict.
pub(crate) fn plain(report: &impl Report) -> String {
    let text = anstream::adapter::strip_str(&report.text(false)).to_string();
    let problems = report.has_problems();
    format!("{text}problems: {problems}\n")
}

/// The explanation of a Service.
pub(crate) fn why_of(snapshot: &Snapshot, key: &str) -> Why {
    let (namespace, name) = key.split_once('/').unwrap();
    let key = lb_runtime::ObjectKey::new(namespace, name);
    let service: &Service = snapshot.service(&key).expect("the Service");
    why::explain(&Cluster::new(snapshot), service)
}

/// The explanation of a Service as text.
pub(crate) fn why_text(snapshot: &Snapshot, key: &str) -> String {
    plain(&why_of(snapshot, key))
}
