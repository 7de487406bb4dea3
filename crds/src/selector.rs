//! Label selectors: do they say something, and whom do they choose.
//!
//! The rules are Kubernetes' own (`metav1.LabelSelectorAsSelector`): all requirements must hold, no requirement
//! chooses everything.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// What is wrong with a selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// A key that no label can have.
    #[error(
        "{0:?} is not a label key: use letters, digits, '-', '_' and '.', at most 63 of them, with an optional DNS prefix and '/'"
    )]
    Key(String),
    /// A value that no label can have.
    #[error(
        "{value:?} is not a value that label {key} can have: use letters, digits, '-', '_' and '.', at most 63 of them"
    )]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// An operator that does not exist.
    #[error("operator {operator:?} of key {key} does not exist: use In, NotIn, Exists or DoesNotExist")]
    Operator {
        /// The key.
        key: String,
        /// The operator.
        operator: String,
    },
    /// `In` and `NotIn` without values.
    #[error(
        "operator {operator} of key {key} needs values: list at least one, or use Exists or DoesNotExist"
    )]
    NoValues {
        /// The key.
        key: String,
        /// The operator.
        operator: String,
    },
    /// `Exists` and `DoesNotExist` with values.
    #[error("operator {operator} of key {key} takes no values: remove them, or use In or NotIn")]
    Values {
        /// The key.
        key: String,
        /// The operator.
        operator: String,
    },
}

/// Labels of an object, however they are kept.
pub trait Labelled {
    /// The value of the label with this key, if there is one.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labelled for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// Whether the selector chooses what carries these labels.
///
/// A requirement whose operator does not exist chooses nothing: [`validate`] tells the user.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &impl Labelled) -> bool {
    let equal = |(key, value): (&String, &String)| labels.label(key) == Some(value);
    selector.match_labels.iter().flatten().all(equal)
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| holds(requirement, labels))
}

/// Whether one of the selectors chooses what carries these labels, or there is none: an absent list chooses all.
#[must_use]
pub fn any_matches(selectors: &[LabelSelector], labels: &impl Labelled) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| matches(selector, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &impl Labelled) -> bool {
    let label = labels.label(&requirement.key);
    let listed = |value: &str| requirement.values.iter().flatten().any(|wanted| wanted == value);
    match requirement.operator.as_str() {
        "In" => label.is_some_and(listed),
        "NotIn" => !label.is_some_and(listed),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

/// Checks a selector.
///
/// # Errors
/// With the first thing that Kubernetes would not accept in a selector.
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

/// The position of the first selector that says exactly what one before it says.
#[must_use]
pub fn duplicate(selectors: &[LabelSelector]) -> Option<usize> {
    let said = |(index, selector): (usize, &LabelSelector)| {
        selectors.iter().take(index).any(|other| other == selector)
    };
    selectors.iter().enumerate().position(said)
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

/// At most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(inner) && has_plain_ends(text)
}

/// A DNS name in lower case, as RFC 1123 has it, of at most 253 characters.
fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| label.bytes().all(inner) && has_plain_ends(label);
    text.len() <= 253 && text.split('.').all(is_label)
}

fn has_plain_ends(text: &str) -> bool {
    let plain = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    plain(text.bytes().next()) && plain(text.bytes().next_back())
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
    fn an_empty_selector_and_an_empty_list_choose_everything() {
        assert!(matches(&LabelSelector::default(), &labels(&[])));
        assert!(any_matches(&[], &labels(&[("a", "b")])));
    }

    #[test]
    fn one_of_several_selectors_is_enough() {
        let selectors = [equal(&[("zone", "a")]), equal(&[("zone", "b")])];
        assert!(any_matches(&selectors, &labels(&[("zone", "b")])));
        assert!(!any_matches(&selectors, &labels(&[("zone", "c")])));
    }

    #[test]
    fn every_requirement_of_a_selector_must_hold() {
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
    fn every_operator_means_what_kubernetes_says() {
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
    fn what_kubernetes_cannot_read_is_named() {
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
            (expression("zone", "In", &["a b"]), "not a value"),
            (equal(&[("zone", "a_")]), "not a value"),
            (equal(&[("a b", "x")]), "not a label key"),
        ] {
            let error = validate(&selector).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_kubernetes_can_read_is_accepted() {
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

    #[test]
    fn a_selector_said_twice_is_found() {
        let selectors = [equal(&[("a", "1")]), equal(&[("a", "2")]), equal(&[("a", "1")])];
        assert_eq!(duplicate(&selectors), Some(2));
        assert_eq!(duplicate(&selectors[..2]), None);
    }
}
