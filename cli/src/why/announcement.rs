//! From an address to the reply on the LAN.

use std::net::IpAddr;

use lb_crds::names::{ADDRESS_CONFLICT, ANNOUNCED, STACK};
use lb_runtime::text::list_first;
use lb_speaker::reasons::UnannouncedReason;
use serde_json::json;

use super::{Step, Subject, advertised, endpoints, nodes};
use crate::docs;
use crate::remedy::{Remedy, patch};
use crate::text::{Verdict, age};

/// The steps of one address; `several` if the Service has another one.
pub(super) fn steps(subject: &Subject<'_>, address: IpAddr, several: bool) -> Vec<Step> {
    let cluster = subject.cluster;
    let mut steps = Vec::new();
    let by_bgp = cluster.is_advertised_by_bgp(address);
    match cluster.eligibility(address) {
        None => steps.push(Step::new(
            "advertised",
            Verdict::Unknown,
            format!("the address {address} is not in the status of the Service"),
        )),
        Some(Err(reason)) => steps.extend(unannounced(subject, address, &reason, by_bgp)),
        Some(Ok(eligibility)) => {
            steps.push(advertised::step(subject, address, None));
            steps.push(endpoints::step(subject));
            steps.push(nodes::eligible(&eligibility, owner_of(subject, address)));
            steps.extend(owner(subject, address));
        }
    }
    if by_bgp {
        steps.push(bgp(subject));
    }
    if several {
        for step in &mut steps {
            step.text = format!("{address}: {}", step.text);
        }
    }
    steps
}

/// The steps up to the one that stops the announcement.
fn unannounced(
    subject: &Subject<'_>,
    address: IpAddr,
    reason: &UnannouncedReason,
    by_bgp: bool,
) -> Vec<Step> {
    let rest = |names: &[&'static str]| names.iter().map(|name| Step::skipped(name)).collect::<Vec<_>>();
    match reason {
        UnannouncedReason::NoAdvertisement { .. } | UnannouncedReason::ServiceNotSelected { .. }
            if by_bgp =>
        {
            let text = "by BGP only: no L2Advertisement announces it";
            vec![Step::ok("advertised", text), endpoints::step(subject)]
        }
        UnannouncedReason::NoPool
        | UnannouncedReason::NoAdvertisement { .. }
        | UnannouncedReason::ServiceNotSelected { .. }
        | UnannouncedReason::SharedWithServiceSelectors { .. } => {
            let mut steps = vec![advertised::step(subject, address, Some(reason))];
            steps.extend(rest(&["endpoints", "nodes", "owner", "answers"]));
            steps
        }
        UnannouncedReason::NoEndpoint => {
            let mut steps = vec![advertised::step(subject, address, None), endpoints::step(subject)];
            steps.extend(rest(&["nodes", "owner", "answers"]));
            steps
        }
        UnannouncedReason::AddressOfNode { .. }
        | UnannouncedReason::NoEligibleNode { .. }
        | UnannouncedReason::NoInterface { .. }
        | UnannouncedReason::NoMajority { .. } => {
            let mut steps = vec![
                advertised::step(subject, address, None),
                endpoints::step(subject),
                nodes::ineligible(subject, address, reason),
            ];
            steps.extend(rest(&["owner", "answers"]));
            steps
        }
    }
}

/// The node that announces the address, as far as an object says so.
fn owner_of<'a>(subject: &Subject<'a>, address: IpAddr) -> Option<&'a str> {
    let status = subject.cluster.status(subject.key)?;
    let of_this = status.address.is_none_or(|own| own == address);
    (of_this && !status.node.is_empty()).then_some(&*status.node)
}

/// The steps `owner`, `answers` and `failover`.
fn owner(subject: &Subject<'_>, address: IpAddr) -> Vec<Step> {
    let cluster = subject.cluster;
    let status = cluster.status(subject.key);
    let of_this = status.filter(|status| status.address.is_none_or(|own| own == address));
    let Some(status) = of_this else {
        if status.is_some() {
            let text = "kept in no object for the second address: see the events nodeAssigned of the Service";
            return vec![Step::new("owner", Verdict::Skipped, text)];
        }
        return vec![no_owner(subject, None), Step::skipped("answers")];
    };
    if status.node.is_empty() {
        let reported = status.unannounced.as_deref();
        let step = match reported {
            Some(reported) if &*reported.reason == ADDRESS_CONFLICT => {
                let remedies = conflict_remedies(subject, address, None);
                Step::problem("owner", reported.message.to_string(), docs::OTHER_HOST, remedies)
            }
            Some(reported) if &*reported.reason == "NoInterface" => {
                let remedy = Remedy::act(
                    "compare the networks of the nodes' interfaces with the address: one must contain it; or change \
                     spec.interfaces of the L2Advertisement",
                );
                Step::problem(
                    "owner",
                    reported.message.to_string(),
                    docs::NO_ANSWER,
                    vec![remedy],
                )
            }
            reported => no_owner(subject, reported.map(|reported| &*reported.message)),
        };
        return vec![step, Step::skipped("answers")];
    }
    let interfaces = match status.interfaces.is_empty() {
        true => String::new(),
        false => format!(" on {}", list_first(&status.interfaces, 3)),
    };
    let node = &*status.node;
    let mut steps = Vec::new();
    if !cluster.has_speaker(node) {
        let text = format!("{node}{interfaces} by the last report, and its speaker is not ready");
        let remedy = Remedy::run(
            "another node takes over within seconds; if not, look at the speakers",
            format!(
                "kubectl get pods -n {} -l component=speaker -o wide",
                cluster.snapshot.namespace()
            ),
        );
        steps.push(Step::problem("owner", text, docs::NO_ANSWER, vec![remedy]));
    } else {
        let since = match subject
            .condition(ANNOUNCED)
            .is_some_and(|one| one.status == "True")
        {
            true => subject.since(ANNOUNCED).replacen(", for", ", announced for", 1),
            false => String::new(),
        };
        steps.push(Step::ok("owner", format!("{node}{interfaces}{since}")));
    }
    steps.push(answers(subject, address, status));
    steps.extend(heartbeats(subject, node));
    steps
}

