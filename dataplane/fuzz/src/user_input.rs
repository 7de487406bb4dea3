//! Text that users write: pool addresses, address requests of Services, label selectors. Each line of the bytes is a

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use lb_crds::AddressRange;
use lb_crds::names::{ADDRESS_POOL, LOAD_BALANCER_IPS};
use lb_crds::selector::{matches, validate};
use lb_ipam::{AddressRequest, Families, Family, IpFamilyPolicy, Range, RawRequest, Request};

/// Maximum length of a rejection in bytes: it becomes the message of an event.
const MAX_REJECTION_LEN: usize = 1000;

/// Valid input survives a round trip; invalid input gives a short rejection.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    for line in &lines {
        check_range(line);
    }
    check_request(&lines);
    check_selector(&lines);
}

fn check_range(text: &str) {
    let Ok(range) = text.parse::<AddressRange>() else {
        return;
    };
    assert_eq!(range.to_string().parse(), Ok(range));
    let (first, last) = (range.first(), range.last());
    assert!(range.contains(first) && range.contains(last) && range.overlaps(&range));
    assert!(
        Range::new(first, last).is_some(),
        "the allocator accepts every valid API range"
    );
}

fn check_request(lines: &[&str]) {
    let line = |at: usize| lines.get(at).copied().unwrap_or_default();
    let policy = match line(0) {
        "RequireDualStack" => IpFamilyPolicy::RequireDualStack,
        "PreferDualStack" => IpFamilyPolicy::PreferDualStack,
        _ => IpFamilyPolicy::SingleStack,
    };
    let cluster_ips: Vec<String> = line(1).split(' ').map(str::to_owned).collect();
    let families = match Families::of_cluster_ips(&cluster_ips, policy) {
        Ok(families) => families,
        // Cluster IPs are the API server's own.
        Err(_) => Families::Single(Family::V4),
    };
    let annotations: BTreeMap<String, String> = [
        (LOAD_BALANCER_IPS.key, line(2)),
        (LOAD_BALANCER_IPS.deprecated_key, line(3)),
        (ADDRESS_POOL.key, line(4)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let raw = RawRequest {
        addresses: LOAD_BALANCER_IPS
            .find(&annotations)
            .map(|found| (found.key, found.value)),
        load_balancer_ip: line(5),
        pool: ADDRESS_POOL.value(&annotations),
        sharing: None,
    };
    match Request::parse(families, raw) {
        Ok(request) => {
            if let AddressRequest::Addresses { addresses, .. } = request.address {
                assert!(families.accepts(&addresses) && !addresses.is_empty());
            }
        }
        Err(rejection) => assert!(rejection.to_string().len() <= MAX_REJECTION_LEN, "{rejection}"),
    }
}

fn check_selector(lines: &[&str]) {
    let mut labels = BTreeMap::new();
    let mut requirements = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        let (key, operator) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let values: Vec<String> = words.map(str::to_owned).collect();
        if operator == "=" {
            labels.insert(key.to_owned(), values.concat());
            continue;
        }
        requirements.push(LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then_some(values),
        });
    }
    let equal = LabelSelector {
        match_labels: Some(labels.clone()),
        match_expressions: None,
    };
    assert!(matches(&equal, &labels));
    let _ = validate(&equal);
    for requirement in requirements {
        let with = |operator: &str| LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                operator: operator.to_owned(),
                ..requirement.clone()
            }]),
        };
        let _ = validate(&with(&requirement.operator));
        let chosen = |operator: &str| matches(&with(operator), &labels);
        assert_ne!(chosen("In"), chosen("NotIn"));
        assert_ne!(chosen("Exists"), chosen("DoesNotExist"));
        assert!(!chosen("In") || chosen("Exists"));
        let known = ["In", "NotIn", "Exists", "DoesNotExist"].contains(&requirement.operator.as_str());
        assert!(known || !chosen(&requirement.operator));
        assert!(known || validate(&with(&requirement.operator)).is_err());
    }
}
