//! What once failed is replayed for ever, and the scenario scripts answer what they answered.

#![allow(missing_docs)]

use std::path::PathBuf;

use chronik_sim::runner::{Options, read_corpus};
use chronik_sim::script;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn what_once_failed_does_not_fail_again() {
    let corpus = read_corpus(&file("corpus.txt")).unwrap_or_else(|error| panic!("{error}"));
    for entry in corpus {
        let outcome = entry.run(Options::default());
        assert!(
            outcome.failure.is_none(),
            "{} ({}): {}; replay it with: chronik-sim replay {}",
            entry.name,
            entry.why,
            outcome.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
            entry.name
        );
    }
}

#[test]
fn every_scenario_ends_as_its_script_says() {
    let scripts = script::find(&file("scenarios")).unwrap_or_else(|error| panic!("{error}"));
    assert!(!scripts.is_empty());
    let failed: Vec<String> = scripts
        .iter()
        .filter_map(|path| script::check(path).err().map(|failure| format!("{}: {}", path.display(), failure.text)))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
