//! Scenario scripts: text files that play one situation, with what must come of it.
//!
//! ```text
//! # What once went wrong, and what is expected here.
//! # mutant: reuse-leader-epoch
//! cluster 3
//! topic t rf=3 min-insync=2
//! let L = leader t-0
//! produce L t-0 acks=all a b
//! | acked at 0
//! kill L
//! wait leader t-0 not L
//! ```
//!
//! A command is a line; what it answers is compared with the lines behind it that begin with `|`. Brokers are named by
//! their part (`let`), so a script does not depend on who happens to lead. When the last line is done, faults end,
//! everything must become well, and the oracle judges the whole, as at the end of any run. `Stage` has the
//! commands. A script is the same run every time; its seed is part of `cluster`.
//!
//! `# mutant:` names the defects that put the bug back: with each of them the script must fail ([`mutants`]). A plan may
//! have such a line, too ([`plans_with_mutants`]).

mod ask;
mod moves;
mod show;
mod stage;
mod wait;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use chronik_model::mutant::Mutant;

use crate::runner::{Failure, PANIC, guarded, read_plan, run_plan};
use crate::trace::Detail;
use stage::Stage;

/// One line of a script and, for commands, what it is expected to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Line {
    /// Comment or empty.
    Text(String),
    Command {
        text: String,
        number: usize,
        expected: Vec<String>,
    },
}

fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        match (trimmed.strip_prefix('|'), lines.last_mut()) {
            (Some(answer), Some(Line::Command { expected, .. })) => expected.push(answer.trim().to_owned()),
            _ if trimmed.is_empty() || trimmed.starts_with(['#', '|']) => lines.push(Line::Text(line.to_owned())),
            _ => lines.push(Line::Command { text: trimmed.to_owned(), number: at + 1, expected: Vec::new() }),
        }
    }
    lines
}

/// The scripts at `path`: itself, or all `*.txt` in it, sorted.
///
/// # Errors
/// It does not read.
pub fn find(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The plans at `path` that are said to notice mutants, sorted.
///
/// # Errors
/// It does not read, or one names a mutant that does not exist.
pub fn plans_with_mutants(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unread = |error: io::Error| harness(format!("{}: {error}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unread)? {
        let file = entry.map_err(unread)?.path();
        if is_plan(&file) && !mutants(&file)?.is_empty() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "plan")
}

/// The mutants that a script is said to notice.
///
/// # Errors
/// It does not read, or names one that does not exist.
pub fn mutants(path: &Path) -> Result<Vec<Mutant>, Failure> {
    named(&read(path)?)
}

fn named(text: &str) -> Result<Vec<Mutant>, Failure> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# mutant:"));
    let find = |name: &str| Mutant::from_name(name).ok_or_else(|| harness(format!("there is no mutant {name}")));
    lines.flat_map(str::split_whitespace).map(find).collect()
}

struct Played {
    /// The script as it would be if what happened were expected.
    blessed: String,
    /// Lines that answered something else.
    differences: String,
    /// What was broken.
    failure: Option<Failure>,
    story: String,
}

fn play(text: &str, detail: Detail) -> Played {
    let mut played = Played { blessed: String::new(), differences: String::new(), failure: None, story: String::new() };
    let mut stage = Stage::new(detail);
    let result = guarded(|| -> Result<(), Failure> {
        for line in parse(text) {
            match line {
                Line::Text(text) => {
                    let _infallible = writeln!(played.blessed, "{text}");
                }
                Line::Command { text, number, expected } => {
                    let answer = stage.command(&text).map_err(|failure| Failure {
                        text: format!("line {number}, {text}: {}", failure.text),
                        ..failure
                    })?;
                    let _infallible = writeln!(played.blessed, "{text}");
                    for line in &answer {
                        let _infallible = writeln!(played.blessed, "| {line}");
                    }
                    if answer != expected {
                        let _infallible = writeln!(
                            played.differences,
                            "line {number}: {text}\n  expected: {}\n  answered: {}",
                            expected.join("\n            "),
                            answer.join("\n            ")
                        );
                    }
                }
            }
        }
        stage.end()
    });
    played.failure = match result {
        Ok(result) => result.err(),
        Err(text) => Some(Failure { invariant: PANIC, text }),
    };
    played.story = stage.story();
    // What a panic left half done may panic once more.
    let _dropped = guarded(move || drop(stage));
    played
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| harness(format!("{}: {error}", path.display())))
}

/// A failure of the script itself.
fn harness(text: String) -> Failure {
    Failure { invariant: 0, text }
}

/// Plays a script and compares, or runs a plan.
///
/// # Errors
/// What was broken, or what was answered instead.
pub fn check(path: &Path) -> Result<(), Failure> {
    if is_plan(path) {
        let plan = read_plan(path).map_err(|error| harness(error.to_string()))?;
        return run_plan(&plan, Detail::Hash).failure.map_or(Ok(()), Err);
    }
    let text = read(path)?;
    named(&text)?;
    let played = play(&text, Detail::Hash);
    if let Some(failure) = played.failure {
        return Err(Failure { text: format!("{}\n{}", failure.text, played.differences), ..failure });
    }
    if played.differences.is_empty() { Ok(()) } else { Err(harness(played.differences)) }
}

/// Plays a script and writes what it answered into it; whether that changed the file.
///
/// # Errors
/// What was broken; then the file stays as it is.
pub fn bless(path: &Path) -> Result<bool, Failure> {
    let text = read(path)?;
    let played = play(&text, Detail::Hash);
    if let Some(failure) = played.failure {
        return Err(Failure { text: format!("{}\n{}", failure.text, played.differences), ..failure });
    }
    if played.blessed != text {
        std::fs::write(path, &played.blessed).map_err(|error| harness(error.to_string()))?;
    }
    Ok(played.blessed != text)
}

/// Everything that happens in a script.
///
/// # Errors
/// It does not read.
pub fn story(path: &Path) -> Result<String, io::Error> {
    let text = std::fs::read_to_string(path)?;
    Ok(play(&text, Detail::Whole).story)
}

#[cfg(test)]
mod tests {
    use super::{Path, find, mutants, named, plans_with_mutants};

    #[test]
    fn every_script_about_a_bug_of_kafka_names_a_mutant_that_puts_it_back() {
        let scripts = find(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap();
        let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let of_kafka = |path: &Path| name(path).starts_with("kafka-") || name(path).starts_with("kip-");
        let without: Vec<String> = scripts
            .iter()
            .filter(|path| mutants(path).unwrap().is_empty() && of_kafka(path))
            .map(|path| name(path))
            .collect();
        assert!(without.is_empty(), "{without:?}");
        assert!(scripts.iter().filter(|path| of_kafka(path)).count() > 20);
    }

    #[test]
    fn a_plan_of_the_corpus_may_name_a_mutant_that_puts_its_bug_back() {
        let plans = plans_with_mutants(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
        assert!(!plans.is_empty() && plans.iter().all(|path| path.extension().unwrap() == "plan"), "{plans:?}");
    }

    #[test]
    fn a_mutant_that_does_not_exist_is_a_mistake_of_the_script() {
        assert_eq!(named("# mutant: forget-vote stale-read\ncluster 3\n").unwrap().len(), 2);
        assert!(named("# about a mutant: nothing\ncluster 3\n").unwrap().is_empty());
        assert!(named("# mutant: no-such-mutant\n").is_err());
    }
}
