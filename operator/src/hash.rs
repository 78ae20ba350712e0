//! Digests of desired objects, and whether a live object already is as desired.
//!
//! Called by `build` (template revision) and [`crate::reconcile`], which writes an object only when its digest changed or a field
//! that the operator sets is different in the live object. So a converged cluster causes no write, and a change by another
//! hand is put right.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::quantity;

/// First 16 hexadecimal digits of the SHA-256 of the value's JSON. Keys are sorted, so equal values have equal digests.
#[must_use]
pub fn digest(value: &impl Serialize) -> String {
    digest_of(&serde_json::to_value(value).unwrap_or_default())
}

/// The same of what is JSON already.
#[must_use]
pub fn digest_of(value: &Value) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let first = Sha256::digest(text).iter().take(8).fold(0_u64, |first, byte| (first << 8) | u64::from(*byte));
    format!("{first:016x}")
}

/// Whether everything that `desired` says holds in `live`, which may say more: defaults, status, other people's fields.
#[must_use]
pub fn holds_in(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().all(|(key, value)| {
            // Empty is the same as absent in every object of Kubernetes.
            live.get(key).map_or_else(|| is_empty(value), |live| holds_in(value, live))
        }),
        (Value::Array(desired), Value::Array(live)) => {
            desired.iter().all(|item| live.iter().any(|other| holds_in(item, other)))
        }
        (Value::String(desired), Value::String(live)) => desired == live || same_quantity(desired, live),
        (desired, live) => desired == live,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(_) => false,
    }
}

/// The API server rewrites quantities: 1024Mi is 1Gi.
fn same_quantity(a: &str, b: &str) -> bool {
    let value = |text: &str| quantity::thousandths(text);
    value(a).is_some_and(|a| value(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_difference() {
        let desired = json!({"a": {"b": 1}, "ports": [{"name": "x", "port": 1}], "size": "1Gi", "off": false});
        let live = json!({"a": {"b": 1, "c": 2}, "ports": [{"name": "y"}, {"name": "x", "port": 1, "protocol": "TCP"}],
            "size": "1024Mi", "status": {}});
        assert!(holds_in(&desired, &live));
        assert!(!holds_in(&json!({"a": {"b": 2}}), &live));
        assert!(!holds_in(&json!({"ports": [{"name": "x", "port": 2}]}), &live));
        assert!(!holds_in(&json!({"size": "2Gi"}), &live));
        assert!(!holds_in(&json!({"missing": 1}), &live));
    }

    #[test]
    fn equal_values_have_equal_digests() {
        assert_eq!(digest(&json!({"a": 1, "b": 2})), digest(&json!({"b": 2, "a": 1})));
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": 2})));
        assert_eq!(digest(&json!({})), "44136fa355b3678a", "digests are written down in clusters");
        assert_eq!(digest(&"x"), digest_of(&json!("x")));
    }
}
