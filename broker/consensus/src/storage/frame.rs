//! Records and frames: the bytes of the Raft log.
//!
//! A record is typed and versioned; a frame holds all records that one fsync made durable, under one checksum, so a
//! batch is on disk as a whole or not at all. The checksum covers the segment's number and the frame's position:
//! bytes that happen to look like a frame elsewhere (a proposal may contain anything) are never taken for one.
//!
//! ```text
//! frame  = length u32 | crc32c u32 | batch u64 | records ... | zeros up to a multiple of 8     (little endian)
//! record = kind u8 | version u8 | 0 u16 | length u32 | payload
//! ```

use bytes::{Buf, Bytes};
use prost::Message as _;

use crate::mirror::{ConfState, Entry, HardState};

pub(super) const FRAME_HEADER: usize = 16;
const RECORD_HEADER: usize = 8;
const RECORD_VERSION: u8 = 1;

/// One fact, in the order written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// Term, vote and commit from now on.
    HardState(HardState),
    /// An entry; it replaces those of its index and higher.
    Entry(Entry),
    /// The members as of an applied index.
    ConfState { index: u64, state: ConfState },
    /// Entries up to `index` are gone.
    Compacted { index: u64, term: u64 },
    /// The state image in force.
    Image { index: u64, term: u64 },
    /// The log starts anew behind an installed image: all entries before this record are gone.
    Reset { index: u64, term: u64 },
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::HardState(_) => 1,
            Self::Entry(_) => 2,
            Self::ConfState { .. } => 3,
            Self::Compacted { .. } => 4,
            Self::Image { .. } => 5,
            Self::Reset { .. } => 6,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind(), RECORD_VERSION, 0, 0, 0, 0, 0, 0]);
        let start = out.len();
        match self {
            // Encoding into a vector cannot run out of space.
            Self::HardState(state) => out.extend_from_slice(&state.encode_to_vec()),
            Self::Entry(entry) => {
                out.reserve(entry.encoded_len());
                let _ = entry.encode(out);
            }
            Self::ConfState { index, state } => {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&state.encode_to_vec());
            }
            Self::Compacted { index, term } | Self::Image { index, term } | Self::Reset { index, term } => {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&term.to_le_bytes());
            }
        }
        let length = (out.len() - start) as u32;
        out[start - 4..start].copy_from_slice(&length.to_le_bytes());
    }

    fn decode(kind: u8, version: u8, mut payload: Bytes) -> Result<Self, String> {
        if version != RECORD_VERSION {
            return Err(format!("record version {version}, this program knows {RECORD_VERSION}"));
        }
        let pair = |mut payload: Bytes| {
            if payload.len() == 16 {
                Ok((payload.get_u64_le(), payload.get_u64_le()))
            } else {
                Err(format!("a record of kind {kind} has {} bytes instead of 16", payload.len()))
            }
        };
        match kind {
            1 => HardState::decode(payload).map(Self::HardState).map_err(|e| format!("hard state: {e}")),
            2 => Entry::decode(payload).map(Self::Entry).map_err(|e| format!("entry: {e}")),
            3 if payload.len() >= 8 => {
                let index = payload.get_u64_le();
                let state = ConfState::decode(payload).map_err(|e| format!("members: {e}"))?;
                Ok(Self::ConfState { index, state })
            }
            4 => pair(payload).map(|(index, term)| Self::Compacted { index, term }),
            5 => pair(payload).map(|(index, term)| Self::Image { index, term }),
            6 => pair(payload).map(|(index, term)| Self::Reset { index, term }),
            _ => Err(format!("unknown record kind {kind}: written by a newer version?")),
        }
    }
}

/// Where a frame lies and which batch it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) position: u64,
}

fn checksum(place: Place, batch: u64, body: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&place.segment.to_le_bytes());
    digest.update(&place.position.to_le_bytes());
    digest.update(&batch.to_le_bytes());
    digest.update(body);
    // The algorithm yields 32 bits in a 64-bit integer.
    digest.finalize() as u32
}

/// The records as one run of bytes, to be put into a frame once its place is known.
pub(super) fn encode_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        record.encode(&mut body);
    }
    body
}

