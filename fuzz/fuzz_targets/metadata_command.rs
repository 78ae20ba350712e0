//! Commands of any bytes from the metadata log, applied one after another; and any bytes as a snapshot or a result.
//! Whatever came, the state is sound afterwards and the applied index has moved.

#![no_main]

use arbitrary::{Result, Unstructured};
use chronik_core::controller::{CommandResult, Envelope, MetadataState, check_invariants};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_model::RaftIndex;
use libfuzzer_sys::fuzz_target;

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut state = MetadataState::new();
    let mut index = 1;
    while !u.is_empty() && index < 40 {
        let length = usize::from(u.arbitrary::<u16>()?).min(u.len());
        let bytes = u.bytes(length)?;
        if let Ok(envelope) = Envelope::decode(bytes) {
            let again = Envelope::decode(&envelope.encode()).expect("what was encoded decodes");
            assert_eq!(again, envelope, "a command changes on the way through its encoding");
        }
        if let Ok(result) = CommandResult::decode(bytes) {
            let again = CommandResult::decode(&result.encode()).expect("what was encoded decodes");
            assert_eq!(again, result, "a result changes on the way through its encoding");
        }
        if let Ok(image) = MetadataState::decode_snapshot(bytes) {
            let again = MetadataState::decode_snapshot(&image.encode_snapshot()).expect("what was encoded decodes");
            assert_eq!(again.hash(), image.hash(), "a snapshot changes on the way through its encoding");
        }
        state.apply(RaftIndex(index), bytes);
        assert_eq!(state.applied(), RaftIndex(index));
        check_invariants(&state).unwrap_or_else(|broken| panic!("after {index} commands: {broken}"));
        index += 1;
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::commands), |data: &[u8]| {
    limited(data.len() * 200 + (16 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
