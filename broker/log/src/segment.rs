//! One segment: a `.log` file that begins at its base offset, and its index.
//!
//! Only the last segment of a log grows. The log decides when to roll and what to delete; the segment knows where
//! batches are.

use chronik_model::Offset;
use chronik_model::batch::BatchHeader;

use crate::disk::{Disk, FileRef};
use crate::error::LogError;
use crate::index::SegmentIndex;
use crate::log_dir::LogDir;
use crate::scan::{Located, ScanError, Scanner};

/// Bytes read at a time by a lookup: an index interval and the header behind it.
const LOOKUP_CHUNK: usize = 8 << 10;
/// Bytes read at a time by recovery and replay.
pub(crate) const SCAN_CHUNK: usize = 1 << 20;

/// Path of a file of the segment at `base`.
pub(crate) fn segment_path(dir: &str, base: Offset, extension: &str) -> String {
    format!("{dir}/{:020}.{extension}", base.0)
}

/// The base offset and extension of a file name, if it is a segment's.
pub(crate) fn parse_name(name: &str) -> Option<(Offset, &str)> {
    let (base, extension) = name.split_once('.')?;
    if base.len() != 20 || !base.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Offset(base.parse().ok()?), extension))
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) file: FileRef,
    /// Bytes of whole batches; the file may have more after a failed append.
    pub(crate) size: u64,
    /// Offset after the last record.
    pub(crate) end: Offset,
    pub(crate) index: SegmentIndex,
    /// Bytes the file was given room for.
    pub(crate) reserved: u64,
}

impl Segment {
    pub(crate) fn create(disk: &dyn Disk, dir: &str, base: Offset) -> std::io::Result<Self> {
        let file = disk.create(&segment_path(dir, base, "log"))?;
        Ok(Self::over(base, file))
    }

    /// An empty view of a file that is about to be scanned.
    pub(crate) fn over(base: Offset, file: FileRef) -> Self {
        Self { base, file, size: 0, end: base, index: SegmentIndex::default(), reserved: 0 }
    }

    /// Notes a batch that is in the file at [`Segment::size`].
    pub(crate) fn push(&mut self, header: &BatchHeader, interval: usize) {
        let relative = self.relative(header.base_offset);
        let position = u32::try_from(self.size).unwrap_or(u32::MAX);
        self.index.add(relative, position, header, interval);
        self.size += header.total_bytes as u64;
        self.end = header.next_offset();
    }

    pub(crate) fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.0 - self.base.0).unwrap_or(u32::MAX)
    }

    /// Walks over the headers from `position`.
    pub(crate) fn scan(&self, position: u64, chunk: usize) -> Scanner<'_> {
        Scanner::headers(&self.file, position, self.size, chunk)
    }

    pub(crate) fn scan_failed(&self, dir: &str, error: ScanError) -> LogError {
        let path = segment_path(dir, self.base, "log");
        match error {
            ScanError::Io(source) => LogError::Io { operation: "read", path, source },
            ScanError::Batch(reason) => LogError::Corrupt { path, reason: reason.to_string() },
        }
    }

    /// The batch that contains `offset`; `None` at or behind the end.
    pub(crate) fn locate(&self, dir: &str, offset: Offset) -> Result<Option<Located>, LogError> {
        if offset >= self.end {
            return Ok(None);
        }
        let mut scanner = self.scan(self.index.position_for(self.relative(offset)), LOOKUP_CHUNK);
        while let Some(located) = scanner.next_batch().map_err(|error| self.scan_failed(dir, error))? {
            if located.header.last_offset() >= offset {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    /// The largest batch boundary in `from..=limit`; `from` is a boundary.
    pub(crate) fn boundary(&self, dir: &str, from: u64, limit: u64) -> Result<u64, LogError> {
        if limit >= self.size {
            return Ok(self.size);
        }
        let mut boundary = from.max(self.index.boundary_before(limit));
        let mut scanner = self.scan(boundary, LOOKUP_CHUNK);
        while let Some(located) = scanner.next_batch().map_err(|error| self.scan_failed(dir, error))? {
            if located.end() > limit {
                break;
            }
            boundary = located.end();
        }
        Ok(boundary)
    }

    /// The first batch at or behind `from` with a timestamp of at least `timestamp`.
    pub(crate) fn locate_timestamp(
        &self,
        dir: &str,
        timestamp: i64,
        from: Offset,
    ) -> Result<Option<Located>, LogError> {
        if self.index.max_timestamp().0 < timestamp {
            return Ok(None);
        }
        let by_offset = self.index.position_for(self.relative(from.max(self.base)));
        let position = self.index.position_for_timestamp(timestamp).max(by_offset);
        let mut scanner = self.scan(position, LOOKUP_CHUNK);
        while let Some(located) = scanner.next_batch().map_err(|error| self.scan_failed(dir, error))? {
            if located.header.last_offset() >= from && located.header.max_timestamp >= timestamp {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    /// Writes the index files. Not synced, and a failure only costs a rebuild.
    pub(crate) fn store_index(&self, log_dir: &LogDir, dir: &str) {
        let (offsets, times) = self.index.encode(self.size, (self.end.0 - self.base.0) as u64);
        for (extension, content) in [("index", offsets), ("timeindex", times)] {
            let path = segment_path(dir, self.base, extension);
            if let Err(error) = log_dir.disk().write_hint(&path, &content) {
                tracing::warn!(%path, %error, "index not written; it will be rebuilt");
            }
        }
    }

    /// Takes size, end and index from the index files if they fit the log file.
    pub(crate) fn load_index(&mut self, log_dir: &LogDir, dir: &str) -> bool {
        let covered = self.file.len();
        let read = |extension| log_dir.disk().read(&segment_path(dir, self.base, extension));
        let (Ok(offsets), Ok(times)) = (read("index"), read("timeindex")) else { return false };
        let Some((index, next_relative)) = SegmentIndex::decode(&offsets, &times, covered) else { return false };
        let Some(end) = i64::try_from(next_relative).ok().and_then(|next| self.base.0.checked_add(next)) else {
            return false;
        };
        (self.index, self.size, self.end) = (index, covered, Offset(end));
        true
    }
}