fn no_owner(subject: &Subject<'_>, reported: Option<&str>) -> Step {
    let namespace = subject.cluster.snapshot.namespace();
    let text = match reported {
        Some(reported) => reported.to_owned(),
        None => "no node announces it: nodes may, and no speaker has reported that it does".to_owned(),
    };
    let remedy = Remedy::run(
        "wait some seconds; then look at the speakers",
        format!("kubectl logs -n {namespace} -l component=speaker --prefix --tail=20"),
    );
    Step::problem("owner", text, docs::NO_ANSWER, vec![remedy])
}

/// Whether other nodes get a reply, and from one host only.
fn answers(
    subject: &Subject<'_>,
    address: IpAddr,
    status: &lb_speaker::k8s::objects::ReportedStatus,
) -> Step {
    let now = subject.cluster.snapshot.now;
    let since = |seconds: i64| {
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |at| age(now, at))
    };
    let health = status.health.clone().unwrap_or_default();
    if let Some(conflict) = &health.conflict {
        let host = match &conflict.node {
            Some(node) => format!("node {node} ({})", conflict.mac),
            None => format!("host {}, which is no node of the cluster,", conflict.mac),
        };
        let text = format!(
            "{host} also answers for {address}, for {}: clients reach either one",
            since(conflict.since)
        );
        let remedies = conflict_remedies(subject, address, Some(&conflict.mac.to_string()));
        return Step::problem("answers", text, docs::OTHER_HOST, remedies);
    }
    let protocol = if address.is_ipv4() { "ARP" } else { "NDP" };
    match &health.verification {
        Some(one) if one.answered => {
            let text = format!(
                "node {} asked by {protocol} and got a reply, for {}",
                one.by,
                since(one.since)
            );
            Step::ok("answers", text)
        }
        Some(one) => {
            let text = format!(
                "node {} asked by {protocol} for {address} and got no reply, for {}",
                one.by,
                since(one.since)
            );
            let namespace = subject.cluster.snapshot.namespace();
            let remedies = vec![
                Remedy::act(format!(
                    "look on node {} with tcpdump whether requests arrive and replies leave: switches, hypervisors and \
                     firewalls drop them",
                    status.node
                )),
                Remedy::run(
                    "restart the speakers one by one, if the node sends no reply",
                    format!("kubectl rollout restart daemonset/speaker -n {namespace}"),
                ),
            ];
            Step::problem("answers", text, docs::NO_ANSWER, remedies)
        }
        None => Step::new("answers", Verdict::Skipped, "no other node has asked yet"),
    }
}

fn conflict_remedies(subject: &Subject<'_>, address: IpAddr, mac: Option<&str>) -> Vec<Remedy> {
    let mut remedies = vec![Remedy::act(match mac {
        Some(mac) => format!("find {mac} in the DHCP leases of your router, and remove {address} from it"),
        None => format!("find the host that answers for {address}, and remove the address from it"),
    })];
    remedies.extend(nodes::excluded(subject, address));
    let change = json!({"spec": {"speaker": {"conflictPolicy": "Defend"}}});
    remedies.push(Remedy::run(
        "defend the address: the owner repeats its announcements",
        patch("lbs", STACK, None, &change),
    ));
    remedies
}

/// Nodes that do not hear the owner: they notice its failure late.
fn heartbeats(subject: &Subject<'_>, owner: &str) -> Option<Step> {
    let deaf: Vec<_> = crate::nodes::unheard(subject.cluster.snapshot)
        .into_iter()
        .filter(|(_, peers)| peers.iter().any(|peer| peer == owner))
        .map(|(node, _)| node)
        .collect();
    (!deaf.is_empty()).then(|| {
        let text = format!(
            "{} does not receive the heartbeats of {owner}: if {owner} fails, that is noticed late, through the API server",
            list_first(&deaf, 4)
        );
        let remedy = Remedy::act(format!("open UDP port 7947 from node {owner} to node {}", list_first(&deaf, 4)));
        Step::warning("failover", text, docs::SLOW_FAILOVER, vec![remedy])
    })
}

fn bgp(subject: &Subject<'_>) -> Step {
    let nodes = subject.cluster.bgp_peers(subject.key);
    let rows: Vec<_> = nodes
        .iter()
        .take(12)
        .map(|(node, peers)| [(*node).to_owned(), peers.join(", ")])
        .collect();
    let reached = nodes.values().any(|peers| !peers.is_empty());
    let namespace = subject.cluster.snapshot.namespace();
    match (nodes.is_empty(), reached) {
        (true, _) => {
            let remedy = Remedy::run(
                "look at the advertisements, the nodes and the endpoints",
                format!("kubectl get bgpadvertisements -n {namespace} -o yaml"),
            );
            let text = "a BGPAdvertisement selects it, and no node may announce it";
            Step::problem("bgp", text, docs::BGP, vec![remedy])
        }
        (false, false) => {
            let remedy = Remedy::run(
                "look at the peers",
                format!("kubectl get bgppeers -n {namespace} -o yaml"),
            );
            let text = "nodes announce it to no router: no BGPPeer selects them";
            Step::problem("bgp", text, docs::BGP, vec![remedy])
        }
        (false, true) => Step::ok("bgp", "announced to the routers below, if their sessions are up")
            .with_details(crate::text::table(11, &["NODE", "PEERS"], &rows)),
    }
}
