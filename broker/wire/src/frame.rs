//! The 4-byte length in front of every request and response.
//!
//! The connection reads the prefix, asks [`body_length`] and only then reserves room for the body.

/// Bytes of the length.
pub const PREFIX_BYTES: usize = 4;

/// Frames above this are refused unless configured otherwise (`socket.request.max.bytes` in Kafka).
pub const DEFAULT_MAX_BYTES: usize = 100 * 1024 * 1024;

/// A length that no frame may have. The stream is out of step or hostile: the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Negative.
    #[error("frame length {0} is negative")]
    Negative(i32),
    /// Longer than allowed.
    #[error("frame of {length} bytes is longer than the {max} allowed")]
    TooLong {
        /// The length stated.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
}

/// Bytes of the frame that follow its prefix, at most `max_bytes`.
///
/// # Errors
/// [`FrameError`].
pub fn body_length(prefix: [u8; PREFIX_BYTES], max_bytes: usize) -> Result<usize, FrameError> {
    let stated = i32::from_be_bytes(prefix);
    let length = usize::try_from(stated).map_err(|_| FrameError::Negative(stated))?;
    if length > max_bytes {
        return Err(FrameError::TooLong { length, max: max_bytes });
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_up_to_the_limit_are_taken() {
        assert_eq!(body_length([0, 0, 0, 0], 10), Ok(0));
        assert_eq!(body_length([0, 0, 0, 10], 10), Ok(10));
    }

    #[test]
    fn negative_and_oversized_lengths_are_refused() {
        assert_eq!(body_length([0xff; 4], 10), Err(FrameError::Negative(-1)));
        assert_eq!(body_length([0, 0, 0, 11], 10), Err(FrameError::TooLong { length: 11, max: 10 }));
        let http = *b"GET ";
        assert!(matches!(body_length(http, DEFAULT_MAX_BYTES), Err(FrameError::TooLong { .. })));
    }
}
