//! Community: names for BGP communities.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// Names for BGP communities.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    plural = "communities",
    namespaced,
    status = "CommunityStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Community gives names to BGP communities. BGPAdvertisements use the names."
)]
#[serde(rename_all = "camelCase")]
pub struct CommunitySpec {
    /// Names and values. A name that occurs twice, also in two Communities, is unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = aliases)]
    #[x_kube(validation = ("self.all(a, self.exists_one(b, a.name == b.name))", "duplicate definition of community: use each name once"))]
    pub communities: Vec<CommunityAlias>,
}

/// Name of a BGP community.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityAlias {
    /// Name.
    #[schemars(transform = alias_name)]
    pub name: String,

    /// Value, such as 65535:65281 (two numbers of 16 bits) or large:64512:1:2 (three numbers of 32 bits).
    #[schemars(transform = alias_value)]
    pub value: String,
}

/// State of the names.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityStatus {
    /// Valid: whether the names are valid; if not, which one is wrong and how to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// A value of a community.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CommunityValue {
    /// Of RFC 1997: `a:b`.
    Standard(u32),
    /// Of RFC 8092: `large:a:b:c`.
    Large(u32, u32, u32),
}

/// Why a text is not the value of a community.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "invalid community value {0:?}: use two numbers of 16 bits such as 65535:65281, or large: and three numbers of 32 bits such as \
     large:64512:1:2"
)]
pub struct CommunityError(String);

impl std::str::FromStr for CommunityValue {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            part.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| part.parse::<u32>().ok())
        };
        let parts: Vec<&str> = text.split(':').collect();
        let value = match parts.as_slice() {
            [high, low] => match (number(high).flatten(), number(low).flatten()) {
                (Some(high), Some(low)) if high <= 0xffff && low <= 0xffff => {
                    Some(Self::Standard(high << 16 | low))
                }
                _ => None,
            },
            ["large", one, two, three] => match [one, two, three].map(|part| number(part).flatten()) {
                [Some(one), Some(two), Some(three)] => Some(Self::Large(one, two, three)),
                _ => None,
            },
            _ => None,
        };
        value.ok_or_else(|| CommunityError(text.to_owned()))
    }
}

fn aliases(schema: &mut Schema) {
    schema::set(schema, "maxItems", 256);
}

fn alias_name(schema: &mut Schema) {
    schema::set(schema, "minLength", 1);
    schema::set(schema, "maxLength", 253);
}

fn alias_value(schema: &mut Schema) {
    schema::set(schema, "maxLength", 64);
    schema::rule(
        schema,
        "self.matches('^[0-9]{1,5}:[0-9]{1,5}$') ? self.split(':').all(part, int(part) <= 65535) : \
         (self.matches('^large:[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && self.substring(6).split(':').all(part, int(part) \
         <= 4294967295))",
        "invalid community value: expected community to be of format a:b with two numbers of 16 bits, or expected \
         community to be of format large:a:b:c with three numbers of 32 bits",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed() {
        for (text, value) in [
            ("0:0", CommunityValue::Standard(0)),
            ("65535:65281", CommunityValue::Standard(0xffff_ff01)),
            (
                "large:64512:0:4294967295",
                CommunityValue::Large(64512, 0, u32::MAX),
            ),
        ] {
            assert_eq!(text.parse(), Ok(value));
        }
        for text in [
            "",
            ":",
            "1",
            "1:",
            "1:65536",
            "+1:2",
            "1:2:3",
            "large:1:2",
            "large:1:2:4294967296",
            "LARGE:1:2:3",
            "1:2 ",
            "-1:2",
            "no-export",
        ] {
            assert!(text.parse::<CommunityValue>().is_err(), "{text}");
        }
    }
}
