//! How far the log was durable once, written down outside of the log.
//!
//! The end of a log that a power cut tore off was never promised; an end that the disk had confirmed and lost was. From
//! the log alone nobody can tell the two apart, and a voter that takes the second for the first forgets votes, entries that
//! count as committed, and members: it may even believe to be the only voter still. So after each batch that was synced
//! its number is appended to a file of its own, which recovery compares with what it finds.
//!
//! Called by [`super::segments`] only. A mark costs a write into the page cache and no sync, so it outlives the process and
//! may not outlive a power cut; each start and each change of members sync it. What never happens: a mark for a batch that was not
//! durable before. So the newest sound mark is a lower bound, and a lost, torn or damaged one only says less; nothing
//! here ever fails the log.
//!
//! ```text
//! mark = batch u64 | version u32 | crc32c of these and of the node u32      (little endian)
//! ```

use bytes::{Buf, Bytes};
use chronik_log::disk::{Disk, FileRef};
use chronik_model::NodeId;

use crate::chunks::crc32c;

const VERSION: u32 = 1;
const MARK: usize = 16;
/// The file begins anew at this length.
const MAX_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Marks {
    path: String,
    node: NodeId,
    file: Option<FileRef>,
    /// There was none: it is to be made, and its name to be made durable; one that recovery found is.
    new: bool,
    /// Highest batch found when it was opened.
    found: u64,
}

fn mark(node: NodeId, batch: u64) -> [u8; MARK] {
    let mut out = [0; MARK];
    out[..8].copy_from_slice(&batch.to_le_bytes());
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    // The node in place of its own checksum: the mark of another node counts for nothing.
    out[12..].copy_from_slice(&node.0.to_le_bytes());
    let crc = crc32c(&out);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn newest(node: NodeId, mut bytes: Bytes) -> u64 {
    let mut newest = 0;
    while bytes.len() >= MARK {
        let found = bytes.split_to(MARK);
        let batch = found.clone().get_u64_le();
        if found[..] == mark(node, batch) {
            newest = newest.max(batch);
        }
    }
    newest
}

impl Marks {
    /// Reads the marks in `dir`; none when there is no such file, or it cannot be read.
    pub(super) fn open<D: Disk>(disk: &D, dir: &str, node: NodeId) -> Self {
        let path = format!("{dir}/synced");
        let (found, new) = match disk.read(&path) {
            Ok(bytes) => (newest(node, bytes), false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (0, true),
            Err(error) => {
                tracing::warn!(target: "raft", path, %error, "marks cannot be read: an end that the disk lost is not missed");
                (0, false)
            }
        };
        Self { path, node, file: None, new, found }
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The last batch that is known to have been durable; 0 when none is.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// Recovery is done, and all it found is durable up to `batch`; marks may follow.
    pub(super) fn begin<D: Disk>(&mut self, disk: &D, batch: u64) {
        // Only where there is none: the marks that are there are not emptied.
        let opened = if self.new { disk.create(&self.path) } else { disk.open(&self.path) };
        // What a torn write left would put all that follows out of step.
        let whole = |file: &FileRef| file.truncate(file.len() / MARK as u64 * MARK as u64).is_ok();
        self.file = opened.ok().filter(whole);
        if batch > self.found {
            self.set(batch);
        }
    }

    /// `batch` is durable.
    pub(super) fn set(&mut self, batch: u64) {
        let Some(file) = &self.file else { return };
        let again = file.len() >= MAX_BYTES;
        let cut = if again { file.truncate(0) } else { Ok(()) };
        let set = cut.and_then(|()| file.append(&[&mark(self.node, batch)]));
        // The one that was synced last is gone.
        if set.and_then(|_| if again { file.sync() } else { Ok(()) }).is_err() {
            // What is there stays true.
            self.file = None;
        }
    }

    /// Makes the marks durable.
    pub(super) fn sync<D: Disk>(&mut self, disk: &D, dir: &str) {
        let Some(file) = &self.file else { return };
        if file.sync().is_err() || (self.new && disk.sync_dir(dir).is_err()) {
            self.file = None;
        }
        self.new = false;
    }
}

#[cfg(test)]
mod tests {
    use chronik_log::disk::{Fault, MemDisk, Operation};

    use super::*;

    fn opened(disk: &MemDisk, node: i32) -> Marks {
        let mut marks = Marks::open(disk, "raft", NodeId(node));
        marks.begin(disk, 0);
        marks
    }

    fn with_marks(batches: u64) -> MemDisk {
        let disk = MemDisk::new();
        disk.create_dir("raft").expect("created");
        let mut marks = opened(&disk, 1);
        (1..=batches).for_each(|batch| marks.set(batch));
        disk.kill();
        disk
    }

    #[test]
    fn the_newest_mark_is_found_by_its_own_node_only() {
        let disk = with_marks(20_000);
        assert_eq!(opened(&disk, 1).found(), 20_000);
        assert_eq!(opened(&disk, 2).found(), 0);
        assert!(disk.read("raft/synced").expect("read").len() as u64 <= MAX_BYTES);
    }

    #[test]
    fn damage_only_makes_the_marks_say_less_and_those_that_follow_count_again() {
        for at in 0..48 {
            let disk = with_marks(3);
            disk.flip_bit("raft/synced", at, 5).expect("flipped");
            let expected = if at < 32 { 3 } else { 2 };
            assert_eq!(opened(&disk, 1).found(), expected, "bit in byte {at}");
            let disk = with_marks(3);
            disk.lose_end("raft/synced", at).expect("cut");
            let mut marks = opened(&disk, 1);
            assert_eq!(marks.found(), at / 16, "cut at {at}");
            marks.set(4);
            assert_eq!(opened(&disk, 1).found(), 4, "cut at {at}");
        }
    }

    #[test]
    fn what_recovery_found_is_marked() {
        let disk = with_marks(3);
        let mut marks = Marks::open(&disk, "raft", NodeId(1));
        marks.begin(&disk, 9);
        assert_eq!(opened(&disk, 1).found(), 9);
    }

    #[test]
    fn marks_that_cannot_be_read_say_nothing_and_stay() {
        let disk = with_marks(3);
        disk.inject(Fault::Fail(Operation::Read, 1));
        let mut marks = Marks::open(&disk, "raft", NodeId(1));
        assert_eq!(marks.found(), 0);
        marks.begin(&disk, 2);
        assert_eq!(opened(&disk, 1).found(), 3);
        marks.set(4);
        assert_eq!(opened(&disk, 1).found(), 4);
    }

    #[test]
    fn synced_marks_outlive_a_power_cut() {
        for seed in 0..20 {
            let disk = with_marks(0);
            // As recovery does.
            disk.sync_dir("").and_then(|()| disk.sync_dir("raft")).expect("synced");
            let mut marks = opened(&disk, 1);
            marks.set(7);
            marks.sync(&disk, "raft");
            marks.set(8);
            disk.crash(seed);
            assert!([7, 8].contains(&opened(&disk, 1).found()), "seed {seed}");
        }
    }
}
