//! Why a Service has, or has not, an address that answers: each step from the Service to the reply on the LAN, and the
//! change that repairs the first broken one.

mod advertised;
mod announcement;
mod assignment;
mod endpoints;
mod nodes;
mod rejected;
mod served;

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use lb_crds::names::{ADDRESS_ASSIGNED, ANNOUNCED};
use lb_runtime::ObjectKey;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::docs::Page;
use crate::remedy::{self, Remedy};
use crate::report::Report;
use crate::snapshot::Unread;
use crate::snapshot::{self, Snapshot};
use crate::text::{Verdict, age_of, bold, wrapped};

/// The explanation of one Service or address.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Why {
    /// `namespace/name` of the Service; or the address, if no Service has it.
    pub(crate) subject: String,
    /// Its kind, policy and age.
    pub(crate) summary: String,
    /// In order; those after the first problem may be skipped.
    pub(crate) steps: Vec<Step>,
    /// Ways to solve the first problem.
    pub(crate) remedies: Vec<Remedy>,
    /// A page about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) docs: Option<Page>,
    /// The kinds that could not be read, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unread: Vec<Unread>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    /// Indented lines below, such as a table.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) details: String,
    /// Ways to solve its problem.
    #[serde(skip)]
    pub(crate) remedies: Vec<Remedy>,
    #[serde(skip)]
    pub(crate) docs: Option<Page>,
}

impl Step {
    fn new(name: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            text: text.into(),
            details: String::new(),
            remedies: Vec::new(),
            docs: None,
        }
    }

    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, text)
    }

    fn skipped(name: &'static str) -> Self {
        Self::new(name, Verdict::Skipped, "not reached")
    }

    fn problem(name: &'static str, text: impl Into<String>, docs: Page, remedies: Vec<Remedy>) -> Self {
        Self {
            remedies,
            docs: Some(docs),
            ..Self::new(name, Verdict::Problem, text)
        }
    }

    fn warning(name: &'static str, text: impl Into<String>, docs: Page, remedies: Vec<Remedy>) -> Self {
        Self {
            verdict: Verdict::Warning,
            ..Self::problem(name, text, docs, remedies)
        }
    }

    /// A problem that is one only if all objects of some kinds were read: otherwise it is unknown.
    fn unless_unread(self, snapshot: &Snapshot) -> Self {
        let kinds: &[&str] = match self.name {
            "served" => &["LoadBalancerStack", "Pod"],
            "address" => &["IPAddressPool", "Namespace", "Service"],
            "advertised" => &["IPAddressPool", "L2Advertisement"],
            "endpoints" => &["EndpointSlice"],
            "nodes" => &["EndpointSlice", "L2Advertisement", "Node", "Pod"],
            "owner" => &["Pod", "ServiceL2Status"],
            "bgp" => &["BGPAdvertisement", "BGPPeer", "EndpointSlice", "Node"],
            _ => &[],
        };
        match kinds.iter().find(|kind| snapshot.is_unread(kind)) {
            Some(kind) if self.verdict == Verdict::Problem => {
                let text = format!(
                    "cannot tell: every {kind} must be readable. It seems that: {}",
                    self.text
                );
                Self::new(self.name, Verdict::Unknown, text)
            }
            _ => self,
        }
    }

    fn with_details(self, details: String) -> Self {
        Self { details, ..self }
    }
}

/// The Service in question, in both forms.
#[derive(Clone, Copy)]
struct Subject<'a> {
    cluster: &'a Cluster<'a>,
    key: &'a ObjectKey,
    service: &'a Service,
}

impl Subject<'_> {
    /// A condition of the Service.
    fn condition(&self, type_: &str) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
        let conditions = self.service.status.as_ref()?.conditions.as_deref()?;
        lb_crds::condition::find_condition(conditions, type_)
    }

    /// `, for 5h`: how long a condition has had its status; empty without it.
    fn since(&self, type_: &str) -> String {
        let now = self.cluster.snapshot.now;
        self.condition(type_).map_or_else(String::new, |condition| {
            format!(", for {}", age_of(now, Some(&condition.last_transition_time)))
        })
    }
}

