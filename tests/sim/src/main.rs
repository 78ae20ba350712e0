//! `chronik-sim`: runs, replays and shrinks simulated clusters.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod commands;

/// Whole clusters in one thread, from one seed.
#[derive(Debug, Parser)]
#[command(name = "chronik-sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many seeds; fresh ones unless told where to begin
    Run(Run),
    /// One seed, or a plan from a file, again
    Replay(Replay),
    /// The smallest plan that still fails as this seed or plan does
    Shrink(Shrink),
    /// The plan of a seed
    Plan {
        /// Which
        seed: u64,
    },
    /// Turns on one deliberate defect after the other; each must be noticed, also by the script that is about it
    Mutants(Mutants),
    /// Runs scenario scripts
    Scenario {
        /// Files, or directories of them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Writes what happens into the files as what is expected
        #[arg(long)]
        bless: bool,
        /// Prints what happened, packets too
        #[arg(long)]
        trace: bool,
        /// With this deliberate defect
        #[arg(long, conflicts_with = "bless")]
        mutant: Option<String>,
    },
    /// Runs what once failed
    Corpus {
        /// The list
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// How many
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first
    #[arg(long)]
    from: Option<u64>,
    /// Longest real time
    #[arg(long)]
    minutes: Option<f64>,
    /// Worlds at the same time; 0 = one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Longest simulated time of faults
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// No faults at all
    #[arg(long)]
    calm: bool,
    /// Most brokers that found a cluster
    #[arg(long, default_value_t = 5)]
    brokers: u8,
    /// Does not shrink the first failure
    #[arg(long)]
    no_shrink: bool,
    /// Runs each twice: the stories must be the same
    #[arg(long)]
    twice: bool,
}

#[derive(Debug, Args)]
struct Replay {
    /// A seed, or the file of a plan
    what: String,
    /// Prints the whole story
    #[arg(long)]
    trace: bool,
    /// With this deliberate defect
    #[arg(long)]
    mutant: Option<String>,
}

#[derive(Debug, Args)]
struct Shrink {
    /// A seed, or the file of a plan
    what: String,
    /// Where the smallest plan goes
    #[arg(long)]
    out: Option<PathBuf>,
    /// Most worlds to run
    #[arg(long, default_value_t = 600)]
    tries: usize,
    /// With this deliberate defect
    #[arg(long)]
    mutant: Option<String>,
}

#[derive(Debug, Args)]
struct Mutants {
    /// Seeds for each
    #[arg(long, default_value_t = 400)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Worlds at the same time; 0 = one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Only these
    only: Vec<String>,
    /// Scenario scripts: they may notice what no seed did, and must notice the mutants that they name
    #[arg(long)]
    scenarios: Option<PathBuf>,
    /// Plans, of which those that name mutants must notice them
    #[arg(long, requires = "scenarios")]
    plans: Option<PathBuf>,
    /// No seeds: only each script with the mutants that it names
    #[arg(long, requires = "scenarios")]
    scripts_only: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(run) => commands::run(&run),
        Command::Replay(replay) => commands::replay(&replay),
        Command::Shrink(shrink) => commands::shrink(&shrink),
        Command::Plan { seed } => commands::plan(seed),
        Command::Mutants(mutants) => commands::mutants(&mutants),
        Command::Scenario { paths, bless, trace, mutant } => commands::scenario(&paths, bless, trace, mutant.as_ref()),
        Command::Corpus { path } => commands::corpus(&path),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
