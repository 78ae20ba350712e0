//! The one map from this broker's errors to Kafka's.

use chronik_core::controller::CommandError;
use chronik_model::ErrorCode;

use crate::replication::meta::ProposeError;

/// Messages quote what the client sent, which may be as long as a string of Kafka can be; a longer one has no encoding.
const MAX_MESSAGE: usize = 4000;

/// A refusal as Kafka's clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = (0..=MAX_MESSAGE.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        Self { code, message }
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
