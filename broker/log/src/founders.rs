//! The voters that a broker was founded with, in a file beside its identity.
//!
//! The start of the broker writes it once, before the identity, and reads it at every restart: peers compare it in their
//! greetings, so a list that lost a voter would make one broker a stranger to the others. What is not byte for byte what
//! would be written now is refused, never read as far as it goes.

use std::io;

use chronik_model::NodeId;

use crate::error::LogError;
use crate::log_dir::LogDir;

const FILE: &str = "founders";

impl LogDir {
    /// Writes the voters that this broker is founded with.
    ///
    /// # Errors
    /// The disk failed, and the directory is offline.
    pub fn write_founders(&self, voters: &[NodeId]) -> Result<(), LogError> {
        self.disk().write_atomic(FILE, sealed(&list(voters)).as_bytes()).map_err(self.fatal("write", FILE))
    }

    /// The voters that this broker was founded with; none for a joiner. A list without a checksum, as it was written
    /// before there was one, gets it now.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the file is not exactly understood.
    pub fn founders(&self) -> Result<Vec<NodeId>, LogError> {
        let content = match self.disk().read(FILE) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LogError::io("read", FILE)(error)),
        };
        let corrupt = |reason: &str| LogError::Corrupt { path: FILE.to_owned(), reason: reason.to_owned() };
        let text = std::str::from_utf8(&content).map_err(|_| corrupt("not text"))?;
        let bare = !text.contains('\n');
        let stated = if bare { Some(text) } else { text.lines().find_map(|line| line.strip_prefix("voters=")) };
        let voters = stated.and_then(parse).ok_or_else(|| corrupt("not a list of node ids"))?;
        if bare {
            self.write_founders(&voters)?;
        } else if text != sealed(&list(&voters)) {
            return Err(corrupt("checksum mismatch, or of a version that this release does not know"));
        }
        Ok(voters)
    }
}

fn sealed(list: &str) -> String {
    let body = format!("version=1\nvoters={list}\n");
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, body.as_bytes()) as u32;
    format!("{body}crc={crc:08x}\n")
}

fn list(voters: &[NodeId]) -> String {
    let ids: Vec<String> = voters.iter().map(NodeId::to_string).collect();
    ids.join(",")
}

/// Ids from 1 on, ascending, written as [`list`] does.
fn parse(text: &str) -> Option<Vec<NodeId>> {
    let voters: Vec<NodeId> = text.split(',').map(|id| id.parse().ok().map(NodeId)).collect::<Option<_>>()?;
    let ascending = voters.windows(2).all(|pair| pair[0] < pair[1]);
    (ascending && voters[0].0 > 0 && list(&voters) == text).then_some(voters)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::{Disk, MemDisk};

    fn dir(disk: &MemDisk) -> Arc<LogDir> {
        LogDir::new(Arc::new(disk.clone()))
    }

    fn put(disk: &MemDisk, content: &[u8]) {
        disk.write_atomic(FILE, content).unwrap();
    }

    const THREE: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(30)];

    #[test]
    fn founders_are_found_again_and_a_joiner_has_none() {
        let disk = MemDisk::new();
        assert_eq!(dir(&disk).founders().unwrap(), []);
        dir(&disk).write_founders(&THREE).unwrap();
        disk.crash(0);
        assert_eq!(dir(&disk).founders().unwrap(), THREE);
    }

    #[test]
    fn a_list_with_any_flipped_bit_or_missing_byte_is_refused_not_shortened() {
        let whole = sealed(&list(&THREE)).into_bytes();
        let refused = |content: &[u8]| {
            let disk = MemDisk::new();
            put(&disk, content);
            matches!(dir(&disk).founders(), Err(LogError::Corrupt { .. }))
        };
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&broken), "bit {bit}: {}", String::from_utf8_lossy(&broken));
        }
        for length in 0..whole.len() {
            assert!(refused(&whole[..length]), "length {length}");
        }
        assert!(refused(&[&whole[..], b"\n"].concat()));
    }

    #[test]
    fn a_list_without_a_checksum_is_understood_exactly_or_refused_and_gets_one() {
        let disk = MemDisk::new();
        put(&disk, b"1,2,30");
        assert_eq!(dir(&disk).founders().unwrap(), THREE);
        assert_eq!(disk.read(FILE).unwrap(), sealed("1,2,30").into_bytes());
        for text in ["", "1,\"2,3", "1,x,3", "1,,3", "1,3,2", "1,1,2", "0,1", "-1,2", "1, 2", "+1", "01", "1,2,"] {
            put(&disk, text.as_bytes());
            assert!(matches!(dir(&disk).founders(), Err(LogError::Corrupt { .. })), "{text}");
        }
    }
}
