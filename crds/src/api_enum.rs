//! Enums of the API: one list of variants gives the words, the conversions and the text of `kubectl explain`.

use schemars::Schema;
use serde_json::{Value, json};

use crate::schema;

/// Declares an enum whose values are words of the API.
///
/// A variant is written as its name, or as the literal after `=`. Its doc comment is shown by `kubectl explain` below
/// the description of each field of this type. The macro adds `ALL`, `as_str` and `Display`.
macro_rules! api_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident $(= $word:literal)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, serde::Deserialize, Eq, schemars::JsonSchema, PartialEq, serde::Serialize)]
        #[schemars(transform = crate::api_enum::word_list)]
        pub enum $name {
            $($(#[$variant_meta])* $(#[serde(rename = $word)])? $variant,)+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];

            /// The word of the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => crate::api_enum::word!($variant $(, $word)?),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// The word of a variant.
macro_rules! word {
    ($variant:ident) => {
        stringify!($variant)
    };
    ($variant:ident, $word:literal) => {
        $word
    };
}

pub(crate) use {api_enum, word};

/// Keyword that carries the descriptions of the words from [`word_list`] to [`describe_words`]. Other keywords would be
/// lost: the types of k8s-openapi keep only those of OpenAPI v3.
const WORD_DESCRIPTIONS: &str = "example";

/// Turns the derived schema, a list of alternatives with descriptions, into one list of words, as Kubernetes requires.
pub(crate) fn word_list(schema: &mut Schema) {
    let Some(Value::Array(alternatives)) = schema.remove("oneOf") else {
        return;
    };
    let word = |alternative: &Value| alternative.get("const").cloned();
    let words: Vec<_> = alternatives.iter().filter_map(word).collect();
    let described = |alternative: &Value| Some(json!([word(alternative)?, alternative.get("description")?]));
    let descriptions: Vec<_> = alternatives.iter().filter_map(described).collect();
    schema::set(schema, "type", "string");
    schema::set(schema, "enum", words);
    schema::set(schema, WORD_DESCRIPTIONS, descriptions);
}

/// Appends the descriptions of the words to the description of the field.
pub(crate) fn describe_words(keywords: &mut serde_json::Map<String, Value>) {
    let Some(Value::Array(descriptions)) = keywords.remove(WORD_DESCRIPTIONS) else {
        return;
    };
    let Some(Value::String(text)) = keywords.get_mut("description") else {
        return;
    };
    text.push_str("\n\nPossible values:");
    for description in &descriptions {
        if let [Some(word), Some(meaning)] = [0, 1].map(|index| description.get(index)?.as_str()) {
            text.push_str(&format!("\n- {word}: {}", schema::join_lines(meaning)));
        }
    }
}

/// The form of a word on the command line: `HashOrder` becomes `hash-order`.
#[must_use]
pub fn kebab_case(word: &str) -> String {
    let mut text = String::new();
    for (index, letter) in word.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load_balancer_stack::{Placement, PreflightName, UpgradeStep};

    #[test]
    fn words_are_read_as_they_are_written() {
        for step in UpgradeStep::ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.as_str());
            assert_eq!(
                serde_json::from_value::<UpgradeStep>(step.as_str().into()).unwrap(),
                step
            );
        }
        assert_eq!(PreflightName::CrdOwnership.to_string(), "CRDOwnership");
    }

    #[test]
    fn field_description_lists_the_words() {
        let definition = serde_json::to_value(crate::stack_crd()).unwrap();
        let field = definition
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/upgrade/properties/onFailure")
            .unwrap();
        assert_eq!(field["enum"], json!(["Rollback", "Pause", "Continue"]));
        assert_eq!(
            field["description"],
            "Reaction to a failed upgrade. Default: Rollback.\n\nPossible values:\n\
             - Rollback: Controller and speakers return to the previous revision.\n\
             - Pause: The upgrade stops where it failed until the spec changes.\n\
             - Continue: Failed health checks are reported, and the upgrade continues."
        );
        assert_eq!(field.get(WORD_DESCRIPTIONS), None);
    }

    #[test]
    fn command_line_words_are_kebab_case() {
        assert_eq!(kebab_case(Placement::HashOrder.as_str()), "hash-order");
        assert_eq!(kebab_case("Never"), "never");
    }
}
