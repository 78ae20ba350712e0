//! The body of every request, every response and every coordinator record in every version. The first byte names the
//! message, the second the version. What decodes must encode to bytes that decode to the same.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use chronik_fuzz::memory::limited;
use chronik_fuzz::messages::{AnyMessage, every_message};
use chronik_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

static MESSAGES: LazyLock<Vec<AnyMessage>> = LazyLock::new(every_message);

fuzz_target!(init: seeds::write(seeds::messages), |data: &[u8]| {
    let messages = &*MESSAGES;
    let [which, version, body @ ..] = data else { return };
    let message = &messages[usize::from(*which) % messages.len()];
    let (low, high) = (*message.versions.start(), *message.versions.end());
    let version = low + i16::from(*version) % (high - low + 1);
    limited(data.len() * 64 + (1 << 20), || (message.check)(&Bytes::copy_from_slice(body), version));
});
