//! Seeds and plans that once failed, kept for ever.
//!
//! ```text
//! # seed or file      why it is here
//! 1234567             what went wrong
//! corpus/name.plan    what went wrong
//! ```
//!
//! A plan outlives changes of how seeds are drawn; a seed does not, so what was hard to find is kept as a plan.

use std::path::{Path, PathBuf};

use super::{Options, Outcome, run_plan, run_seed};
use crate::plan::{Plan, PlanError};

/// One of the corpus.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As the file says.
    pub name: String,
    /// Why it is there.
    pub why: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Seed(u64),
    Plan(Box<Plan>),
}

/// Why a corpus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A file does not read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A plan is none.
    #[error("{path}: {source}")]
    Plan {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PlanError,
    },
    /// A line without a reason.
    #[error("{0}: say why it is in the corpus")]
    NoReason(String),
}

/// Reads a plan from its file.
///
/// # Errors
/// It does not read, or is no plan.
pub fn read_plan(path: &Path) -> Result<Plan, CorpusError> {
    let text = std::fs::read_to_string(path).map_err(|source| CorpusError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|source| CorpusError::Plan { path: path.to_owned(), source })
}

/// Reads a corpus; files in it are relative to its directory.
///
/// # Errors
/// It or one of its plans does not read.
pub fn read_corpus(path: &Path) -> Result<Vec<Entry>, CorpusError> {
    let text = std::fs::read_to_string(path).map_err(|source| CorpusError::Read { path: path.to_owned(), source })?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let (name, why) = line.split_once(char::is_whitespace).ok_or_else(|| CorpusError::NoReason(line.to_owned()))?;
        let what = match name.parse() {
            Ok(seed) => What::Seed(seed),
            Err(_) => What::Plan(Box::new(read_plan(&dir.join(name))?)),
        };
        Ok(Entry { name: name.to_owned(), why: why.trim().to_owned(), what })
    };
    lines.map(entry).collect()
}

impl Entry {
    /// Runs it.
    #[must_use]
    pub fn run(&self, options: Options) -> Outcome {
        match &self.what {
            What::Seed(seed) => run_seed(*seed, options),
            What::Plan(plan) => run_plan(plan, options.detail),
        }
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self, options: Options) -> Plan {
        match &self.what {
            What::Seed(seed) => Plan::draw(*seed, options.limits),
            What::Plan(plan) => (**plan).clone(),
        }
    }
}
