//! Where settings come from, and the one reader that every section asks.
//!
//! A section calls the typed methods of [`Reader`] once per key; the call is the declaration: it names the key, says
//! what it is for, what is accepted and what the default is. So there is one place per key, and the list of known keys,
//! the printed effective configuration and the error texts all come from it.
//!
//! Precedence: `--set key=value`, then the environment (`CHRONIK_` + the key in capitals, `.` and `-` as `_`), then the
//! file, then the default. Problems are collected, so that one run reports all of them. Nothing here reads a clock or a
//! socket; [`Reader::finish`] is called last and turns unknown keys into problems.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use serde_yaml::Value;

/// Where an effective value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// `--set` on the command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::CommandLine => "command line",
        })
    }
}

/// One key with the value in force, for `--print-config` and the admin pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// Its value as text; empty when it is unset and has no default.
    pub value: String,
    /// Who set it.
    pub source: Source,
    /// What is accepted.
    pub accepted: String,
    /// What it is for.
    pub doc: &'static str,
}

/// One mistake in the configuration; names the key and what would be accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {problem}{}", if .accepted.is_empty() { String::new() } else { format!("; accepted: {}", .accepted) })]
pub struct Problem {
    /// The key (or the variable, or the file) at fault.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right; may be empty.
    pub accepted: String,
}

/// Settings not yet interpreted.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// Flattened file: dotted key to text.
    pub file: BTreeMap<String, String>,
    /// Environment variables that start with `CHRONIK_`.
    pub environment: BTreeMap<String, String>,
    /// `--set` pairs.
    pub command_line: BTreeMap<String, String>,
}

impl Sources {
    /// Adds the variables that are ours.
    ///
    /// Variables that Kubernetes injects for a Service whose name starts with `chronik` (`CHRONIK_KAFKA_PORT=tcp://…`,
    /// `…_SERVICE_HOST`) look like settings and are not; they are left out, as are those of the test harness.
    pub fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            if name.starts_with("CHRONIK_") && !is_foreign_variable(&name, &value) {
                self.environment.insert(name, value);
            }
        }
    }

    /// Adds `key=value` pairs of the command line.
    ///
    /// # Errors
    /// When a pair has no `=`.
    pub fn add_pairs<'a>(&mut self, pairs: impl IntoIterator<Item = &'a str>) -> Result<(), Problem> {
        for pair in pairs {
            let (key, value) = pair.split_once('=').ok_or_else(|| Problem {
                key: "--set".into(),
                problem: format!("'{pair}' is not a setting"),
                accepted: "key=value".into(),
            })?;
            self.command_line.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        Ok(())
    }

    /// Adds a YAML document; nested maps and dotted keys mean the same.
    ///
    /// # Errors
    /// When it is not YAML, not a map, or says the same key twice in two spellings.
    pub fn add_yaml(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        let problem =
            |problem: String| Problem { key: name.to_owned(), problem, accepted: "a YAML map of settings".into() };
        let document: Value = serde_yaml::from_str(text).map_err(|error| problem(format!("not YAML: {error}")))?;
        match document {
            Value::Null => Ok(()),
            Value::Mapping(map) => flatten("", &Value::Mapping(map), &mut self.file).map_err(problem),
            _ => Err(problem("the document is not a map".into())),
        }
    }
}

fn is_foreign_variable(name: &str, value: &str) -> bool {
    value.starts_with("tcp://")
        || value.starts_with("udp://")
        || name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["CHRONIK_CONFIG", "CHRONIK_BROKER", "CHRONIK_CACHE"].contains(&name)
        || ["CHRONIK_TEST_", "CHRONIK_CHAOS_", "CHRONIK_SOAK_"].iter().any(|start| name.starts_with(start))
        || ["_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO", "_UDP_ADDR", "_UDP_PORT", "_UDP_PROTO"]
            .iter()
            .any(|end| name.ends_with(end))
}

fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) -> Result<(), String> {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let Some(key) = scalar(key) else { return Err(format!("a key under '{prefix}' is not text")) };
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&key, value, into)?;
            }
            Ok(())
        }
        Value::Sequence(items) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                let text = scalar(item).or_else(|| peer_entry(item)).or_else(|| listener_entry(item));
                texts.push(text.ok_or_else(|| format!("'{prefix}' holds a list entry that is not understood"))?);
            }
            insert(prefix, texts.join(","), into)
        }
        Value::Null => Ok(()),
        value => {
            let text = scalar(value).ok_or_else(|| format!("'{prefix}' has a value that is not a plain value"))?;
            insert(prefix, text, into)
        }
    }
}

