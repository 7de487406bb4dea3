//! The remedy of a problem: a sentence, and the command if there is one.

use serde::Serialize;
use serde_json::Value;

use crate::text::{bold, wrapped};

/// One way to solve a problem.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Remedy {
    /// Its effect.
    pub(crate) what: String,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<String>,
}

impl Remedy {
    /// A command.
    pub(crate) fn run(what: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            command: Some(command.into()),
        }
    }

    /// An action without a command.
    pub(crate) fn act(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            command: None,
        }
    }
}

/// The remedies as text, with a title.
pub(crate) fn text(remedies: &[Remedy]) -> String {
    let title = match remedies {
        [] => return String::new(),
        [_] => "Do this:",
        _ => "Do one of these:",
    };
    let mut text = format!("{}\n", bold(title));
    for remedy in remedies {
        text.push_str(&format!("  - {}\n", wrapped(&remedy.what, 4, 4)));
        if let Some(command) = &remedy.command {
            text.push_str(&format!("      {command}\n"));
        }
    }
    text
}

/// Adds a namespace to a command.
fn within(namespace: Option<&str>) -> String {
    namespace.map_or_else(String::new, |namespace| format!(" -n {namespace}"))
}

/// `kubectl patch … --type=merge`.
pub(crate) fn patch(kind: &str, name: &str, namespace: Option<&str>, patch: &Value) -> String {
    format!(
        "kubectl patch {kind} {name}{} --type=merge -p '{patch}'",
        within(namespace)
    )
}

/// `kubectl annotate … --overwrite`; without a value it removes the annotation.
pub(crate) fn annotate(kind: &str, name: &str, namespace: &str, key: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("kubectl annotate {kind} {name} -n {namespace} --overwrite {key}={value}"),
        None => format!("kubectl annotate {kind} {name} -n {namespace} {key}-"),
    }
}

/// `kubectl label … --overwrite`.
pub(crate) fn label(kind: &str, name: &str, namespace: Option<&str>, pairs: &[String]) -> String {
    format!(
        "kubectl label {kind} {name}{} --overwrite {}",
        within(namespace),
        pairs.join(" ")
    )
}

/// `kubectl edit`.
pub(crate) fn edit(kind: &str, name: &str, namespace: &str) -> String {
    format!("kubectl edit {kind} {name} -n {namespace}")
}

/// Creates an object.
pub(crate) fn create(object: &Value) -> String {
    format!("echo '{object}' | kubectl apply -f -")
}
