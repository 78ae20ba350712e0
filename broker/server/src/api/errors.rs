//! The one map from this broker's errors to Kafka's.

use chronik_core::controller::CommandError;
use chronik_model::ErrorCode;

use crate::replication::meta::ProposeError;

/// A refusal as Kafka's clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        let code = match &error {
            ProposeError::TimedOut => ErrorCode::RequestTimedOut,
            // Another broker can serve the retry.
            ProposeError::Stopped => ErrorCode::NotController,
            ProposeError::Refused(_) => ErrorCode::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.text())
    }
}
