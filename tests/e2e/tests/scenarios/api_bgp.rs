//! The kinds of BGP on a real API server: objects as in MetalLB's documentation are accepted, and each rule rejects an object
//! with MetalLB's words. Called by the scenario `api`.

use lb_e2e::harness::Harness;

use crate::api::assert_rejected;

pub(crate) fn bgp_objects_are_checked(harness: &Harness) -> anyhow::Result<()> {
    valid_objects_are_accepted(harness)?;
    invalid_peers_are_rejected(harness);
    invalid_advertisements_and_communities_are_rejected(harness);
    both_versions_of_peers_are_served(harness)?;
    harness
        .admin("kubectl delete bgppeers,bgpadvertisements,bfdprofiles,communities --all -n metallb-system")?;
    Ok(())
}

fn object(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: metallb.io/{version}\nkind: {kind}\nmetadata: {{name: tried, namespace: metallb-system}}\nspec: {spec}"
    )
}

fn peer(spec: &str) -> String {
    object("v1beta2", "BGPPeer", spec)
}

/// A peer with its AS numbers and address, and these fields.
fn peer_with(fields: &str) -> String {
    peer(&format!(
        "{{myASN: 64512, peerASN: 64513, peerAddress: 192.168.50.1, {fields}}}"
    ))
}

fn advertisement(spec: &str) -> String {
    object("v1beta1", "BGPAdvertisement", spec)
}

fn community(aliases: &str) -> String {
    object("v1beta1", "Community", &format!("{{communities: [{aliases}]}}"))
}

fn valid_objects_are_accepted(harness: &Harness) -> anyhow::Result<()> {
    for manifest in [
        peer("{myASN: 64512, peerASN: 64512, peerAddress: 172.30.0.3}"),
        peer("{myASN: 4200000001, dynamicASN: external, peerAddress: 'fc00:50::1', peerPort: 180}"),
        peer("{myASN: 64512, dynamicASN: internal, interface: eth1}"),
        peer_with("localASN: 64999, ebgpMultiHop: true, routerID: 10.10.10.10, sourceAddress: 192.168.50.11"),
        peer_with("holdTime: 9m0s, keepaliveTime: 0s, passwordSecret: {name: secret}, connectTime: 120s"),
        peer_with(
            "holdTime: 0s, password: secret, passwordSecret: {}, vrf: red, dualStackAddressFamily: true",
        ),
        peer_with("bfdProfile: fast, disableMP: false, nodeSelectors: [{matchLabels: {rack: frontend}}]"),
        advertisement("{}"),
        advertisement(
            "{communities: [NO_ADVERTISE, '65535:65282', 'large:64512:1:2'], localPref: 150, asPathPrepend: 3}",
        ),
        advertisement(
            "{aggregationLength: 26, aggregationLengthV6: 64, ipAddressPools: [a, b], peers: [tor], \
             ipAddressPoolSelectors: [{matchLabels: {zone: east}}], nodeSelectors: [{matchLabels: {rack: '1'}}]}",
        ),
        advertisement("{serviceSelectors: [{matchLabels: {app: web}}]}"),
        object(
            "v1beta1",
            "BFDProfile",
            "{receiveInterval: 380, transmitInterval: 270}",
        ),
        object(
            "v1beta1",
            "BFDProfile",
            "{detectMultiplier: 37, echoInterval: 35, echoMode: true, passiveMode: true, minimumTtl: 10}",
        ),
        community("{name: NO_ADVERTISE, value: '65535:65282'}, {name: big, value: 'large:1:2:3'}"),
    ] {
        // Some fields are immutable.
        harness.admin("kubectl delete bgppeer tried -n metallb-system --ignore-not-found")?;
        harness.apply(&manifest)?;
    }
    let lengths = harness.admin(
        "kubectl get bgpadvertisement tried -n metallb-system -o jsonpath='{.spec.aggregationLength} {.spec.aggregationLengthV6}'",
    )?;
    assert_eq!(lengths, "32 128", "defaults");
    Ok(())
}

