//! Cutting the log: at its end when replicas diverge, at its start by retention and deleted records.
//!
//! At the end, the newest files go first; what stays is cut, synced, and only then appended to, so that after a crash
//! old and new batches are never mixed. At the start, the indexes of what goes
//! are removed, which makes room on a full disk, and where the log will begin is noted; then the oldest files go and each
//! removal is durable before the next, so that a crash never leaves a hole.

use chronik_model::{Offset, mutant};

use super::PartitionLog;
use crate::error::LogError;
use crate::leader_epoch::{self, LeaderEpochs};
use crate::producer_state::ProducerStates;
use crate::segment::{SCAN_CHUNK, Segment, parse_name, segment_path};

/// What retention did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RetentionReport {
    /// Segments deleted.
    pub segments: usize,
    /// Bytes deleted.
    pub bytes: u64,
}

impl PartitionLog {
    /// Cuts the log so that it ends at `offset`, or at the beginning of the batch that contains it: batches are whole.
    /// Epochs, producers and indexes follow. Durable when it returns. Returns the new log end.
    ///
    /// # Errors
    /// A failed write takes the directory offline.
    pub fn truncate_to(&mut self, offset: Offset) -> Result<Offset, LogError> {
        self.log_dir.check()?;
        if offset <= self.segments[0].base && offset < self.log_end() {
            self.truncate_fully_and_start_at(offset)?;
            return Ok(offset);
        }
        if offset < self.log_end() {
            self.cut_segments(offset)?;
        }
        let end = self.log_end();
        self.log_start = self.log_start.min(end);
        if !mutant!(KeepEpochsOnTruncate) && self.epochs.truncate_from_end(end) {
            self.epochs.store(&self.log_dir, &self.dir)?;
        }
        Ok(end)
    }

    fn cut_segments(&mut self, offset: Offset) -> Result<(), LogError> {
        let checkpointed = self.flush.recovery_point;
        let holder = self.segment_for(offset);
        let located = self.segments[holder].locate(&self.dir, offset)?;
        // A batch that contains the offset goes as a whole.
        let end = located.as_ref().map_or(self.segments[holder].end, |found| found.header.base_offset);
        self.lower_recovery_point(end, checkpointed)?;
        self.remove_snapshots_above(end)?;
        while self.segments.len() > holder + 1 {
            self.remove_last_segment()?;
        }
        if let Some(located) = located {
            self.cut_active(located.position)?;
        }
        if self.active().size == 0 && self.segments.len() > 1 {
            self.remove_last_segment()?;
        }
        self.log_dir.disk().sync_dir(&self.dir).map_err(self.log_dir.fatal("sync directory", &self.dir))?;
        if mutant!(KeepProducersOnTruncate) { Ok(()) } else { self.load_producers() }
    }

    /// Cuts the active segment at a batch boundary, durably, and builds its index anew.
    fn cut_active(&mut self, position: u64) -> Result<(), LogError> {
        let interval = self.config.index_interval_bytes;
        let base = self.active().base;
        let path = segment_path(&self.dir, base, "log");
        self.remove_index(base)?;
        let file = std::sync::Arc::clone(&self.active().file);
        file.truncate(position).map_err(self.log_dir.fatal("truncate", &path))?;
        file.sync().map_err(self.log_dir.fatal("sync", &path))?;
        let mut cut = Segment::over(base, file);
        let old = self.active();
        let mut scanner = old.scan(0, SCAN_CHUNK);
        while cut.size < position {
            match scanner.next_batch().map_err(|error| old.scan_failed(&self.dir, error))? {
                Some(located) => cut.push(&located.header, interval),
                None => break,
            }
        }
        *self.active_mut() = cut;
        Ok(())
    }

