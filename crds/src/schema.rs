//! What the derived schemas lack: limits, rules, Kubernetes' own list types, and the tidying that makes
//! `kubectl explain` read well.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// The most names, selectors and the like in one list: the cost that the API server reckons for a rule grows with it.
const MAX_ITEMS: u32 = 1024;

/// Sets a keyword.
pub(crate) fn set(schema: &mut Schema, keyword: &str, value: impl Into<Value>) {
    schema.insert(keyword.to_owned(), value.into());
}

/// Edits the schema of a list's items.
pub(crate) fn items(schema: &mut Schema, edit: impl FnOnce(&mut Schema)) {
    if let Some(Ok(items)) = schema.get_mut("items").map(<&mut Schema>::try_from) {
        edit(items);
    }
}

/// Adds a CEL rule with its message.
pub(crate) fn rule(schema: &mut Schema, rule: &str, message: &str) {
    let rule = json!({"rule": rule, "message": message});
    match schema.get_mut("x-kubernetes-validations") {
        Some(Value::Array(rules)) => rules.push(rule),
        _ => set(schema, "x-kubernetes-validations", vec![rule]),
    }
}

/// Makes properties required that serde can do without.
pub(crate) fn require(schema: &mut Schema, names: &[&str]) {
    set(schema, "required", names.to_vec());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for name in names {
            if let Some(Value::Object(property)) = properties.get_mut(*name) {
                property.remove("default");
            }
        }
    }
}

/// Limits a list of object names.
pub(crate) fn names(schema: &mut Schema) {
    // Short enough lists and names for `no_duplicates`, which compares each with each.
    set(schema, "maxItems", 256);
    items(schema, |name| {
        set(name, "minLength", 1);
        set(name, "maxLength", 253);
    });
}

/// A rule against saying the same twice.
pub(crate) fn no_duplicates(field: &str) -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a == b))")
        .message(format!("{field} has duplicates: name each once").as_str())
}

/// A list of label selectors: Kubernetes' schema of one, made strict where CEL and patterns can see that a selector says
/// nothing. Keys of `matchLabels` are beyond both: the controller says so in a condition.
pub(crate) fn selectors(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": MAX_ITEMS, "items": selector()})
}

fn selector() -> Value {
    let word = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
    let key = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$";
    json!({
        "description": "A label selector. All its requirements must hold; without any it chooses everything.",
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels and their values, all of which must be there. Example: {zone: a}",
                "type": "object",
                "additionalProperties": {"type": "string", "maxLength": 63, "pattern": word},
            },
            "matchExpressions": {
                "description": "Requirements on labels, all of which must hold.",
                "type": "array",
                "maxItems": 128,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "description": "A requirement on one label.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "The label's key. Example: kubernetes.io/hostname",
                            "type": "string",
                            "maxLength": 317,
                            "pattern": key,
                        },
                        "operator": {
                            "description": "What must hold: In (the value is one of values), NotIn (it is none of them, or \
                                            the label is not there), Exists, DoesNotExist.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values for In and NotIn, at least one. None for Exists and DoesNotExist.",
                            "type": "array",
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63, "pattern": word},
                        },
                    },
                    "x-kubernetes-validations": [
                        {
                            "rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                            "message": "operators In and NotIn need values: list at least one, or use Exists or \
                                        DoesNotExist",
                        },
                        {
                            "rule": "self.operator in ['In', 'NotIn'] || !has(self.values) || self.values.size() == 0",
                            "message": "operators Exists and DoesNotExist take no values: remove them, or use In or NotIn",
                        },
                    ],
                },
            },
        },
    })
}

/// A list of conditions, one of each type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the object's state.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "description": "What the condition is about. Example: Ready",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
                },
                "status": {
                    "description": "Whether it holds.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "Why, and what to do, for people.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "lastTransitionTime": {
                    "description": "When status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "observedGeneration": {
                    "description": "The metadata.generation that the condition is about. Lower than the object's: not yet \
                                    looked at.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}

/// Tidies a whole schema: no titles, no nulls (an absent field is absent), no formats that Kubernetes does not know, and
/// descriptions in paragraphs instead of lines.
pub(crate) fn tidy(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    keywords.remove("title");
    keywords.remove("nullable");
    if keywords.get("default") == Some(&Value::Null) {
        keywords.remove("default");
    }
    if let Some(Value::String(format)) = keywords.get("format")
        && format.starts_with("uint")
    {
        keywords.remove("format");
    }
    if let Some(Value::String(description)) = keywords.get_mut("description") {
        *description = paragraphs(description);
    }
    if let Some(Value::Object(properties)) = keywords.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = keywords.get_mut(keyword) {
            tidy(inner);
        }
    }
}

/// Joins lines that a blank line does not separate.
fn paragraphs(text: &str) -> String {
    let joined = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    text.trim()
        .split("\n\n")
        .map(joined)
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// Makes a property optional that the API server fills in.
pub(crate) fn fill_in(schema: &mut Value, name: &str, default: Value) {
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|required| required != name);
    }
    let empty = schema
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    if empty {
        schema
            .as_object_mut()
            .map(|keywords: &mut Map<_, _>| keywords.remove("required"));
    }
    if let Some(Value::Object(property)) = schema.pointer_mut(&format!("/properties/{name}")) {
        property.insert("default".to_owned(), default);
    }
}
