//! The custom resource definition as text.
//!
//! `chronik-operator crds` prints it, `chronik-operator crds apply` sends it, and `crds/chronikclusters.yaml` is a copy that a test
//! compares. The text is the same for the same source: keys are sorted, and every text that another YAML reader could take
//! for something else is quoted.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::ChronikCluster;

/// Every custom resource definition that the operator needs.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![ChronikCluster::crd()]
}

/// [`crds`] as YAML.
#[must_use]
pub fn crd_yaml() -> String {
    let mut text = String::new();
    for crd in crds() {
        text.push_str("---\n");
        // A definition made of derived types is always JSON.
        let value = serde_json::to_value(&crd).unwrap_or(Value::Null);
        emit(&value, 0, &mut text);
    }
    text
}

/// Writes `value` as block YAML, indented by `indent` spaces.
fn emit(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&" ".repeat(indent));
                emit_entry(key, value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&" ".repeat(indent));
                text.push_str("- ");
                emit_item(item, indent, text);
            }
        }
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
}

/// Writes `key: value`; the indentation is already there.
fn emit_entry(key: &str, value: &Value, indent: usize, text: &mut String) {
    text.push_str(&scalar(key));
    text.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            emit(value, indent + 2, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            emit(value, indent + 2, text);
        }
        other => {
            text.push(' ');
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
}

/// Writes an item of a list; the indentation and the dash are already there.
fn emit_item(item: &Value, indent: usize, text: &mut String) {
    match item {
        Value::Object(map) if !map.is_empty() => {
            for (nth, (key, value)) in map.iter().enumerate() {
                if nth > 0 {
                    text.push_str(&" ".repeat(indent + 2));
                }
                emit_entry(key, value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let list: Vec<String> = items.iter().map(Value::to_string).collect();
            text.push_str(&format!("[{}]\n", list.join(", ")));
        }
        other => {
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// `text` bare where every YAML reader takes it for text, else in JSON's quotes, which YAML shares.
fn scalar(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let taken = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    if begins && text.chars().all(bare) && !taken.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}