/// Explains a Service.
pub(crate) fn explain(cluster: &Cluster<'_>, service: &Service) -> Why {
    let key = ObjectKey::of(service);
    let subject = Subject {
        cluster,
        key: &key,
        service,
    };
    let snapshot = cluster.snapshot;
    let mut steps = vec![served::step(&subject).unless_unread(snapshot)];
    if steps.iter().all(|step| step.verdict != Verdict::Problem) {
        let assignment = assignment::steps(&subject).into_iter();
        steps.extend(assignment.map(|step| step.unless_unread(snapshot)));
    } else {
        steps.extend(["request", "address"].map(Step::skipped));
    }
    if !snapshot.unread.is_empty() {
        steps.extend(reported(&subject));
    }
    let addresses = snapshot::addresses(service);
    if steps.iter().any(|step| step.verdict == Verdict::Problem) || addresses.is_empty() {
        steps.extend(["advertised", "endpoints", "nodes", "owner", "answers"].map(Step::skipped));
    } else {
        for address in &addresses {
            let several = addresses.len() > 1;
            let announcement = announcement::steps(&subject, *address, several).into_iter();
            steps.extend(announcement.map(|step| step.unless_unread(snapshot)));
        }
    }
    let worst = steps.iter().map(|step| step.verdict).max();
    let first = steps
        .iter()
        .find(|step| Some(step.verdict) == worst && !step.remedies.is_empty());
    Why {
        subject: key.to_string(),
        summary: summary(cluster, service),
        remedies: first.map(|step| step.remedies.clone()).unwrap_or_default(),
        docs: first.and_then(|step| step.docs),
        unread: cluster.snapshot.unread.clone(),
        steps,
    }
}

/// The conditions that controller and speakers have written into the Service, for users who may read little else.
fn reported(subject: &Subject<'_>) -> Option<Step> {
    let conditions = [ADDRESS_ASSIGNED, ANNOUNCED].into_iter();
    let conditions: Vec<_> = conditions.filter_map(|type_| subject.condition(type_)).collect();
    let messages: Vec<_> = conditions.iter().map(|one| one.message.as_str()).collect();
    let verdict = match conditions.iter().any(|one| one.status == "False") {
        true => Verdict::Problem,
        false => Verdict::Ok,
    };
    let text = format!("in the conditions of the Service: {}", messages.join("; "));
    (!conditions.is_empty()).then(|| Step::new("reported", verdict, text))
}

/// Explains an address that no Service has.
pub(crate) fn explain_unused(cluster: &Cluster<'_>, address: IpAddr) -> Why {
    let pool = match cluster.pool_containing(address) {
        Some(pool) => Step::ok("pool", format!("pool {pool:?} contains it")),
        None => Step::new("pool", Verdict::Skipped, "no IPAddressPool contains it"),
    };
    let nodes: Vec<_> = cluster.index.nodes_with(address).collect();
    let node = match nodes.as_slice() {
        [] => Step::ok("node", "no node has it"),
        names => Step::new(
            "node",
            Verdict::Warning,
            format!("it is an address of node {}", names.join(", ")),
        ),
    };
    let service = Step::new(
        "service",
        Verdict::Skipped,
        "no Service has it, so no speaker answers for it",
    );
    Why {
        subject: address.to_string(),
        summary: "address".to_owned(),
        steps: vec![service, pool, node],
        unread: cluster.snapshot.unread.clone(),
        ..Why::default()
    }
}

fn summary(cluster: &Cluster<'_>, service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let mut parts = vec![spec.type_.unwrap_or_else(|| "ClusterIP".to_owned())];
    if let Some(class) = spec.load_balancer_class {
        parts.push(format!("class {class}"));
    }
    if let Some(policy) = spec.external_traffic_policy {
        parts.push(format!("externalTrafficPolicy {policy}"));
    }
    let created = service.metadata.creation_timestamp.as_ref();
    parts.push(format!("{} old", age_of(cluster.snapshot.now, created)));
    parts.join(", ")
}

impl Why {
    /// The worst verdict.
    pub(crate) fn verdict(&self) -> Verdict {
        self.steps
            .iter()
            .map(|step| step.verdict)
            .max()
            .unwrap_or(Verdict::Ok)
    }
}

impl Report for Why {
    fn text(&self, _wide: bool) -> String {
        let mut text = format!("{}   {}\n\n", bold(&self.subject), self.summary);
        for step in &self.steps {
            let line = wrapped(&step.text, 23, 23);
            let _ = writeln!(text, "  {}  {:<12}{line}", step.verdict.cell(), step.name);
            text.push_str(&step.details);
        }
        if !self.remedies.is_empty() {
            let _ = write!(text, "\n{}", remedy::text(&self.remedies));
        }
        if let Some(docs) = self.docs {
            let _ = writeln!(text, "More: {docs}");
        }
        text.push_str(&crate::report::unread_text(&self.unread));
        text
    }

    fn has_problems(&self) -> bool {
        self.verdict() == Verdict::Problem
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
