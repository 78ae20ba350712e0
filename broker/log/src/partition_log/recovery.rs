//! Opening: what is on disk becomes a log again, or as much of it as is sound.
//!
//! Below the recovery point everything was synced: there the structure is trusted if the index files fit. Above it every
//! batch is read and verified, unless the last run ended in order. The first batch that is torn, does not follow the one
//! before, or goes back in epoch ends the log: it is cut there, durably, and what lies behind is removed; the broker
//! fetches it again from the leader. A log that lost its first segment ends where it began, or is
//! refused after a run that ended in order. Recovery never invents a record, and doing it twice changes nothing.

use std::sync::Arc;

use chronik_model::{LeaderEpoch, Offset, mutant};

use super::PartitionLog;
use super::flush::FlushState;
use crate::config::LogConfig;
use crate::error::LogError;
use crate::leader_epoch::LeaderEpochs;
use crate::log_dir::{CLEAN_SHUTDOWN_FILE, LogDir};
use crate::producer_state::ProducerStates;
use crate::scan::{ScanError, Scanner};
use crate::segment::{SCAN_CHUNK, Segment, parse_name, segment_path};

/// What the caller knows from its checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Everything below was synced; 0 when unknown.
    pub recovery_point: Offset,
    /// The log start offset; 0 when unknown.
    pub log_start: Offset,
    /// The last run of the broker ended in order.
    pub clean_shutdown: bool,
    /// Whoever removed the beginning of this log noted that before, always: a beginning that is missing without a note was lost.
    pub start_noted: bool,
    /// Wall time, milliseconds since 1970; expires producers.
    pub now_ms: i64,
}

/// What recovery found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Segments of the log.
    pub segments: usize,
    /// Bytes whose batches were walked over.
    pub scanned_bytes: u64,
    /// Indexes that were built anew.
    pub rebuilt_indexes: usize,
    /// Why the log was cut, and where, if it was.
    pub cut: Option<(Offset, String)>,
    /// Bytes that were cut off.
    pub cut_bytes: u64,
    /// Whether the leader epochs were read off the batches.
    pub rebuilt_epochs: bool,
}

impl PartitionLog {
    /// Opens the log in `dir` (see [`partition_dir`](super::partition_dir)), recovering it; creates it, durably, if it
    /// is not there.
    ///
    /// # Errors
    /// The disk failed. Corruption is no error, it is cut away and reported, but for one: [`LogError::Corrupt`] when the beginning
    /// of a log is gone whose last run ended in order. Nothing was removed then.
    pub fn open(
        log_dir: &Arc<LogDir>,
        dir: &str,
        config: LogConfig,
        options: OpenOptions,
    ) -> Result<(Self, RecoveryReport), LogError> {
        log_dir.check()?;
        let mut log = Self {
            log_dir: Arc::clone(log_dir),
            dir: dir.to_owned(),
            config,
            segments: Vec::new(),
            log_start: options.log_start,
            noted_start: None,
            epochs: LeaderEpochs::default(),
            producers: ProducerStates::default(),
            flush: FlushState::default(),
        };
        let mut report = RecoveryReport::default();
        log.ensure_dir()?;
        if !options.clean_shutdown {
            // The last run may have died between a creation and its sync.
            log.flush.names_changed();
        }
        log.load_limit(options.recovery_point)?;
        log.load_start()?;
        let bases = log.segment_bases()?;
        log.check_beginning(&bases, &options)?;
        let stored = LeaderEpochs::load(log_dir, dir)?;
        let scanned = log.load_segments(&bases, &options, stored.as_ref(), &mut report)?;
        if log.flush.is_limited() {
            log.sync_truncation()?;
        }
        if log.segments.is_empty() {
            log.begin_at(options.log_start.max(log.noted_start.unwrap_or_default()))?;
        }
        log.settle_start(options.log_start)?;
        log.settle_epochs(stored, &scanned, &mut report)?;
        log.remove_snapshots_above(log.log_end())?;
        log.load_producers()?;
        log.producers.expire(options.now_ms, config.producer_id_expiration_ms);
        let end = log.log_end();
        if options.recovery_point > end {
            log.lower_recovery_point(end, options.recovery_point)?;
        }
        if options.clean_shutdown && report.cut.is_none() {
            log.flush.recovery_point = end;
        }
        log.flush.recovery_point = log.flush.recovery_point.min(end);
        if options.start_noted || log.noted_start.is_none() {
            log.renew_start(log.segments[0].base)?;
        }
        report.segments = log.segments.len();
        if mutant!(MarkerGoesLast) {
            log.remove_if_there(CLEAN_SHUTDOWN_FILE)?;
        }
        if let Some((offset, reason)) = &report.cut {
            tracing::warn!(dir, %offset, %reason, bytes = report.cut_bytes, "log cut at the last sound batch");
        }
        Ok((log, report))
    }

