//! Remedies of a rejected request.

use lb_controller::allocation_key::AllocationKey;
use lb_crds::IPAddressPool;
use lb_crds::names::{
    ADDRESS_POOL, ALLOW_SHARED_IP, Annotation, EXCLUDED_ADDRESSES, LOAD_BALANCER_IPS, NAMESPACE_QUOTA,
};
use lb_ipam::sharing::SharingConflict;
use lb_ipam::{AddressRequest, Origin, Rejection, Request};
use lb_runtime::ObjectKey;
use lb_runtime::text::list_first;
use serde_json::{Value, json};

use super::Subject;
use crate::remedy::{Remedy, annotate, create, edit, label, patch};
use crate::snapshot::Scope;

/// Ways to have the request accepted.
pub(super) fn remedies(
    subject: &Subject<'_>,
    request: Option<&Request>,
    rejection: &Rejection,
) -> Vec<Remedy> {
    let namespace = subject.cluster.snapshot.namespace();
    match rejection {
        Rejection::PoolsExhausted(pools) => {
            let names: Vec<_> = pools.iter().map(|pool| pool.pool.as_str()).collect();
            exhausted(subject, request, &names)
        }
        Rejection::PoolExhausted { pool, .. } => exhausted(subject, request, &[&pool.pool]),
        Rejection::NoPools => no_pools(subject),
        Rejection::NoAutoAssign => no_auto_assign(subject, request),
        Rejection::NoPoolSelectsService { pools } => {
            let pools = pools.iter().map(String::as_str);
            let mut remedies: Vec<_> = pools.flat_map(|pool| selection(subject, pool)).collect();
            remedies.extend(other_pools(subject, request));
            remedies
        }
        Rejection::NotSelected { pool } => selection(subject, pool),
        Rejection::NotInAnyPool(address) => {
            let mut remedies = without_addresses(subject);
            remedies.extend(pools(subject).first().map(|pool| {
                Remedy::run(
                    format!("add {address} to a pool, if it is in your network and unused"),
                    edit("ipaddresspool", name(pool), namespace),
                )
            }));
            remedies
        }
        Rejection::AvoidedAddress { pool, .. } => {
            let mut remedies = without_addresses(subject);
            let command = patch(
                "ipaddresspool",
                pool,
                Some(namespace),
                &json!({"spec": {"avoidBuggyIPs": false}}),
            );
            remedies.push(Remedy::run("let the pool assign such addresses", command));
            remedies
        }
        Rejection::ExcludedAddress { pool, .. } => {
            let mut remedies = without_addresses(subject);
            let command = format!(
                "kubectl get ipaddresspool {pool} -n {namespace} -o yaml | grep {EXCLUDED_ADDRESSES}"
            );
            remedies.push(Remedy::run("see what the pool excludes", command));
            remedies
        }
        Rejection::AddressInUse { .. } => without_addresses(subject),
        Rejection::CannotShare { owner, conflict, .. } => {
            let mut remedies = sharing(subject, owner, conflict);
            remedies.extend(without_addresses(subject));
            remedies
        }
        Rejection::NoRoomToShare(inner) => remedies(subject, request, inner),
        Rejection::UnknownPool(_) | Rejection::PoolMismatch { .. } => {
            let mut remedies = other_pools(subject, request);
            remedies.push(removed(subject, ADDRESS_POOL, "take an address of any pool"));
            remedies
        }
        Rejection::QuotaExceeded { pool, quota, .. } => vec![Remedy::run(
            "raise the quota of the pool",
            annotate(
                "ipaddresspool",
                pool,
                namespace,
                NAMESPACE_QUOTA,
                Some(&(quota + 1).to_string()),
            ),
        )],
        Rejection::InvalidPool { pool, .. }
        | Rejection::OnlyInvalidPools { pool, .. }
        | Rejection::PoolLacksFamily { pool, .. } => vec![Remedy::run(
            "edit the pool",
            edit("ipaddresspool", pool, namespace),
        )],
        Rejection::NoPoolOfFamily(_) => {
            let edits = pools(subject)
                .into_iter()
                .map(|pool| edit("ipaddresspool", name(pool), namespace));
            edits
                .map(|command| Remedy::run("add addresses of that family to a pool", command))
                .take(1)
                .collect()
        }
        Rejection::DuplicateRequest { .. }
        | Rejection::InvalidAddressList { .. }
        | Rejection::TooManyAddresses(_)
        | Rejection::DuplicateFamily(..)
        | Rejection::FamilyMismatch { .. }
        | Rejection::InvalidLoadBalancerIp(_) => without_addresses(subject),
        Rejection::SharingKeyTooLong { .. } => {
            vec![removed(subject, ALLOW_SHARED_IP, "do not share the address")]
        }
        Rejection::NoClusterIp | Rejection::NotEnoughClusterIps(_) => vec![Remedy::run(
            "edit the Service",
            edit("service", subject.key.name(), subject.key.namespace()),
        )],
    }
}

fn name(pool: &IPAddressPool) -> &str {
    pool.metadata.name.as_deref().unwrap_or_default()
}