fn insert(key: &str, text: String, into: &mut BTreeMap<String, String>) -> Result<(), String> {
    match into.insert(key.to_owned(), text) {
        None => Ok(()),
        Some(_) => Err(format!("'{key}' is set twice")),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// `{id: 1, host: a, raft.port: 9192}` or `{id: 1, address: a:9192}` in a `peers` list, as the one-line form `1@a:9192`.
fn peer_entry(value: &Value) -> Option<String> {
    let map = value.as_mapping()?;
    if map.keys().any(|key| !matches!(key.as_str(), Some("id" | "host" | "address" | "port" | "raft.port"))) {
        return None;
    }
    let id = scalar(map.get("id")?)?;
    if let Some(address) = map.get("address") {
        return Some(format!("{id}@{}", scalar(address)?));
    }
    let host = scalar(map.get("host")?)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some(match map.get("raft.port").or_else(|| map.get("port")).and_then(scalar) {
        Some(port) => format!("{id}@{host}:{port}"),
        None => format!("{id}@{host}"),
    })
}

/// `{name: a, port: 9094, advertised.host: b, advertised.port: 30094}` in `kafka.listeners`, as `a:9094@b:30094`.
fn listener_entry(value: &Value) -> Option<String> {
    let map = value.as_mapping()?;
    let known = ["name", "port", "advertised.host", "advertised.port"];
    if map.keys().any(|key| !key.as_str().is_some_and(|key| known.contains(&key))) {
        return None;
    }
    let (name, port) = (scalar(map.get("name")?)?, scalar(map.get("port")?)?);
    let host = map.get("advertised.host").and_then(scalar);
    let host = host.map(|host| if host.contains(':') { format!("[{host}]") } else { host });
    match (host, map.get("advertised.port").and_then(scalar)) {
        (None, None) => Some(format!("{name}:{port}")),
        (Some(host), None) => Some(format!("{name}:{port}@{host}")),
        (Some(host), Some(advertised)) => Some(format!("{name}:{port}@{host}:{advertised}")),
        (None, Some(_)) => None,
    }
}

/// The environment variable of a key.
#[must_use]
pub fn variable_of(key: &str) -> String {
    let mut name = String::from("CHRONIK_");
    name.extend(key.chars().map(|c| if c == '.' || c == '-' { '_' } else { c.to_ascii_uppercase() }));
    name
}

/// Answers the sections' questions and remembers everything that was asked.
#[derive(Debug)]
pub struct Reader {
    sources: Sources,
    known: BTreeSet<&'static str>,
    effective: Vec<Effective>,
    problems: Vec<Problem>,
}

impl Reader {
    /// A reader over `sources`.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self { sources, known: BTreeSet::new(), effective: Vec::new(), problems: Vec::new() }
    }

    /// The text somebody gave for `key`, if anybody did.
    fn raw(&mut self, key: &'static str) -> Option<(String, Source)> {
        self.known.insert(key);
        let sources = &self.sources;
        let found = |map: &BTreeMap<String, String>, name: &str, source| map.get(name).map(|v| (v.clone(), source));
        found(&sources.command_line, key, Source::CommandLine)
            .or_else(|| found(&sources.environment, &variable_of(key), Source::Environment))
            .or_else(|| found(&sources.file, key, Source::File))
    }

    /// A value of any type. `default` is `None` for a setting that may stay unset.
    pub fn parsed<T: Clone>(
        &mut self,
        key: &'static str,
        doc: &'static str,
        default: Option<T>,
        accepted: impl Into<String>,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let accepted = accepted.into();
        let given = self.raw(key);
        let source = given.as_ref().map_or(Source::Default, |(_, source)| *source);
        let value = match given {
            None => default,
            Some((text, _)) => parse(text.trim()).or_else(|| {
                self.problem(key, format!("'{text}' ({source}) is not accepted"), accepted.clone());
                default
            }),
        };
        let text = value.as_ref().map(show).unwrap_or_default();
        self.effective.push(Effective { key, value: text, source, accepted, doc });
        value
    }

    /// A whole number in `range`; sizes may be written `64KiB`, `1MiB`, `2GiB`.
    pub fn number<T>(&mut self, key: &'static str, doc: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i128>,
    {
        let accepted = format!("{} to {}", range.start(), range.end());
        self.parsed(key, doc, Some(default), accepted, T::to_string, |text| number_in(text, &range)).unwrap_or(default)
    }

    /// A whole number in `range` that may stay unset.
    pub fn optional_number<T>(&mut self, key: &'static str, doc: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i128>,
    {
        let accepted = format!("{} to {}", range.start(), range.end());
        self.parsed(key, doc, None, accepted, T::to_string, |text| number_in(text, &range))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, doc: &'static str, default: bool) -> bool {
        let parse = |text: &str| text.to_ascii_lowercase().parse().ok();
        self.parsed(key, doc, Some(default), "true, false", bool::to_string, parse).unwrap_or(default)
    }

    /// Text that may stay unset; an empty value is the same as unset.
    pub fn text(&mut self, key: &'static str, doc: &'static str, accepted: &str) -> Option<String> {
        self.parsed(key, doc, None, accepted, String::clone, |text| Some(text.to_owned())).filter(|t| !t.is_empty())
    }

    /// Text with a default.
    pub fn text_or(&mut self, key: &'static str, doc: &'static str, default: &str, accepted: &str) -> String {
        let default = default.to_owned();
        self.parsed(key, doc, Some(default.clone()), accepted, String::clone, |text| {
            Some(text.to_owned()).filter(|t| !t.is_empty())
        })
        .unwrap_or(default)
    }

    /// One of a few words; the first is the default.
    pub fn choice<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        doc: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let accepted = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let show = |value: &T| words.iter().find(|(_, v)| v == value).map_or("", |(word, _)| word).to_owned();
        let default = words.first().map(|(_, value)| *value);
        self.parsed(key, doc, default, accepted, show, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// Records a mistake that only a section can see.
    pub fn problem(&mut self, key: &str, problem: impl Into<String>, accepted: impl Into<String>) {
        self.problems.push(Problem { key: key.to_owned(), problem: problem.into(), accepted: accepted.into() });
    }

    /// Every value in force and every problem, unknown keys included.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Effective>, Vec<Problem>) {
        let variables: BTreeSet<String> = self.known.iter().map(|key| variable_of(key)).collect();
        let mut unknown: Vec<Problem> = Vec::new();
        for key in self.sources.file.keys().chain(self.sources.command_line.keys()) {
            if !self.known.contains(key.as_str()) {
                unknown.push(unknown_key(key, &self.known));
            }
        }
        for name in self.sources.environment.keys() {
            if !variables.contains(name) {
                let key = name.trim_start_matches("CHRONIK_").to_ascii_lowercase().replace('_', ".");
                unknown.push(Problem { key: name.clone(), ..unknown_key(&key, &self.known) });
            }
        }
        self.problems.append(&mut unknown);
        self.effective.sort_by_key(|e| e.key);
        (self.effective, self.problems)
    }
}

fn number_in<T>(text: &str, range: &RangeInclusive<T>) -> Option<T>
where
    T: Copy + PartialOrd + TryFrom<i128>,
{
    const UNITS: [(&str, i128); 6] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];
    let (digits, unit) =
        UNITS.iter().find_map(|(end, unit)| text.strip_suffix(end).map(|d| (d, *unit))).unwrap_or((text, 1));
    let number = digits.trim().parse::<i128>().ok()?.checked_mul(unit)?;
    T::try_from(number).ok().filter(|n| range.contains(n))
}

fn unknown_key(key: &str, known: &BTreeSet<&'static str>) -> Problem {
    let nearest = known.iter().map(|k| (distance(key, k), *k)).min().filter(|(d, k)| *d <= k.len() / 3);
    let accepted = match nearest {
        Some((_, near)) => format!("did you mean '{near}'? ('chronik-broker config' lists all keys)"),
        None => "'chronik-broker config' lists all keys".into(),
    };
    Problem { key: key.to_owned(), problem: "unknown key".into(), accepted }
}

/// Edit distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
