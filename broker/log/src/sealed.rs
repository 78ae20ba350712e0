//! Small files that say whether they are whole: magic, version, CRC-32C, content.
//!
//! Used for checkpoints, epoch caches, snapshots and indexes. A file that fails the check is treated as absent by
//! those that can be derived from the log, and as corruption by those that cannot.

/// Bytes in front of the content: magic, version, checksum.
const HEADER: usize = 4 + 2 + 4;

/// Wraps content.
pub(crate) fn seal(magic: [u8; 4], version: u16, content: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(HEADER + content.len());
    sealed.extend_from_slice(&magic);
    sealed.extend_from_slice(&version.to_be_bytes());
    sealed.extend_from_slice(&crc(version, content).to_be_bytes());
    sealed.extend_from_slice(content);
    sealed
}

/// The content, if magic, version and checksum are right.
pub(crate) fn unseal(magic: [u8; 4], version: u16, sealed: &[u8]) -> Result<&[u8], &'static str> {
    let Some((header, content)) = sealed.split_at_checked(HEADER) else { return Err("cut short") };
    if header[..4] != magic {
        return Err("not a file of this kind");
    }
    if header[4..6] != version.to_be_bytes() {
        return Err("of a version that this release does not know");
    }
    if header[6..10] != crc(version, content).to_be_bytes() {
        return Err("checksum mismatch");
    }
    Ok(content)
}

fn crc(version: u16, content: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&version.to_be_bytes());
    digest.update(content);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_or_missing_byte_is_noticed() {
        let sealed = seal(*b"TEST", 1, b"content");
        assert_eq!(unseal(*b"TEST", 1, &sealed), Ok(&b"content"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(*b"TEST", 1, &broken).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal(*b"TEST", 1, &sealed[..length]).is_err(), "length {length}");
        }
    }
}
