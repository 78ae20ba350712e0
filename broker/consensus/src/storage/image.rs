//! State images on disk: one file each, written aside, synced, renamed, so that a file under its final name is whole.
//!
//! ```text
//! magic 8 | version u32 | node i32 | index u64 | term u64 | members length u32 | crc32c of the header u32
//! | crc32c of the rest u32 | 0 u32 | members | image        (little endian)
//! ```

use bytes::Buf;
use chronik_log::disk::Disk;
use chronik_model::NodeId;
use prost::Message as _;

use super::segments::failed;
use crate::chunks::crc32c;
use crate::error::{OpenError, StorageFailed};
use crate::mirror::{ConfState, Snapshot, SnapshotMetadata};

const MAGIC: &[u8; 8] = b"CHRKIMG1";
const VERSION: u32 = 1;
const HEADER: usize = 48;

/// Path of the image of `index` and `term`.
pub(super) fn path(dir: &str, index: u64, term: u64) -> String {
    format!("{dir}/image-{index:016x}-{term:016x}.img")
}

/// Writes an image durably.
pub(super) fn write<D: Disk>(
    disk: &D,
    dir: &str,
    node: NodeId,
    index: u64,
    term: u64,
    members: &ConfState,
    image: &[u8],
) -> Result<(), StorageFailed> {
    let members = members.encode_to_vec();
    let mut rest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    rest.update(&members);
    rest.update(image);
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&node.0.to_le_bytes());
    header.extend_from_slice(&index.to_le_bytes());
    header.extend_from_slice(&term.to_le_bytes());
    header.extend_from_slice(&(members.len() as u32).to_le_bytes());
    header.extend_from_slice(&crc32c(&header).to_le_bytes());
    header.extend_from_slice(&(rest.finalize() as u32).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    let path = path(dir, index, term);
    let aside = format!("{path}.tmp");
    let write = || {
        let file = disk.create(&aside).map_err(failed("creating", &aside))?;
        file.append(&[&header, &members, image]).map_err(failed("writing", &aside))?;
        file.sync().map_err(failed("syncing", &aside))
    };
    if let Err(failure) = write() {
        // A full disk must not stay full of half an image; if this fails too, recovery removes it.
        let _ = disk.remove_file(&aside);
        return Err(failure);
    }
    disk.rename(&aside, &path).map_err(failed("renaming to", &path))?;
    disk.sync_dir(dir).map_err(failed("syncing", dir))
}

/// Reads an image back and checks all of it.
pub(super) fn read<D: Disk>(disk: &D, dir: &str, index: u64, term: u64) -> Result<Snapshot, OpenError> {
    let path = path(dir, index, term);
    let corrupted =
        |offset: usize, problem: String| OpenError::Corrupted { path: path.clone(), offset: offset as u64, problem };
    let bytes = match disk.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(corrupted(0, "the state image that the log refers to is missing".to_owned()));
        }
        Err(e) => return Err(failed("reading", &path)(e).into()),
    };
    let Some(mut header) = bytes.get(..HEADER) else {
        return Err(corrupted(bytes.len(), "the header is cut off".to_owned()));
    };
    if !header.starts_with(MAGIC) {
        return Err(corrupted(0, "not a state image".to_owned()));
    }
    let header_crc = crc32c(&header[..36]);
    header.advance(8);
    let version = header.get_u32_le();
    if version != VERSION {
        return Err(corrupted(8, format!("format version {version}, this program knows {VERSION}")));
    }
    header.advance(4);
    let (found_index, found_term) = (header.get_u64_le(), header.get_u64_le());
    let members_length = header.get_u32_le() as usize;
    if header.get_u32_le() != header_crc {
        return Err(corrupted(36, "the checksum of the header is wrong".to_owned()));
    }
    let rest_crc = header.get_u32_le();
    let rest = bytes.slice(HEADER..);
    if crc32c(&rest) != rest_crc || members_length > rest.len() {
        return Err(corrupted(HEADER, "the checksum is wrong".to_owned()));
    }
    if (found_index, found_term) != (index, term) {
        return Err(corrupted(16, format!("it is of index {found_index}, term {found_term}")));
    }
    let conf_state =
        ConfState::decode(rest.slice(..members_length)).map_err(|e| corrupted(HEADER, format!("members: {e}")))?;
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index, term };
    Ok(Snapshot { data: rest.slice(members_length..), metadata: Some(metadata) })
}

/// Removes every image but the one in force, and what was left half written.
pub(super) fn remove_others<D: Disk>(disk: &D, dir: &str, keep: (u64, u64)) -> Result<(), StorageFailed> {
    let keep = path(dir, keep.0, keep.1);
    for entry in disk.list(dir).map_err(failed("listing", dir))? {
        let path = format!("{dir}/{}", entry.name);
        if entry.name.starts_with("image-") && path != keep {
            disk.remove_file(&path).map_err(failed("removing", &path))?;
        }
    }
    Ok(())
}