    /// Creation is made durable by the first flush: until then there is nothing to lose.
    fn ensure_dir(&self) -> Result<(), LogError> {
        let disk = self.log_dir.disk();
        let fatal = |operation| self.log_dir.fatal(operation, &self.dir);
        if !disk.exists(&self.dir).map_err(fatal("look up"))? {
            disk.create_dir(&self.dir).map_err(fatal("create directory"))?;
        }
        Ok(())
    }

    /// Base offsets of the segments on disk, ascending; leftovers of interrupted writes are removed.
    fn segment_bases(&self) -> Result<Vec<Offset>, LogError> {
        let mut bases = Vec::new();
        for entry in self.log_dir.disk().list(&self.dir).map_err(LogError::io("list", &self.dir))? {
            if entry.name.ends_with(".tmp") {
                self.remove_if_there(&format!("{}/{}", self.dir, entry.name))?;
            } else if let Some((base, "log")) = parse_name(&entry.name) {
                bases.push(base);
            }
        }
        Ok(bases)
    }

    /// After a run that ended in order this replica is believed to have all it had, maybe as the last one: were a log without its
    /// beginning emptied, the others would follow it and be empty too. The next start is none after an orderly end.
    fn check_beginning(&self, bases: &[Offset], options: &OpenOptions) -> Result<(), LogError> {
        if !options.clean_shutdown || !options.start_noted {
            return Ok(());
        }
        let noted = self.noted_start.unwrap_or_default().max(options.log_start);
        let (due, lost) = match bases.first() {
            Some(found) => (self.first_base(*found, options), self.first_base(*found, options) != *found),
            None => (noted, self.flush.recovery_point > noted),
        };
        if !lost {
            return Ok(());
        }
        let reason = "the disk lost the beginning of the log after a stop in order; started again, this broker is not \
                      trusted with it, and fetches it from the others";
        Err(LogError::Corrupt { path: segment_path(&self.dir, due, "log"), reason: reason.to_owned() })
    }

    /// Loads or scans the segments in order up to the first one that does not fit. Returns the epochs of the batches
    /// that were looked at.
    fn load_segments(
        &mut self,
        bases: &[Offset],
        options: &OpenOptions,
        stored: Option<&LeaderEpochs>,
        report: &mut RecoveryReport,
    ) -> Result<LeaderEpochs, LogError> {
        let mut seen = LeaderEpochs::default();
        let mut sound = bases.len();
        for (number, base) in bases.iter().enumerate() {
            let expected = self.segments.last().map_or_else(|| self.first_base(*base, options), |last| last.end);
            if report.cut.is_none() && *base != expected {
                report.cut = Some((expected, format!("the next segment begins at {base}")));
                sound = number;
            }
            let path = segment_path(&self.dir, *base, "log");
            let file = self.log_dir.disk().open(&path).map_err(LogError::io("open", &path))?;
            let mut segment = Segment::over(*base, file);
            if report.cut.is_some() {
                // Removed in reverse below, so that an interrupted recovery leaves no hole.
                segment.size = segment.file.len();
                report.cut_bytes += segment.size;
                self.segments.push(segment);
                continue;
            }
            let next = bases.get(number + 1);
            let verify = !options.clean_shutdown && next.is_none_or(|next| *next > self.flush.recovery_point);
            if verify || !segment.load_index(&self.log_dir, &self.dir) {
                self.scan_segment(&mut segment, verify, stored, &mut seen, report)?;
                if report.cut.is_some() {
                    sound = number + 1;
                }
                if next.is_some() {
                    segment.store_index(&self.log_dir, &self.dir);
                }
            }
            self.segments.push(segment);
        }
        if let Some((offset, _)) = report.cut {
            self.lower_recovery_point(offset, options.recovery_point)?;
            while self.segments.len() > sound {
                self.remove_last_segment()?;
            }
            let dir = &self.dir;
            self.log_dir.disk().sync_dir(dir).map_err(self.log_dir.fatal("sync directory", dir))?;
            self.cut_torn_tail()?;
        }
        Ok(seen)
    }

    /// Where the first segment has to begin if the first one that is there begins at `found`.
    fn first_base(&self, found: Offset, options: &OpenOptions) -> Offset {
        match self.noted_start.filter(|_| options.start_noted && !mutant!(TrustFirstSegment)) {
            Some(noted) => found.min(noted.max(options.log_start)),
            None => found,
        }
    }