fn invalid_peers_are_rejected(harness: &Harness) {
    let address = "peerAddress: 192.168.50.1";
    for (manifest, says) in [
        (
            peer(&format!("{{myASN: 0, peerASN: 1, {address}}}")),
            "missing local ASN",
        ),
        (peer(&format!("{{peerASN: 1, {address}}}")), "spec.myASN"),
        (
            peer(&format!("{{myASN: 4294967296, peerASN: 1, {address}}}")),
            "spec.myASN",
        ),
        (
            peer(&format!("{{myASN: 1, {address}}}")),
            "missing peer ASN and dynamicASN",
        ),
        (
            peer_with("dynamicASN: external"),
            "both peer ASN and dynamicASN specified",
        ),
        (
            peer(&format!("{{myASN: 1, dynamicASN: both, {address}}}")),
            "spec.dynamicASN",
        ),
        (
            peer("{myASN: 1, peerASN: 2}"),
            "peer has no Address or Interface specified",
        ),
        (
            peer_with("interface: eth0"),
            "peer has both Address and Interface specified",
        ),
        (
            peer("{myASN: 1, peerASN: 2, peerAddress: tor}"),
            "invalid BGPPeer address",
        ),
        (peer_with("sourceAddress: here"), "invalid source IP"),
        (peer_with("routerID: 'fc00::1'"), "invalid router ID"),
        (peer_with("holdTime: 2s"), "invalid hold time: must be 0 or >=3s"),
        (peer_with("holdTime: soon"), "spec.holdTime"),
        (
            peer_with("holdTime: 9s, keepaliveTime: 10s"),
            "invalid keepaliveTime",
        ),
        (
            peer_with("connectTime: 0s"),
            "connect time should be between 1 seconds to 65535",
        ),
        (
            peer_with("connectTime: 1500ms"),
            "connect time should contain a whole number of seconds",
        ),
        (
            peer_with("password: a, passwordSecret: {name: b}"),
            "can not have both password and secret ref set",
        ),
        (
            peer(&format!(
                "{{myASN: 1, peerASN: 1, ebgpMultiHop: true, {address}}}"
            )),
            "invalid ebgp-multihop parameter set for an ibgp peer",
        ),
        (
            peer(&format!(
                "{{myASN: 1, dynamicASN: internal, localASN: 2, {address}}}"
            )),
            "invalid localASN",
        ),
        (peer_with("peerPort: 16385"), "spec.peerPort"),
        (
            peer_with(&format!("password: {}", "x".repeat(81))),
            "spec.password",
        ),
        (
            object("v1beta1", "BFDProfile", "{receiveInterval: 9}"),
            "spec.receiveInterval",
        ),
        (
            object("v1beta1", "BFDProfile", "{detectMultiplier: 1}"),
            "spec.detectMultiplier",
        ),
        (
            object("v1beta1", "BFDProfile", "{minimumTtl: 255}"),
            "spec.minimumTtl",
        ),
    ] {
        assert_rejected(harness, &manifest, &[says]);
    }
}

fn invalid_advertisements_and_communities_are_rejected(harness: &Harness) {
    for (manifest, says) in [
        (advertisement("{aggregationLength: 33}"), "spec.aggregationLength"),
        (
            advertisement("{aggregationLengthV6: 0}"),
            "spec.aggregationLengthV6",
        ),
        (
            advertisement("{aggregationLength: 24, serviceSelectors: [{matchLabels: {app: web}}]}"),
            "serviceSelectors and aggregationLength are mutually exclusive",
        ),
        (advertisement("{communities: [a, a]}"), "duplicates"),
        (advertisement("{peers: [a, a]}"), "duplicates"),
        (advertisement("{asPathPrepend: 11}"), "spec.asPathPrepend"),
        (advertisement("{localPref: 4294967296}"), "spec.localPref"),
        (
            community("{name: a, value: '1:65536'}"),
            "invalid community value",
        ),
        (
            community("{name: a, value: 'big:1:2:3'}"),
            "expected community to be of format large",
        ),
        (
            community("{name: a, value: no-export}"),
            "invalid community value",
        ),
        (
            community("{name: a, value: '1:1'}, {name: a, value: '1:2'}"),
            "duplicate definition of community",
        ),
    ] {
        assert_rejected(harness, &manifest, &[says]);
    }
}

/// `v1beta1` is deprecated, has the same fields, and needs no webhook.
fn both_versions_of_peers_are_served(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl delete bgppeer tried -n metallb-system --ignore-not-found")?;
    let old = object(
        "v1beta1",
        "BGPPeer",
        "{myASN: 64512, peerASN: 64513, peerAddress: 172.30.0.3, peerPort: 0, keepaliveTime: 30s}",
    );
    harness.apply(&old)?;
    let show = "kubectl get bgppeers.v1beta2.metallb.io tried -n metallb-system -o jsonpath='{.apiVersion} {.spec.keepaliveTime}'";
    assert_eq!(harness.admin(show)?, "metallb.io/v1beta2 30s");
    let warning = harness.admin("kubectl get bgppeers.v1beta1.metallb.io -n metallb-system 2>&1")?;
    assert!(
        warning.contains("v1beta1 is deprecated, please use v1beta2"),
        "{warning}"
    );
    let change = "kubectl patch bgppeer tried -n metallb-system --type=merge -p '{\"spec\":{\"enableGracefulRestart\":true}}'";
    harness.admin(change)?;
    let back = change.replace(":true", ":false");
    let refused = harness.admin(&format!("{back} 2>&1 || true"))?;
    assert!(
        refused.contains("EnableGracefulRestart cannot be changed after creation"),
        "{refused}"
    );
    Ok(())
}
