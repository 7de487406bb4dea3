//! Label selectors: validation and matching, with the rules of Kubernetes (`metav1.LabelSelectorAsSelector`). A
//! selector without requirements matches every object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Why a selector is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// Invalid label key.
    #[error(
        "{0:?} is not a label key: use at most 63 letters, digits, '-', '_' and '.', with an optional DNS prefix and '/'"
    )]
    Key(String),
    /// Invalid label value.
    #[error(
        "{value:?} is not a valid value of label {key}: use at most 63 letters, digits, '-', '_' and '.'"
    )]
    Value {
        /// Label key.
        key: String,
        /// Label value.
        value: String,
    },
    /// Unknown operator.
    #[error("operator {operator:?} of key {key} does not exist: use In, NotIn, Exists or DoesNotExist")]
    Operator {
        /// Label key.
        key: String,
        /// Operator of the requirement.
        operator: String,
    },
    /// `In` and `NotIn` without values.
    #[error(
        "operator {operator} of key {key} needs values: list at least one, or use Exists or DoesNotExist"
    )]
    NoValues {
        /// Label key.
        key: String,
        /// Operator of the requirement.
        operator: String,
    },
    /// `Exists` and `DoesNotExist` with values.
    #[error("operator {operator} of key {key} takes no values: remove them, or use In or NotIn")]
    Values {
        /// Label key.
        key: String,
        /// Operator of the requirement.
        operator: String,
    },
}

/// Labels of an object.
pub trait Labeled {
    /// The value of the label with this key.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labeled for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// Whether the selector matches the labels. A requirement with an unknown operator matches no labels.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &impl Labeled) -> bool {
    let equal = |(key, value): (&String, &String)| labels.label(key) == Some(value);
    selector.match_labels.iter().flatten().all(equal)
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| holds(requirement, labels))
}

