//! What a disk can do to files: flipped bits, cuts, lost, repeated and misplaced blocks, files that are gone.
//!
//! Used by the targets that build something sound, damage it and open it again. Damage happens on the platter: caches
//! do not remember how it was.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_log::disk::{Disk, MemDisk};

/// What was done to one file.
#[derive(Clone, Debug)]
pub struct Wound {
    /// The file.
    pub path: String,
    /// What happened.
    pub kind: Kind,
}

/// Kinds of damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A bit changed.
    Flip,
    /// The file ends early.
    Cut,
    /// A run of bytes is zero.
    Zero,
    /// A run of bytes was written over another place of the same file.
    Misplace,
    /// A run of bytes is there twice.
    Repeat,
    /// Bytes of another file were written here.
    Misdirect,
    /// Bytes follow the end.
    Tail,
    /// The file is gone.
    Delete,
}

/// Every file of the disk, by name.
#[must_use]
pub fn files(disk: &MemDisk) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(dir) = open.pop() {
        for entry in disk.list(&dir).expect("directories list") {
            let path = if dir.is_empty() { entry.name.clone() } else { format!("{dir}/{}", entry.name) };
            if entry.is_dir { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Replaces the content of a file, on the platter too.
pub fn put(disk: &MemDisk, path: &str, content: &[u8]) {
    let file = disk.create(path).expect("files can be replaced");
    file.append(&[content]).expect("files can be written");
    disk.sync_all().expect("disks can be synced");
}

fn run(u: &mut Unstructured<'_>, length: usize) -> Result<std::ops::Range<usize>> {
    let from = u.int_in_range(0..=length.saturating_sub(1))?;
    let most = (length - from).min(600);
    Ok(from..from + u.int_in_range(0..=most)?)
}

/// Damages one of the files; `None` when nothing is left or nothing changed.
pub fn strike(disk: &MemDisk, u: &mut Unstructured<'_>) -> Result<Option<Wound>> {
    let files = files(disk);
    if files.is_empty() {
        return Ok(None);
    }
    let path = u.choose(&files)?.clone();
    let before = disk.read(&path).expect("files can be read");
    let mut after = before.to_vec();
    let length = after.len();
    let kind = *u.choose(&[
        Kind::Flip,
        Kind::Flip,
        Kind::Cut,
        Kind::Zero,
        Kind::Misplace,
        Kind::Repeat,
        Kind::Misdirect,
        Kind::Tail,
        Kind::Delete,
    ])?;
    match kind {
        Kind::Flip if length > 0 => {
            let at = u.int_in_range(0..=length - 1)?;
            after[at] ^= 1 << u.int_in_range(0..=7_u8)?;
        }
        Kind::Cut => after.truncate(u.int_in_range(0..=length)?),
        Kind::Zero => after[run(u, length)?].fill(0),
        Kind::Misplace => {
            let from = run(u, length)?;
            let to = u.int_in_range(0..=length.saturating_sub(from.len()))?;
            after[to..to + from.len()].copy_from_slice(&before[from]);
        }
        Kind::Repeat => {
            let from = run(u, length)?;
            let end = from.end;
            after.splice(end..end, before[from].iter().copied());
        }
        Kind::Misdirect => {
            let other: Bytes = disk.read(u.choose(&files)?).expect("files can be read");
            let from = run(u, other.len())?;
            let to = u.int_in_range(0..=length)?;
            let end = (to + from.len()).min(length);
            after.splice(to..end, other[from].iter().copied());
        }
        Kind::Tail => after.extend_from_slice(u.bytes(u.len().min(40))?),
        Kind::Delete => {
            disk.remove_file(&path).expect("files can be removed");
            disk.sync_all().expect("disks can be synced");
            return Ok(Some(Wound { path, kind }));
        }
        Kind::Flip => {}
    }
    if after[..] == before[..] {
        return Ok(None);
    }
    put(disk, &path, &after);
    Ok(Some(Wound { path, kind }))
}

/// Flips, cuts, repeats and inserts in a text.
///
/// # Errors
/// The input is used up.
pub fn damaged(u: &mut Unstructured<'_>, text: &[u8]) -> Result<Vec<u8>> {
    let disk = MemDisk::new();
    put(&disk, "file", text);
    for _ in 0..u.int_in_range(1..=3)? {
        let _ = strike(&disk, u)?;
    }
    let mut bytes = disk.read("file").map(|bytes| bytes.to_vec()).unwrap_or_default();
    if u.ratio(1, 3)? {
        let at = u.int_in_range(0..=bytes.len())?;
        let length = u.len().min(30);
        let more = u.bytes(length)?.to_vec();
        bytes.splice(at..at, more);
    }
    Ok(bytes)
}
