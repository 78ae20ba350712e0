//! The `chronik-operator` binary.
//!
//! Reconciling `ChronikCluster` objects is not implemented yet; until it is, the binary offers nothing but its
//! version, so that nobody can mistake it for a working operator.

use clap::Parser;

/// Kubernetes operator of Chronik (no subcommand is implemented yet).
#[derive(Debug, Parser)]
#[command(name = "chronik-operator", version, arg_required_else_help = true)]
struct Cli {}

fn main() {
    let Cli {} = Cli::parse();
}
