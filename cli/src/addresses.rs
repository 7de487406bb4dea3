//! The addresses, with their Services, owners and problems.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use lb_controller::service::Role;
use lb_crds::condition::find_condition;
use lb_crds::names::ANNOUNCED;
use lb_runtime::ObjectKey;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::snapshot::{addresses, class, is_load_balancer};
use crate::text::{age_of, table};

/// The kind of a problem of an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// The Service has no address.
    Pending,
    /// No node announces the address.
    NotAnnounced,
    /// Another host also answers.
    Conflict,
    /// Nobody gets a reply.
    NoReply,
}

impl Kind {
    /// The problem, in few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Pending => "no address",
            Self::NotAnnounced => "not announced",
            Self::Conflict => "another host answers, too",
            Self::NoReply => "no reply",
        }
    }
}

/// A problem of an address.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

/// One address of a Service, or a Service without one.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddressRow {
    pub(crate) address: Option<IpAddr>,
    #[serde(skip)]
    pub(crate) key: ObjectKey,
    pub(crate) service: String,
    pub(crate) pool: Option<String>,
    /// The node that announces it, if an object says so.
    pub(crate) owner: Option<String>,
    interfaces: Vec<String>,
    /// How long it is announced.
    since: Option<String>,
    /// The node that verified it, and whether it got a reply.
    verified_by: Option<String>,
    pub(crate) verified: Option<bool>,
    pub(crate) problem: Option<Problem>,
}

/// Some addresses.
#[derive(Debug, Serialize)]
pub(crate) struct Addresses {
    addresses: Vec<AddressRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// Which addresses to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) problems: bool,
}

/// Every address that the stack is responsible for, and every Service that waits for one.
pub(crate) fn rows(cluster: &Cluster<'_>) -> Vec<AddressRow> {
    let own = cluster.snapshot.class();
    let services = cluster.snapshot.services.iter();
    let services = services.filter(|service| is_load_balancer(service) && class(service) == own);
    let mut pending = cluster.pending();
    let mut rows: Vec<_> = services
        .flat_map(|service| of_service(cluster, service, &mut pending))
        .collect();
    rows.sort_by(|one, other| (one.address, &one.key).cmp(&(other.address, &other.key)));
    rows
}

fn of_service(
    cluster: &Cluster<'_>,
    service: &Service,
    pending: &mut BTreeMap<ObjectKey, String>,
) -> Vec<AddressRow> {
    let key = ObjectKey::of(service);
    let has = addresses(service);
    let row = |address: Option<IpAddr>| AddressRow {
        address,
        service: key.to_string(),
        key: key.clone(),
        pool: address.and_then(|address| cluster.pool_of(&key, address).map(str::to_owned)),
        owner: None,
        interfaces: Vec::new(),
        since: None,
        verified_by: None,
        verified: None,
        problem: None,
    };
    if has.is_empty() {
        let message = pending
            .remove(&key)
            .unwrap_or_else(|| "not decided yet".to_owned());
        return vec![AddressRow {
            problem: Some(Problem {
                kind: Kind::Pending,
                message,
            }),
            ..row(None)
        }];
    }
    let status = cluster.status(&key);
    let describe = |address: IpAddr| {
        let mut row = row(Some(address));
        let of_this = status
            .filter(|status| !status.node.is_empty() && status.address.is_none_or(|own| own == address));
        match of_this {
            Some(status) => {
                row.owner = Some(status.node.to_string());
                row.interfaces = status.interfaces.iter().map(ToString::to_string).collect();
                let conditions = service
                    .status
                    .as_ref()
                    .and_then(|status| status.conditions.as_deref());
                let condition = find_condition(conditions.unwrap_or_default(), ANNOUNCED);
                row.since = condition
                    .filter(|condition| condition.status == "True")
                    .map(|one| age_of(cluster.snapshot.now, Some(&one.last_transition_time)));
                let health = status.health.clone().unwrap_or_default();
                if let Some(verification) = &health.verification {
                    row.verified = Some(verification.answered);
                    row.verified_by = Some(verification.by.to_string());
                }
                row.problem = match health.conflict {
                    Some(conflict) => Some(Problem {
                        kind: Kind::Conflict,
                        message: conflict.mac.to_string(),
                    }),
                    None if !cluster.has_speaker(&status.node) => Some(Problem {
                        kind: Kind::NotAnnounced,
                        message: format!("the speaker of its owner {} is not ready", status.node),
                    }),
                    None if row.verified == Some(false) => Some(Problem {
                        kind: Kind::NoReply,
                        message: format!(
                            "node {} got no reply from it",
                            row.verified_by.as_deref().unwrap_or_default()
                        ),
                    }),
                    None => None,
                };
            }
            None => row.problem = unannounced(cluster, &key, address, status),
        }
        row
    };
    has.into_iter().map(describe).collect()
}