    /// Empties the log; the next record gets `offset`. For a follower whose leader's log begins behind its own end.
    ///
    /// # Errors
    /// A failed write takes the directory offline.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset) -> Result<(), LogError> {
        self.log_dir.check()?;
        self.lower_recovery_point(Offset(0), self.flush.recovery_point)?;
        self.remove_snapshots_above(Offset(-1))?;
        // Without the file a restart reads the epochs off whatever batches it finds, so it must go first.
        self.remove_if_there(&format!("{}/{}", self.dir, leader_epoch::FILE))?;
        self.note_start(offset)?;
        let disk = std::sync::Arc::clone(self.log_dir.disk());
        while self.segments.len() > 1 {
            self.remove_last_segment()?;
        }
        let fatal = |operation| self.log_dir.fatal(operation, &self.dir);
        // The first goes only when the others are gone for good: what is left never begins late. It stays in memory
        // until there is another: a log that fails here is asked for its end all the same.
        disk.sync_dir(&self.dir).map_err(fatal("sync directory"))?;
        if let Some(first) = self.segments.first() {
            self.remove_segment_files(first)?;
        }
        disk.sync_dir(&self.dir).map_err(fatal("sync directory"))?;
        let fresh = Segment::create(&*disk, &self.dir, offset).map_err(fatal("create a segment in"))?;
        self.segments.clear();
        self.segments.push(fresh);
        disk.sync_dir(&self.dir).map_err(fatal("sync directory"))?;
        self.log_start = offset;
        self.epochs.clear();
        self.producers = ProducerStates::default();
        Ok(())
    }

    /// Raises the log start offset (deleted records, or the leader's log start) and deletes the segments below it. The
    /// caller keeps the offset in its checkpoint. Lower offsets are ignored.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] above the log end; a failed write takes the directory offline.
    pub fn set_log_start_offset(&mut self, offset: Offset) -> Result<RetentionReport, LogError> {
        let log_end = self.log_end();
        if offset > log_end {
            return Err(LogError::OffsetOutOfRange { offset, log_start: self.log_start, log_end });
        }
        if offset <= self.log_start {
            return Ok(RetentionReport::default());
        }
        self.log_dir.check()?;
        self.move_log_start(offset)
    }

    fn move_log_start(&mut self, offset: Offset) -> Result<RetentionReport, LogError> {
        self.log_start = self.log_start.max(offset);
        let mut report = RetentionReport::default();
        let stays = self.segment_for(self.log_start);
        if stays > 0 {
            // Recovery builds them anew; on a disk that is full they make the room that the note takes.
            for segment in &self.segments[..stays] {
                self.remove_index(segment.base)?;
            }
            self.note_start(self.segments[stays].base)?;
        }
        for _ in 0..stays {
            let first = self.segments.remove(0);
            self.remove_segment_files(&first)?;
            let dir = &self.dir;
            self.log_dir.disk().sync_dir(dir).map_err(self.log_dir.fatal("sync directory", dir))?;
            report.segments += 1;
            report.bytes += first.size;
        }
        if report.segments > 0 {
            let first = self.segments[0].base;
            for offset in self.snapshots()?.into_iter().filter(|offset| *offset < first) {
                self.remove_if_there(&segment_path(&self.dir, offset, "snapshot"))?;
            }
        }
        if self.epochs.truncate_from_start(self.log_start) {
            self.epochs.store(&self.log_dir, &self.dir)?;
        }
        Ok(report)
    }

    /// Deletes the oldest segments that are too old or too many, never one with records at or above `high_watermark`,
    /// and moves the log start. If everything is too old, the active segment is rolled first.
    ///
    /// # Errors
    /// A failed write takes the directory offline.
    pub fn apply_retention(&mut self, now_ms: i64, high_watermark: Offset) -> Result<RetentionReport, LogError> {
        self.log_dir.check()?;
        let expired = |segment: &Segment| {
            let (newest, _) = segment.index.max_timestamp();
            // Without timestamps there is nothing to judge by.
            self.config.retention_ms.is_some_and(|keep| newest >= 0 && now_ms.saturating_sub(newest) > keep)
        };
        let deletable = |segment: &Segment| segment.size > 0 && segment.end <= high_watermark;
        let by_time = self.segments.iter().take_while(|segment| deletable(segment) && expired(segment)).count();
        let mut by_size = 0;
        if let Some(keep) = self.config.retention_bytes {
            let mut excess = self.size().saturating_sub(keep);
            for segment in &self.segments[..self.segments.len() - 1] {
                if !deletable(segment) || segment.size > excess {
                    break;
                }
                excess -= segment.size;
                by_size += 1;
            }
        }
        let doomed = by_time.max(by_size);
        if doomed == 0 {
            return Ok(RetentionReport::default());
        }
        let start = self.segments[doomed - 1].end;
        if doomed == self.segments.len() {
            self.roll()?;
        }
        self.move_log_start(start)
    }

    pub(super) fn remove_last_segment(&mut self) -> Result<(), LogError> {
        if let Some(last) = self.segments.pop() {
            self.remove_segment_files(&last)?;
        }
        Ok(())
    }

    fn remove_segment_files(&self, segment: &Segment) -> Result<(), LogError> {
        let path = segment_path(&self.dir, segment.base, "log");
        self.log_dir.disk().remove_file(&path).map_err(self.log_dir.fatal("remove", &path))?;
        self.remove_index(segment.base)?;
        self.remove_if_there(&segment_path(&self.dir, segment.base, "snapshot"))
    }

    pub(super) fn remove_index(&self, base: Offset) -> Result<(), LogError> {
        self.remove_if_there(&segment_path(&self.dir, base, "index"))?;
        self.remove_if_there(&segment_path(&self.dir, base, "timeindex"))
    }

    pub(super) fn remove_if_there(&self, path: &str) -> Result<(), LogError> {
        match self.log_dir.disk().remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.log_dir.fail("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Offsets of the producer snapshots on disk, ascending.
    fn snapshots(&self) -> Result<Vec<Offset>, LogError> {
        let entries = self.log_dir.disk().list(&self.dir).map_err(LogError::io("list", &self.dir))?;
        let names = entries.iter().filter_map(|entry| parse_name(&entry.name));
        Ok(names.filter(|(_, extension)| *extension == "snapshot").map(|(offset, _)| offset).collect())
    }

    /// Removes snapshots of states that the log no longer reaches. The caller syncs the directory.
    pub(super) fn remove_snapshots_above(&self, end: Offset) -> Result<(), LogError> {
        for offset in self.snapshots()? {
            if offset > end {
                self.remove_if_there(&segment_path(&self.dir, offset, "snapshot"))?;
            }
        }
        Ok(())
    }

    /// Producer state from the newest sound snapshot and the batches behind it.
    pub(super) fn load_producers(&mut self) -> Result<(), LogError> {
        let (end, first) = (self.log_end(), self.segments[0].base);
        let mut from = first;
        let mut producers = ProducerStates::default();
        for offset in self.snapshots()?.into_iter().rev().filter(|offset| (first..=end).contains(offset)) {
            let path = segment_path(&self.dir, offset, "snapshot");
            let content = self.log_dir.disk().read(&path).map_err(LogError::io("read", &path))?;
            if let Some(found) = ProducerStates::decode(&content, offset) {
                (from, producers) = (offset, found);
                break;
            }
        }
        for segment in self.segments.iter().filter(|segment| segment.end > from) {
            let start = segment.index.position_for(segment.relative(from.max(segment.base)));
            let mut scanner = segment.scan(start, SCAN_CHUNK);
            while let Some(located) = scanner.next_batch().map_err(|error| segment.scan_failed(&self.dir, error))? {
                if located.header.base_offset >= from {
                    producers.update(&located.header);
                }
            }
        }
        self.producers = if mutant!(ForgetProducers) { ProducerStates::default() } else { producers };
        Ok(())
    }

    /// Epochs read off the batches, when the file is missing or corrupt.
    pub(super) fn epochs_of_batches(&self) -> Result<LeaderEpochs, LogError> {
        let mut epochs = LeaderEpochs::default();
        for segment in &self.segments {
            let mut scanner = segment.scan(0, SCAN_CHUNK);
            while let Some(located) = scanner.next_batch().map_err(|error| segment.scan_failed(&self.dir, error))? {
                epochs.assign(located.header.partition_leader_epoch, located.header.base_offset);
            }
        }
        Ok(epochs)
    }
}
