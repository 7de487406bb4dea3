//! Additions to the derived schemas: limits, CEL rules, list types of Kubernetes, and descriptions for `kubectl
//! explain`.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::api_enum::describe_words;

/// Maximum length of a list of selectors. The API server's cost estimate of a CEL rule grows with it.
const MAX_SELECTORS: u32 = 1024;
/// Maximum length of a list of weighted selectors.
const MAX_PREFERRED_NODE_SELECTORS: u32 = 128;

/// Sets a keyword of a schema.
pub(crate) fn set(schema: &mut Schema, keyword: &str, value: impl Into<Value>) {
    schema.insert(keyword.to_owned(), value.into());
}

/// Edits the schema of a list's items.
pub(crate) fn items(schema: &mut Schema, edit: impl FnOnce(&mut Schema)) {
    if let Some(Ok(items)) = schema.get_mut("items").map(<&mut Schema>::try_from) {
        edit(items);
    }
}

/// Adds a CEL rule and its message.
pub(crate) fn rule(schema: &mut Schema, rule: &str, message: &str) {
    let rule = json!({"rule": rule, "message": message});
    match schema.get_mut("x-kubernetes-validations") {
        Some(Value::Array(rules)) => rules.push(rule),
        _ => set(schema, "x-kubernetes-validations", vec![rule]),
    }
}

/// Makes properties required in the schema that have a default in serde.
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

/// Removes the default of a property.
pub(crate) fn without_default(schema: &mut Schema) {
    schema.remove("default");
}

/// Limits a list that a program writes.
pub(crate) fn short_list(schema: &mut Schema) {
    set(schema, "maxItems", 32);
}

/// Limits the length of a list of object names and of each name.
pub(crate) fn names(schema: &mut Schema) {
    // `no_duplicates` compares every pair, so its estimated cost limits the length.
    set(schema, "maxItems", 256);
    items(schema, |name| {
        set(name, "minLength", 1);
        set(name, "maxLength", 253);
    });
}

/// A CEL rule against duplicates in a list.
pub(crate) fn no_duplicates(field: &str) -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a == b))")
        .message(format!("{field} has duplicates: list each value once").as_str())
}

/// A list of label selectors. Stricter than the schema of Kubernetes: patterns and CEL rules reject invalid selectors.
/// They cannot check the keys of `matchLabels`; the controller reports these in a condition.
pub(crate) fn selectors(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": MAX_SELECTORS, "items": selector()})
}

/// A list of weighted node selectors, as in MetalLB.
pub(crate) fn preferred_node_selectors(_: &mut SchemaGenerator) -> Schema {
    let mut preference = selector();
    if let Some(preference) = preference.as_object_mut() {
        preference.insert(
            "description".to_owned(),
            "Nodes that get the weight; an empty selector matches every node.".into(),
        );
    }
    json_schema!({
        "type": "array",
        "maxItems": MAX_PREFERRED_NODE_SELECTORS,
        "items": {
            "description": "Preference for the nodes that a selector matches.",
            "type": "object",
            "required": ["preference", "weight"],
            "properties": {
                "preference": preference,
                "weight": {
                    "description": "1 to 100. The weights of all selectors that match a node are summed.",
                    "type": "integer",
                    "format": "int32",
                    "minimum": 1,
                    "maximum": 100,
                },
            },
        },
    })
}

fn selector() -> Value {
    let word = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
    let key = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$";
    json!({
        "description": "Label selector. An object must meet all requirements; an empty selector matches every object.",
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that the object must have, with these values. Example: {zone: a}",
                "type": "object",
                "additionalProperties": {"type": "string", "maxLength": 63, "pattern": word},
            },
            "matchExpressions": {
                "description": "Requirements that the labels of the object must all meet.",
                "type": "array",
                "maxItems": 128,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "description": "Requirement on one label.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Key of the label. Example: kubernetes.io/hostname",
                            "type": "string",
                            "maxLength": 317,
                            "pattern": key,
                        },
                        "operator": {
                            "description": "In: the value is one of values. NotIn: the label is absent or its value is not one \
                                            of values. Exists: the label is present. DoesNotExist: the label is absent.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn, at least one. Must be empty for Exists and DoesNotExist.",
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

/// A list of conditions, one per type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the state of the object.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "description": "Type of the condition. Example: Ready",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "Reason of the status, one word in CamelCase.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "Explanation of the status, with the action to take if there is a problem.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "lastTransitionTime": {
                    "description": "Time of the last change of status.",
                    "type": "string",
                    "format": "date-time",
                },
                "observedGeneration": {
                    "description": "The metadata.generation that the condition describes. If it is lower than \
                                    metadata.generation, the condition is outdated.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}

/// Cleans up a whole schema: removes titles, nullability and formats that Kubernetes does not know, and reflows the
/// descriptions.
pub(crate) fn tidy(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    keywords.remove("title");
    keywords.remove("nullable");
    if keywords.get("default") == Some(&Value::Null) {
        keywords.remove("default");
    }
    if let Some(Value::Array(words)) = keywords.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::String(format)) = keywords.get("format")
        && format.starts_with("uint")
    {
        keywords.remove("format");
    }
    if let Some(Value::String(description)) = keywords.get_mut("description") {
        *description = paragraphs(description);
    }
    describe_words(keywords);
    if let Some(Value::Object(properties)) = keywords.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = keywords.get_mut(keyword) {
            tidy(inner);
        }
    }
}

/// Joins the lines of each paragraph.
fn paragraphs(text: &str) -> String {
    let paragraphs: Vec<_> = text.trim().split("\n\n").map(join_lines).collect();
    paragraphs.join("\n\n")
}

/// Joins the lines of a text with blanks.
pub(crate) fn join_lines(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Gives a property a default, so that it is optional.
pub(crate) fn set_default(schema: &mut Value, name: &str, default: Value) {
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