/// The pools that have an effect.
fn pools<'a>(subject: &Subject<'a>) -> Vec<&'a IPAddressPool> {
    let snapshot = subject.cluster.snapshot;
    let pools = snapshot.pools.iter();
    pools.filter(|pool| snapshot.is_ours(*pool)).collect()
}

/// Removes an annotation, with the key that the user wrote.
fn removed(subject: &Subject<'_>, annotation: Annotation, what: &str) -> Remedy {
    let none = std::collections::BTreeMap::new();
    let annotations = subject.service.metadata.annotations.as_ref().unwrap_or(&none);
    let key = annotation
        .find(annotations)
        .map_or(annotation.key, |found| found.key);
    let command = annotate("service", subject.key.name(), subject.key.namespace(), key, None);
    Remedy::run(what, command)
}

/// Removes the requested addresses.
fn without_addresses(subject: &Subject<'_>) -> Vec<Remedy> {
    let what = "take any free address: remove the requested one";
    let spec = subject.service.spec.as_ref();
    let in_spec = spec.is_some_and(|spec| spec.load_balancer_ip.as_deref().is_some_and(|ip| !ip.is_empty()));
    if in_spec {
        let command = patch(
            "service",
            subject.key.name(),
            Some(subject.key.namespace()),
            &json!({"spec": {"loadBalancerIP": null}}),
        );
        return vec![Remedy::run(what, command)];
    }
    let annotations = subject.service.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| LOAD_BALANCER_IPS.find(annotations).is_some()) {
        return vec![removed(subject, LOAD_BALANCER_IPS, what)];
    }
    Vec::new()
}

/// Requests another pool that would give an address now.
fn other_pools(subject: &Subject<'_>, request: Option<&Request>) -> Vec<Remedy> {
    let Some(request) = request else {
        return Vec::new();
    };
    let rejections = subject.cluster.rejection_of_each_pool(subject.key, request);
    let usable = rejections
        .into_iter()
        .filter_map(|(pool, rejection)| rejection.is_none().then_some(pool));
    let remedy = |pool: &str| {
        let (name, namespace) = (subject.key.name(), subject.key.namespace());
        Remedy::run(
            format!("take an address of pool {pool}"),
            annotate("service", name, namespace, ADDRESS_POOL.key, Some(pool)),
        )
    };
    usable.map(remedy).take(3).collect()
}

fn exhausted(subject: &Subject<'_>, request: Option<&Request>, names: &[&str]) -> Vec<Remedy> {
    let cluster = subject.cluster;
    let namespace = cluster.snapshot.namespace();
    let mut remedies = match request.map(|request| &request.address) {
        Some(AddressRequest::Any | AddressRequest::Pool(_)) => other_pools(subject, request),
        Some(AddressRequest::Addresses { .. }) | None => Vec::new(),
    };
    if let Some(pool) = names.first() {
        remedies.push(Remedy::run(
            format!("add addresses to pool {pool}"),
            edit("ipaddresspool", pool, namespace),
        ));
    }
    let of_pool = |origin: &Origin| origin.name().is_some_and(|name| names.contains(&name));
    let idle = cluster.allocator.assignments().filter_map(|(holder, has)| {
        let AllocationKey::Service(key) = holder else {
            return None;
        };
        let holds = has.parts().any(|(_, origin)| of_pool(origin));
        (holds && !cluster.index.has_endpoint(key)).then(|| key.clone())
    });
    // Endpoints of other Services are unknown unless all were read.
    let all_read = cluster.snapshot.scope == Scope::All;
    let idle: Vec<ObjectKey> = if all_read { idle.collect() } else { Vec::new() };
    if let Some(first) = idle.first() {
        let what = format!(
            "free an address: {} without a ready endpoint: {}",
            crate::text::count(idle.len(), "Service has one", "Services have one"),
            list_first(&idle, 3)
        );
        let command = format!("kubectl delete service {} -n {}", first.name(), first.namespace());
        remedies.push(Remedy::run(what, command));
    }
    remedies
}

/// The same pool in the namespace that is read, or a new one.
fn no_pools(subject: &Subject<'_>) -> Vec<Remedy> {
    let snapshot = subject.cluster.snapshot;
    let namespace = snapshot.namespace();
    let misplaced: Vec<_> = snapshot
        .pools
        .iter()
        .filter(|pool| !snapshot.is_ours(*pool))
        .collect();
    if misplaced.is_empty() {
        return vec![Remedy::run(
            "create a pool of unused addresses of your network, such as this one",
            create(&json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "IPAddressPool",
                "metadata": {"name": "default-pool", "namespace": namespace},
                "spec": {"addresses": ["192.168.50.50-192.168.50.100"]},
            })),
        )];
    }
    misplaced
        .into_iter()
        .take(2)
        .map(|pool| {
            let object = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "IPAddressPool",
                "metadata": {"name": name(pool), "namespace": namespace},
                "spec": pool.spec,
            });
            Remedy::run(
                format!(
                    "create pool {} in namespace {namespace}: pools in namespace {} have no effect",
                    name(pool),
                    pool.metadata.namespace.as_deref().unwrap_or_default(),
                ),
                create(&object),
            )
        })
        .collect()
}