/// The header of a frame whose records are `body`, and the padding behind it.
pub(super) fn frame_around(place: Place, batch: u64, body: &[u8]) -> ([u8; FRAME_HEADER], &'static [u8]) {
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&checksum(place, batch, body).to_le_bytes());
    header[8..].copy_from_slice(&batch.to_le_bytes());
    (header, &[0; 8][..padding(body.len())])
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(8) - length
}

/// A frame whose checksum is right.
pub(super) struct Frame {
    pub(super) batch: u64,
    pub(super) body: Bytes,
    /// Position behind it.
    pub(super) end: usize,
}

/// The frame at `position`, if there is a whole and undamaged one.
pub(super) fn frame_at(segment: u64, bytes: &Bytes, position: usize) -> Option<Frame> {
    let mut header = bytes.get(position..position.checked_add(FRAME_HEADER)?)?;
    let length = usize::try_from(header.get_u32_le()).ok()?;
    let crc = header.get_u32_le();
    let batch = header.get_u64_le();
    let start = position + FRAME_HEADER;
    let body = bytes.get(start..start.checked_add(length)?)?;
    if length == 0 || checksum(Place { segment, position: position as u64 }, batch, body) != crc {
        return None;
    }
    // The padding behind the last frame may be cut off; it carries nothing.
    let end = (start + length + padding(length)).min(bytes.len());
    Some(Frame { batch, body: bytes.slice(start..start + length), end })
}

/// The records of a frame. An error names what is wrong; it cannot come from a power cut.
pub(super) fn decode_records(mut body: Bytes, out: &mut Vec<Record>) -> Result<(), String> {
    while !body.is_empty() {
        if body.len() < RECORD_HEADER {
            return Err("a record header is cut off".to_owned());
        }
        let (kind, version) = (body.get_u8(), body.get_u8());
        body.advance(2);
        let length = body.get_u32_le() as usize;
        if length > body.len() {
            return Err(format!("a record of {length} bytes where {} are left", body.len()));
        }
        out.push(Record::decode(kind, version, body.split_to(length))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        vec![
            Record::HardState(HardState { term: 7, vote: 2, commit: 40 }),
            Record::Entry(Entry { term: 7, index: 41, data: Bytes::from_static(b"hello"), ..Entry::default() }),
            Record::ConfState {
                index: 5,
                state: ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() },
            },
            Record::Compacted { index: 9, term: 3 },
            Record::Image { index: 12, term: 3 },
            Record::Reset { index: 12, term: 3 },
        ]
    }

    fn framed(place: Place, batch: u64) -> Bytes {
        let body = encode_records(&records());
        let (header, pad) = frame_around(place, batch, &body);
        [&header[..], &body, pad].concat().into()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = framed(Place { segment: 3, position: 0 }, 11);
        let frame = frame_at(3, &bytes, 0).expect("whole");
        assert_eq!((frame.batch, frame.end), (11, bytes.len()));
        let mut out = Vec::new();
        decode_records(frame.body, &mut out).expect("well formed");
        assert_eq!(out, records());
    }

    #[test]
    fn a_frame_is_one_only_at_its_own_place_and_undamaged() {
        let bytes = framed(Place { segment: 3, position: 0 }, 11);
        assert!(frame_at(4, &bytes, 0).is_none(), "another segment");
        let moved: Bytes = [&[0; 8][..], &bytes].concat().into();
        assert!(frame_at(3, &moved, 8).is_none(), "another position");
        let carried: usize = encode_records(&records()).len() + FRAME_HEADER;
        for at in 0..carried {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(frame_at(3, &damaged.into(), 0).is_none(), "byte {at}");
        }
        for end in 0..carried {
            assert!(frame_at(3, &bytes.slice(..end), 0).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn unknown_kinds_and_versions_are_refused_by_name() {
        let mut out = Vec::new();
        let error = decode_records(Bytes::from_static(&[9, 1, 0, 0, 0, 0, 0, 0]), &mut out).unwrap_err();
        assert!(error.contains("unknown record kind 9"), "{error}");
        let error = decode_records(Bytes::from_static(&[1, 2, 0, 0, 0, 0, 0, 0]), &mut out).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
        let error = decode_records(Bytes::from_static(&[2, 1, 0, 0, 200, 0, 0, 0]), &mut out).unwrap_err();
        assert!(error.contains("200 bytes where 0 are left"), "{error}");
    }
}
