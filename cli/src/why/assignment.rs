//! The request of a Service, and its addresses.

use std::net::IpAddr;

use lb_controller::allocation_key::AllocationKey;
use lb_controller::service::Role;
use lb_crds::names::ADDRESS_ASSIGNED;
use lb_ipam::{AddressRequest, Families, Family, Origin, Rejection, Request};

use super::{Step, Subject, rejected};
use crate::docs;
use crate::remedy::Remedy;
use crate::snapshot::addresses;
use crate::text::{Verdict, table};

const REQUEST: &str = "request";
const ADDRESS: &str = "address";

/// The steps `request` and `address`.
pub(super) fn steps(subject: &Subject<'_>) -> Vec<Step> {
    let role = subject.cluster.cached(subject.key).map(|service| &service.role);
    match role {
        Some(Role::LoadBalancer(Ok(request))) => {
            vec![Step::ok(REQUEST, describe(request)), address(subject, request)]
        }
        Some(Role::LoadBalancer(Err(invalid))) => {
            let remedies = rejected::remedies(subject, None, &invalid.rejection);
            let step = Step::problem(REQUEST, invalid.rejection.to_string(), docs::PENDING, remedies);
            vec![step, Step::skipped(ADDRESS)]
        }
        Some(Role::Former | Role::OtherClass) | None => {
            vec![Step::new(
                REQUEST,
                Verdict::Unknown,
                "the Service could not be read",
            )]
        }
    }
}

fn describe(request: &Request) -> String {
    let families = match request.families {
        Families::Single(Family::V4) => "IPv4",
        Families::Single(Family::V6) => "IPv6",
        Families::PreferDualStack => "IPv4 and IPv6, one of them if there are not both",
        Families::RequireDualStack => "IPv4 and IPv6",
    };
    match &request.address {
        AddressRequest::Any => format!("any address: {families}"),
        AddressRequest::Pool(pool) => format!("any address of pool {pool:?}: {families}"),
        AddressRequest::Addresses { addresses, pool } => {
            let list: Vec<_> = addresses.iter().map(|address| address.to_string()).collect();
            match pool {
                Some(pool) => format!("{} of pool {pool:?}", list.join(" and ")),
                None => list.join(" and "),
            }
        }
    }
}

fn address(subject: &Subject<'_>, request: &Request) -> Step {
    let cluster = subject.cluster;
    let condition = subject.condition(ADDRESS_ASSIGNED);
    let has = cluster
        .allocator
        .assignment(&AllocationKey::Service(subject.key.clone()));
    let since = subject.since(ADDRESS_ASSIGNED);
    if let Some(has) = has {
        let part = |(address, origin): (IpAddr, &Origin)| match origin {
            Origin::Pool(pool) => format!("{address} of pool {pool}"),
            Origin::Outside(_) => format!("{address}, which no pool contains"),
        };
        let parts: Vec<_> = has.parts().map(part).collect();
        let outside = has
            .parts()
            .find(|(_, origin)| matches!(origin, Origin::Outside(_)));
        if let Some((address, _)) = outside {
            let rejection = Rejection::NotInAnyPool(address);
            let text = format!("{}{since}: kept, but not announced", parts.join(", "));
            let remedies = rejected::remedies(subject, Some(request), &rejection);
            return Step::problem(ADDRESS, text, docs::PENDING, remedies);
        }
        // The Service asks for something else now, or for a second address.
        if !request.permits(has)
            && let [Some(rejection)] = cluster.rejections(subject.key, [request.clone()])
        {
            let text = format!("{} is kept: {rejection}", parts.join(", "));
            let remedies = rejected::remedies(subject, Some(request), &rejection);
            return Step::problem(ADDRESS, text, docs::PENDING, remedies);
        }
        return Step::ok(ADDRESS, format!("{}{since}", parts.join(", ")));
    }
    let [rejection] = cluster.rejections(subject.key, [request.clone()]);
    match rejection {
        Some(rejection) => {
            let remedies = rejected::remedies(subject, Some(request), &rejection);
            let text = format!("none{since}: {rejection}");
            Step::problem(ADDRESS, text, docs::PENDING, remedies).with_details(pools(subject, request))
        }
        None if addresses(subject.service).is_empty() => {
            let reported = condition.map_or("", |condition| condition.message.as_str());
            let text = match reported {
                "" => "none yet: nothing forbids it, and the controller has not decided".to_owned(),
                reported => format!("none yet: nothing forbids it now; the controller reported: {reported}"),
            };
            let namespace = cluster.snapshot.namespace();
            let remedy = Remedy::run(
                "wait some seconds; then look at the controller",
                format!("kubectl logs -n {namespace} -l component=controller --tail=20"),
            );
            Step::problem(ADDRESS, text, docs::PENDING, vec![remedy])
        }
        None => {
            let shown: Vec<_> = addresses(subject.service)
                .iter()
                .map(ToString::to_string)
                .collect();
            let text = format!(
                "{} in the status, and another Service has it too: the controller assigns another one",
                shown.join(", ")
            );
            Step::warning(ADDRESS, text, docs::PENDING, Vec::new())
        }
    }
}

/// Each pool: whether it would give this Service an address, and why not.
fn pools(subject: &Subject<'_>, request: &Request) -> String {
    let cluster = subject.cluster;
    let families: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| match request.families {
            Families::Single(own) => own == *family,
            Families::PreferDualStack | Families::RequireDualStack => true,
        })
        .collect();
    let rejections = cluster.rejection_of_each_pool(subject.key, request);
    let row = |(name, rejection): (&str, &Option<Rejection>)| {
        let pool = cluster.allocator.pool(name).and_then(Result::ok);
        let usage = pool.map_or_else(String::new, |pool| {
            let usage = families
                .iter()
                .map(|family| format!("{} of {}", pool.used(*family), pool.capacity(*family)));
            usage.collect::<Vec<_>>().join(", ")
        });
        let auto = pool.is_some_and(|pool| pool.spec().auto_assign);
        let (answer, note) = match rejection {
            Some(rejection) => ("no", rejection.to_string()),
            None if auto => ("yes", String::new()),
            None => ("on request", "autoAssign is false".to_owned()),
        };
        [name.to_owned(), answer.to_owned(), usage, note]
    };
    let rows: Vec<_> = rejections
        .iter()
        .map(|(name, rejection)| row((name, rejection)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(11, &["POOL", "FOR THIS SERVICE", "IN USE", "NOTE"], &rows)
}
