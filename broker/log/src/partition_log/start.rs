//! Where the log begins, noted beside it: what tells a beginning that was removed from one that was lost.
//!
//! Whoever removes the first segments, or begins the log anew elsewhere, notes durably where the first of those that stay
//! begins, and only then removes. Without a note the log begins at 0. Recovery that finds the first segment above that knows that
//! the disk lost some, and keeps nothing behind the hole, as behind any other; after an orderly stop, for which
//! the broker is trusted, it refuses the log instead. Logs of which nobody promised the notes ([`OpenOptions::start_noted`](super::OpenOptions)) begin where their first segment does.

use std::io;

use chronik_model::Offset;

use super::PartitionLog;
use crate::error::LogError;
use crate::sealed::{seal, unseal};

const FILE: &str = "log-start";
const MAGIC: [u8; 4] = *b"ChLS";

impl PartitionLog {
    /// Notes, durably, that no segment begins below `base` any more. To be called before one is removed.
    pub(super) fn note_start(&mut self, base: Offset) -> Result<(), LogError> {
        if self.noted_start == Some(base) {
            return Ok(());
        }
        let path = self.start_path();
        self.write_start(base).map_err(self.log_dir.fatal("write", &path))
    }

    /// Brings the note up to date when the log is opened and found to begin at `base`: the checkpoint that says so may be lost.
    /// A full disk is for retention to free, so it is no error here.
    pub(super) fn renew_start(&mut self, base: Offset) -> Result<(), LogError> {
        if self.noted_start == Some(base) {
            return Ok(());
        }
        let path = self.start_path();
        match self.write_start(base) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(%path, %error, "not brought up to date");
                // It may say the one or the other.
                self.noted_start = None;
                Ok(())
            }
            written => written.map_err(self.log_dir.fatal("write", &path)),
        }
    }

    fn write_start(&mut self, base: Offset) -> io::Result<()> {
        let sealed = seal(MAGIC, 1, &base.0.to_be_bytes());
        self.log_dir.disk().write_atomic(&self.start_path(), &sealed)?;
        self.noted_start = Some(base);
        Ok(())
    }

    /// Reads the note when the log is opened. One that cannot be read says nothing.
    pub(super) fn load_start(&mut self) -> Result<(), LogError> {
        let path = self.start_path();
        self.noted_start = match self.log_dir.disk().read(&path) {
            Ok(sealed) => {
                let content = unseal(MAGIC, 1, &sealed).ok();
                content.and_then(|content| content.try_into().ok()).map(i64::from_be_bytes).map(Offset)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Offset(0)),
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        Ok(())
    }

    fn start_path(&self) -> String {
        format!("{}/{FILE}", self.dir)
    }
}