/// Whether a selector matches the labels. An empty list matches all labels.
#[must_use]
pub fn any_matches(selectors: &[LabelSelector], labels: &impl Labeled) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| matches(selector, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &impl Labeled) -> bool {
    let label = labels.label(&requirement.key);
    let listed = |value: &str| requirement.values.iter().flatten().any(|listed| listed == value);
    match requirement.operator.as_str() {
        "In" => label.is_some_and(listed),
        "NotIn" => !label.is_some_and(listed),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

/// Checks a selector as Kubernetes does.
///
/// # Errors
/// The first problem.
pub fn validate(selector: &LabelSelector) -> Result<(), SelectorError> {
    for (key, value) in selector.match_labels.iter().flatten() {
        validate_key(key)?;
        validate_value(key, value)?;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = requirement;
        validate_key(key)?;
        let values = values.as_deref().unwrap_or_default();
        let (key, operator) = (key.clone(), operator.clone());
        match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => return Err(SelectorError::NoValues { key, operator }),
            "In" | "NotIn" => values.iter().try_for_each(|value| validate_value(&key, value))?,
            "Exists" | "DoesNotExist" if values.is_empty() => {}
            "Exists" | "DoesNotExist" => return Err(SelectorError::Values { key, operator }),
            _ => return Err(SelectorError::Operator { key, operator }),
        }
    }
    Ok(())
}

fn validate_key(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let valid = !name.is_empty() && is_word(name) && prefix.is_none_or(is_subdomain);
    valid
        .then_some(())
        .ok_or_else(|| SelectorError::Key(key.to_owned()))
}

fn validate_value(key: &str, value: &str) -> Result<(), SelectorError> {
    let valid = value.is_empty() || is_word(value);
    valid.then_some(()).ok_or_else(|| SelectorError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// Whether the text is the name part of a label key, or a label value.
fn is_word(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(inner) && has_alphanumeric_ends(text)
}

/// Whether the text is a lower-case DNS subdomain (RFC 1123, section 2.1).
fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| label.bytes().all(inner) && has_alphanumeric_ends(label);
    text.len() <= 253 && text.split('.').all(is_label)
}

fn has_alphanumeric_ends(text: &str) -> bool {
    let is_alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    is_alphanumeric(text.bytes().next()) && is_alphanumeric(text.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn equal(pairs: &[(&str, &str)]) -> LabelSelector {
        LabelSelector {
            match_labels: Some(labels(pairs)),
            match_expressions: None,
        }
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: (!values.is_empty()).then(|| values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        }
    }

    #[test]
    fn empty_selector_and_empty_list_match_everything() {
        assert!(matches(&LabelSelector::default(), &labels(&[])));
        assert!(any_matches(&[], &labels(&[("a", "b")])));
    }

    #[test]
    fn one_matching_selector_is_enough() {
        let selectors = [equal(&[("zone", "a")]), equal(&[("zone", "b")])];
        assert!(any_matches(&selectors, &labels(&[("zone", "b")])));
        assert!(!any_matches(&selectors, &labels(&[("zone", "c")])));
    }

    #[test]
    fn every_requirement_must_hold() {
        let mut both = equal(&[("zone", "a"), ("rack", "1")]);
        assert!(matches(
            &both,
            &labels(&[("zone", "a"), ("rack", "1"), ("more", "x")])
        ));
        assert!(!matches(&both, &labels(&[("zone", "a")])));
        both.match_expressions = expression("gone", "Exists", &[]).match_expressions;
        assert!(!matches(&both, &labels(&[("zone", "a"), ("rack", "1")])));
    }

    #[test]
    fn operators_match_as_in_kubernetes() {
        for (operator, values, none, listed, other) in [
            ("In", &["a", "b"][..], false, true, false),
            ("NotIn", &["a", "b"][..], true, false, true),
            ("Exists", &[][..], false, true, true),
            ("DoesNotExist", &[][..], true, false, false),
            ("Near", &["a"][..], false, false, false),
        ] {
            let selector = expression("zone", operator, values);
            assert_eq!(matches(&selector, &labels(&[])), none, "{operator}, no label");
            assert_eq!(
                matches(&selector, &labels(&[("zone", "b")])),
                listed,
                "{operator}, listed"
            );
            assert_eq!(
                matches(&selector, &labels(&[("zone", "c")])),
                other,
                "{operator}, another value"
            );
        }
    }

    #[test]
    fn invalid_selectors_are_rejected_with_reason() {
        for (selector, part) in [
            (
                expression("zone", "Near", &["a"]),
                "operator \"Near\" of key zone does not exist",
            ),
            (expression("zone", "In", &[]), "needs values"),
            (expression("zone", "NotIn", &[]), "needs values"),
            (expression("zone", "Exists", &["a"]), "takes no values"),
            (expression("zone", "DoesNotExist", &["a"]), "takes no values"),
            (expression("", "Exists", &[]), "not a label key"),
            (expression("a/b/c", "Exists", &[]), "not a label key"),
            (expression("Example.com/zone", "Exists", &[]), "not a label key"),
            (expression("/zone", "Exists", &[]), "not a label key"),
            (expression("-zone", "Exists", &[]), "not a label key"),
            (expression(&"x".repeat(64), "Exists", &[]), "not a label key"),
            (expression("zone", "In", &["a b"]), "not a valid value"),
            (equal(&[("zone", "a_")]), "not a valid value"),
            (equal(&[("a b", "x")]), "not a label key"),
        ] {
            let error = validate(&selector).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn valid_selectors_are_accepted() {
        for selector in [
            LabelSelector::default(),
            equal(&[
                ("kubernetes.io/hostname", "n1"),
                ("empty", ""),
                ("A.b_c-9", "A.b_c-9"),
            ]),
            expression("zone", "In", &["a", ""]),
            expression(
                "node.kubernetes.io/exclude-from-external-load-balancers",
                "DoesNotExist",
                &[],
            ),
        ] {
            assert_eq!(validate(&selector), Ok(()));
        }
    }
}