/// Why no node announces an address that no object names an owner of.
fn unannounced(
    cluster: &Cluster<'_>,
    key: &ObjectKey,
    address: IpAddr,
    status: Option<&lb_speaker::k8s::objects::ReportedStatus>,
) -> Option<Problem> {
    let by_bgp = cluster.is_advertised_by_bgp(address);
    let message = match cluster.eligibility(address) {
        None => "the address is not read by the speakers".to_owned(),
        Some(Err(_)) if by_bgp => return None,
        Some(Err(reason)) => reason.message(address),
        Some(Ok(_)) => {
            let is_first = cluster
                .index
                .services
                .get(key)
                .is_some_and(|service| service.first() == Some(address));
            let reported = status.and_then(|status| status.unannounced.as_deref());
            match reported {
                // Only the first address has a status.
                _ if !is_first || by_bgp => return None,
                Some(reported) => reported.message.to_string(),
                None => "no speaker has reported that it announces it".to_owned(),
            }
        }
    };
    Some(Problem {
        kind: Kind::NotAnnounced,
        message,
    })
}

impl Cluster<'_> {
    /// Why each Service without an address has none.
    fn pending(&self) -> BTreeMap<ObjectKey, String> {
        let mut allocator = self.allocator.clone();
        let services = self.snapshot.services.iter();
        let services = services.filter(|service| addresses(service).is_empty());
        let mut pending = BTreeMap::new();
        for service in services {
            let key = ObjectKey::of(service);
            let message = match self.cached(&key).map(|service| &service.role) {
                Some(Role::LoadBalancer(Err(invalid))) => invalid.rejection.to_string(),
                Some(Role::LoadBalancer(Ok(request))) => {
                    let holder = lb_controller::allocation_key::AllocationKey::Service(key.clone());
                    let filter = |pool: &str| self.pool_selects(pool, &key);
                    let result = allocator.assign(&holder, request, &filter);
                    allocator.release(&holder);
                    match result {
                        Ok(_) => "nothing forbids an address, and the controller has not decided".to_owned(),
                        Err(rejection) => rejection.to_string(),
                    }
                }
                Some(Role::Former | Role::OtherClass) | None => continue,
            };
            pending.insert(key, message);
        }
        pending
    }
}

/// The addresses that a filter selects.
pub(crate) fn list(cluster: &Cluster<'_>, filter: &Filter) -> Addresses {
    let selected = |row: &AddressRow| {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        is(&filter.namespace, Some(row.key.namespace()))
            && is(&filter.node, row.owner.as_deref())
            && is(&filter.pool, row.pool.as_deref())
            && (!filter.problems || row.problem.is_some())
    };
    Addresses {
        addresses: rows(cluster).into_iter().filter(selected).collect(),
        unread: cluster.snapshot.unread.clone(),
    }
}

impl Report for Addresses {
    fn text(&self, wide: bool) -> String {
        if self.addresses.is_empty() {
            return format!("No addresses.\n{}", unread_text(&self.unread));
        }
        let or_dash = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let row = |row: &AddressRow| {
            let verified = match (row.verified, &row.verified_by) {
                (Some(true), Some(by)) => format!("by {by}"),
                (Some(false), Some(by)) => format!("no reply to {by}"),
                _ => "-".to_owned(),
            };
            let address = row
                .address
                .map_or_else(|| "<pending>".to_owned(), |address| address.to_string());
            let mut cells = vec![
                address,
                row.service.clone(),
                or_dash(row.owner.as_deref()),
                or_dash(row.since.as_deref()),
                verified,
            ];
            if wide {
                cells.push(or_dash(row.pool.as_deref()));
                cells.push(match row.interfaces.is_empty() {
                    true => "-".to_owned(),
                    false => row.interfaces.join(","),
                });
            }
            cells.push(row.problem.as_ref().map_or_else(String::new, |problem| {
                format!("{}: {}", problem.kind.words(), problem.message)
            }));
            cells
        };
        let rows: Vec<_> = self.addresses.iter().map(row).collect();
        let headers: &[&str] = match wide {
            true => &[
                "ADDRESS",
                "SERVICE",
                "OWNER",
                "SINCE",
                "VERIFIED",
                "POOL",
                "INTERFACES",
                "PROBLEM",
            ],
            false => &["ADDRESS", "SERVICE", "OWNER", "SINCE", "VERIFIED", "PROBLEM"],
        };
        table(0, headers, &rows) + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.addresses.iter().any(|row| row.problem.is_some())
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
