//! `chronik-operator crds apply`: brings the definitions of this version into the cluster.
//!
//! Called by `main`, also as the job that a chart runs before an upgrade. Server-side applied, so that what others manage in
//! a definition (labels of a package manager) stays; ends when the API server serves the definitions, so that the next
//! command may use them.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::time::{sleep, timeout};

use super::errors::chain;
use crate::ports::FIELD_MANAGER;

const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    #[error("could not apply {name}: {error}")]
    Apply { name: String, error: String },
    #[error("{name} is not served within {seconds} seconds: {last}")]
    NotEstablished { name: String, seconds: u64, last: String },
}

/// Applies all of them, then waits for each. Answers their names.
pub async fn apply(
    client: &Client,
    crds: &[CustomResourceDefinition],
    patience: Duration,
) -> Result<Vec<String>, CrdError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let mut names = Vec::new();
    for crd in crds {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let failed = |error: String| CrdError::Apply { name: name.clone(), error };
        match timeout(patience, api.patch(&name, &params, &Patch::Apply(crd))).await {
            Ok(Ok(_)) => names.push(name),
            Ok(Err(error)) => return Err(failed(chain(&error))),
            Err(_) => return Err(failed("no answer in time".to_owned())),
        }
    }
    for name in &names {
        let mut last = "not looked at yet".to_owned();
        if timeout(patience, established(&api, name, &mut last)).await.is_err() {
            return Err(CrdError::NotEstablished { name: name.clone(), seconds: patience.as_secs(), last });
        }
    }
    Ok(names)
}

async fn established(api: &Api<CustomResourceDefinition>, name: &str, last: &mut String) {
    loop {
        match api.get(name).await {
            Ok(crd) => match state(&crd) {
                None => return,
                Some(state) => *last = state,
            },
            Err(error) => *last = chain(&error),
        }
        sleep(POLL).await;
    }
}

/// What is missing; None = established.
fn state(crd: &CustomResourceDefinition) -> Option<String> {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str, value: &str| conditions.iter().any(|c| c.type_ == kind && c.status == value);
    if is("Established", "True") && !is("NamesAccepted", "False") {
        return None;
    }
    let said: Vec<_> = conditions
        .iter()
        .filter(|c| c.status != "True")
        .map(|c| format!("{}: {}", c.type_, c.message.as_deref().unwrap_or("no reason given")))
        .collect();
    Some(if said.is_empty() { "not established yet".to_owned() } else { said.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(conditions: &serde_json::Value) -> CustomResourceDefinition {
        let mut crd = crate::api::crd::crds().remove(0);
        let status = serde_json::json!({ "conditions": conditions });
        crd.status = Some(serde_json::from_value(status).unwrap());
        crd
    }

    #[test]
    fn a_definition_is_served_when_it_is_established_and_its_names_are_free() {
        let established = serde_json::json!({ "type": "Established", "status": "True" });
        let taken =
            serde_json::json!({ "type": "NamesAccepted", "status": "False", "message": "\"ccl\" is already in use" });
        assert_eq!(state(&crd(&serde_json::json!([established]))), None);
        assert!(state(&crd(&serde_json::json!([established, taken]))).unwrap().contains("already in use"));
        assert_eq!(state(&crd(&serde_json::json!([]))).unwrap(), "not established yet");
        assert!(state(&crate::api::crd::crds()[0]).is_some());
    }
}
