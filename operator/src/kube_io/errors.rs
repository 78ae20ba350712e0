//! What an answer of the API server means to a pass.

use kube::core::Status;

use crate::ports::KubeError;

pub(super) fn convert(error: &kube::Error) -> KubeError {
    match error {
        kube::Error::Api(status) => convert_status(status),
        // An object that this version cannot read stays so until somebody changes it.
        kube::Error::SerdeError(error) => KubeError::Invalid(error.to_string()),
        kube::Error::BuildRequest(error) => KubeError::Invalid(error.to_string()),
        other => KubeError::Unavailable(chain(other)),
    }
}

fn convert_status(status: &Status) -> KubeError {
    let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
    match status.code {
        404 => KubeError::NotFound(message),
        409 => KubeError::Conflict(message),
        401 | 403 => KubeError::Forbidden(message),
        // A merge patch that names the uid of an object that has been replaced tries, to the API server, to change it.
        422 if concerns(status, "metadata.uid") => KubeError::Conflict(message),
        400 | 405 | 406 | 413 | 415 | 422 => KubeError::Invalid(message),
        _ => KubeError::Unavailable(format!("{} {message}", status.code)),
    }
}

fn concerns(status: &Status, field: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.causes.iter().any(|cause| cause.field == field))
}

/// An error with its causes: the outermost says no more than that something failed.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, field: Option<&str>) -> Status {
        let causes: Vec<_> = field.into_iter().map(|field| serde_json::json!({ "field": field })).collect();
        serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": code, "message": "m", "reason": "R", "details": { "causes": causes },
        }))
        .unwrap()
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(convert_status(&status(404, None)), KubeError::NotFound("m".into()));
        assert_eq!(convert_status(&status(409, None)), KubeError::Conflict("m".into()));
        assert_eq!(convert_status(&status(403, None)), KubeError::Forbidden("m".into()));
        assert_eq!(convert_status(&status(422, Some("spec.replicas"))), KubeError::Invalid("m".into()));
        for code in [0, 408, 429, 500, 502, 503, 504] {
            assert!(matches!(convert_status(&status(code, None)), KubeError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn a_patch_of_an_object_that_was_replaced_is_a_conflict() {
        assert_eq!(convert_status(&status(422, Some("metadata.uid"))), KubeError::Conflict("m".into()));
    }
}