    /// Walks over a segment from its beginning; at the first batch that does not fit, notes where to cut.
    fn scan_segment(
        &self,
        segment: &mut Segment,
        verify: bool,
        stored: Option<&LeaderEpochs>,
        seen: &mut LeaderEpochs,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        let length = segment.file.len();
        let file = Arc::clone(&segment.file);
        let mut scanner = Scanner::headers(&file, 0, length, SCAN_CHUNK);
        if verify && !mutant!(SkipRecoveryCrc) {
            scanner = scanner.verifying_from(self.flush.recovery_point);
        }
        let mut epoch = seen.latest().unwrap_or(LeaderEpoch::NONE);
        let reason = loop {
            let header = match scanner.next_batch() {
                Ok(None) => break None,
                Ok(Some(located)) => located.header,
                Err(ScanError::Batch(error)) => break Some(error.to_string()),
                Err(error @ ScanError::Io(_)) => return Err(segment.scan_failed(&self.dir, error)),
            };
            if header.base_offset != segment.end {
                break Some(format!("a batch at offset {} does not follow", header.base_offset));
            }
            if header.partition_leader_epoch < epoch {
                break Some(format!("leader epoch {} after {epoch}", header.partition_leader_epoch));
            }
            // The checksum does not cover the epoch, but each was stored before its first batch was written. The last offset: the
            // log may start within a batch, and what is below its start was forgotten.
            if let Some(known) = stored.and_then(|stored| stored.epoch_at(header.last_offset()))
                && known != header.partition_leader_epoch
            {
                break Some(format!("leader epoch {} where {known} was noted", header.partition_leader_epoch));
            }
            epoch = header.partition_leader_epoch;
            seen.assign(epoch, header.base_offset);
            segment.push(&header, self.config.index_interval_bytes);
        };
        report.scanned_bytes += segment.size;
        report.rebuilt_indexes += 1;
        if let Some(reason) = reason {
            report.cut = Some((segment.end, reason));
            report.cut_bytes += length - segment.size;
        }
        Ok(())
    }

    /// Cuts what the last segment's file has behind its last sound batch.
    fn cut_torn_tail(&mut self) -> Result<(), LogError> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        let path = segment_path(&self.dir, last.base, "log");
        if last.file.len() > last.size {
            last.file.truncate(last.size).map_err(self.log_dir.fatal("truncate", &path))?;
            last.file.sync().map_err(self.log_dir.fatal("sync", &path))?;
        }
        self.remove_index(last.base)
    }

    /// The last run may have died, or failed to sync, in a truncation whose effect this run sees: what was cut must
    /// not come back after something else was appended in its place.
    fn sync_truncation(&self) -> Result<(), LogError> {
        if let Some(last) = self.segments.last() {
            let path = segment_path(&self.dir, last.base, "log");
            last.file.sync().map_err(self.log_dir.fatal("sync", &path))?;
        }
        self.log_dir.disk().sync_dir(&self.dir).map_err(self.log_dir.fatal("sync directory", &self.dir))
    }

    fn begin_at(&mut self, offset: Offset) -> Result<(), LogError> {
        self.note_start(offset)?;
        let fatal = |operation| self.log_dir.fatal(operation, &self.dir);
        let disk = self.log_dir.disk();
        self.segments.push(Segment::create(&**disk, &self.dir, offset).map_err(fatal("create a segment in"))?);
        self.flush.names_changed();
        Ok(())
    }

    /// Brings log start and segments together: a log that ends below its start is begun anew there.
    fn settle_start(&mut self, log_start: Offset) -> Result<(), LogError> {
        if self.log_end() < log_start {
            self.truncate_fully_and_start_at(log_start)?;
        }
        self.log_start = log_start.max(self.segments[0].base);
        Ok(())
    }

    fn settle_epochs(
        &mut self,
        stored: Option<LeaderEpochs>,
        scanned: &LeaderEpochs,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        let end = self.log_end();
        let mut changed = false;
        // A log start that was never checkpointed may lie below the first entry: then the file knows too little.
        let reaches = |epochs: &LeaderEpochs| epochs.epoch_at(self.log_start).is_some() || end == self.log_start;
        let mut epochs = match stored.filter(reaches) {
            Some(epochs) => epochs,
            None => {
                report.rebuilt_epochs = end > self.segments[0].base;
                changed = report.rebuilt_epochs;
                self.epochs_of_batches()?
            }
        };
        changed |= epochs.truncate_from_end(end);
        for entry in scanned.entries() {
            changed |= epochs.assign(entry.epoch, entry.start_offset);
        }
        changed |= epochs.truncate_from_start(self.log_start);
        // Of a log without records nothing is left, now as after the next start.
        changed |= epochs.truncate_from_end(end);
        self.epochs = epochs;
        if changed {
            self.epochs.store(&self.log_dir, &self.dir)?;
        }
        Ok(())
    }
}
