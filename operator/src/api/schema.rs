//! Pieces of the schema that the derives do not write.
//!
//! Parts of pods are typed in Rust and opaque in the schema: their full schemas would make the definition larger than client-side
//! apply can store. Every list and map has a limit, without which the API server refuses rules over it as too costly.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

pub(super) const MAX_SETTINGS: u64 = 100;
pub(super) const MAX_LABELS: u64 = 64;

/// An object that the API server does not look into.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn any_objects(max_items: u64) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": max_items,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

pub(super) fn spread_constraints(_: &mut SchemaGenerator) -> Schema {
    any_objects(16)
}

pub(super) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    any_objects(64)
}

pub(super) fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253}},
        },
    })
}

pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// A quantity, always written as text so that rules can compare it.
pub(super) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 24,
        "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
    })
}

/// A positive duration as Go writes it.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 24,
        "pattern": r"^([0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m|h))+$",
    })
}

pub(super) fn settings_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_SETTINGS,
        "additionalProperties": {"x-kubernetes-int-or-string": true},
    })
}

/// Reads settings whose values may be numbers.
pub(super) fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Settings;

    impl<'de> Visitor<'de> for Settings {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of settings")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut settings = BTreeMap::new();
            while let Some((key, Setting(value))) = map.next_entry::<String, Setting>()? {
                settings.insert(key, value);
            }
            Ok(settings)
        }
    }

    deserializer.deserialize_any(Settings)
}

struct Setting(String);

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl Visitor<'_> for Value {
            type Value = Setting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Setting, E> {
                Ok(Setting(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Setting, E> {
                Ok(Setting(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Setting, E> {
                Ok(Setting(value.to_string()))
            }
        }

        deserializer.deserialize_any(Value)
    }
}
