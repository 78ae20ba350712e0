//! Where mutants may be: each has a site in production code, and nothing but the simulator can turn them on.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Reads the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chronik_model::mutant::Mutant;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Files below `dir` that end like this, without build output and fetched crates.
fn files(dir: &Path, suffix: &str, found: &mut Vec<(PathBuf, String)>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "vendor" && !name.starts_with('.') {
            files(&path, suffix, found);
        } else if name.ends_with(suffix) && path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

#[test]
fn every_mutant_has_a_site_and_every_site_names_a_mutant() {
    let mut sources = Vec::new();
    for name in ["log", "consensus", "core", "node"] {
        files(&root().join("broker").join(name).join("src"), ".rs", &mut sources);
    }
    let mut sites = BTreeSet::new();
    for (_, text) in &sources {
        for rest in text.split("mutant!(").skip(1) {
            sites.insert(rest.split(')').next().unwrap().to_owned());
        }
    }
    let all: BTreeSet<String> = Mutant::ALL.iter().map(|mutant| format!("{mutant:?}")).collect();
    assert_eq!(sites, all);
}

#[test]
fn only_the_simulators_can_turn_mutants_on_and_not_by_default() {
    let mut manifests = Vec::new();
    files(&root(), "Cargo.toml", &mut manifests);
    assert!(manifests.len() > 8, "the manifests of the workspace are read: {}", manifests.len());
    for (path, text) in manifests {
        let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#') && line.contains("mutants"));
        match path.as_str() {
            // The operator's own, for its own simulator.
            "operator/Cargo.toml" => assert_eq!(lines().collect::<Vec<_>>(), ["mutants = []"]),
            "tests/opsim/Cargo.toml" => {
                assert_eq!(lines().collect::<Vec<_>>(), [r#"mutants = ["chronik-operator/mutants"]"#]);
            }
            "broker/model/Cargo.toml" => assert_eq!(lines().collect::<Vec<_>>(), ["mutants = []"]),
            "tests/sim/Cargo.toml" => {
                assert_eq!(lines().collect::<Vec<_>>(), [r#"mutants = ["chronik-model/mutants"]"#]);
            }
            _ => assert_eq!(lines().count(), 0, "{path} speaks of mutants"),
        }
    }
}