fn no_auto_assign(subject: &Subject<'_>, request: Option<&Request>) -> Vec<Remedy> {
    let namespace = subject.cluster.snapshot.namespace();
    let mut remedies = other_pools(subject, request);
    if let Some(pool) = pools(subject).first() {
        let change = json!({"spec": {"autoAssign": true}});
        remedies.push(Remedy::run(
            format!("let pool {} serve every Service", name(pool)),
            patch("ipaddresspool", name(pool), Some(namespace), &change),
        ));
    }
    remedies
}

/// Makes the `serviceAllocation` of a pool match the Service.
fn selection(subject: &Subject<'_>, pool: &str) -> Vec<Remedy> {
    let namespace = subject.cluster.snapshot.namespace();
    let (service, of_service) = (subject.key.name(), subject.key.namespace());
    let pools = pools(subject);
    let found = pools.into_iter().find(|one| name(one) == pool);
    let Some(allocation) = found.and_then(|pool| pool.spec.service_allocation.as_ref()) else {
        return Vec::new();
    };
    let mut remedies = Vec::new();
    let namespaces = subject.cluster.snapshot.namespaces.iter();
    let labels = namespaces
        .filter(|one| one.metadata.name.as_deref() == Some(of_service))
        .find_map(|one| one.metadata.labels.clone())
        .unwrap_or_default();
    let any_namespace = allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    let selected = allocation.namespaces.iter().any(|one| one == of_service)
        || allocation
            .namespace_selectors
            .iter()
            .any(|selector| lb_crds::selector::matches(selector, &labels));
    if !any_namespace && !selected {
        if let Some(pairs) = allocation.namespace_selectors.iter().find_map(match_labels) {
            remedies.push(Remedy::run(
                format!("label namespace {of_service} as pool {pool} requires"),
                label("namespace", of_service, None, &pairs),
            ));
        }
        let mut all = allocation.namespaces.clone();
        all.push(of_service.to_owned());
        let change = json!({"spec": {"serviceAllocation": {"namespaces": all}}});
        remedies.push(Remedy::run(
            format!("let pool {pool} serve namespace {of_service}"),
            patch("ipaddresspool", pool, Some(namespace), &change),
        ));
        return remedies;
    }
    if let Some(pairs) = allocation.service_selectors.iter().find_map(match_labels) {
        remedies.push(Remedy::run(
            format!("label the Service as pool {pool} requires"),
            label("service", service, Some(of_service), &pairs),
        ));
    }
    remedies.push(Remedy::run(
        format!("change spec.serviceAllocation of pool {pool}"),
        edit("ipaddresspool", pool, namespace),
    ));
    remedies
}

/// The labels that a selector requires; `None` if it requires more than labels.
pub(super) fn match_labels(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
) -> Option<Vec<String>> {
    let expressions = selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    let labels = selector.match_labels.as_ref()?;
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    (expressions && !labels.is_empty()).then(|| pairs.collect())
}

/// Makes two Services able to share an address.
fn sharing(subject: &Subject<'_>, owner: &str, conflict: &SharingConflict) -> Vec<Remedy> {
    let services = subject.cluster.snapshot.services.iter();
    let other = services
        .map(|service| (ObjectKey::of(service), service))
        .find(|(key, _)| key.to_string() == owner);
    let Some((other, object)) = other else {
        return Vec::new();
    };
    let key_of = |service: &k8s_openapi::api::core::v1::Service| {
        let annotations = service.metadata.annotations.clone().unwrap_or_default();
        ALLOW_SHARED_IP.value(&annotations).map(str::to_owned)
    };
    let set = |key: &ObjectKey, value: &str| {
        let (name, namespace) = (key.name(), key.namespace());
        annotate("service", name, namespace, ALLOW_SHARED_IP.key, Some(value))
    };
    match (conflict, key_of(subject.service), key_of(object)) {
        (SharingConflict::Key | SharingConflict::NotShared, _, Some(theirs)) => vec![Remedy::run(
            format!("share the address with {owner}: use its key"),
            set(subject.key, &theirs),
        )],
        (SharingConflict::NotShared, Some(own), None) => vec![Remedy::run(
            format!("share the address with {owner}: give it your key"),
            set(&other, &own),
        )],
        (SharingConflict::Port(_), _, _) => vec![Remedy::run(
            "use another port",
            edit("service", subject.key.name(), subject.key.namespace()),
        )],
        (SharingConflict::Backend, _, _) => {
            let change: Value = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
            let to_cluster = |key: &ObjectKey| {
                Remedy::run(
                    format!("set externalTrafficPolicy of {key} to Cluster"),
                    patch("service", key.name(), Some(key.namespace()), &change),
                )
            };
            vec![to_cluster(subject.key), to_cluster(&other)]
        }
        _ => Vec::new(),
    }
}
