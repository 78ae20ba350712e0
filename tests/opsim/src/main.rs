//! `chronik-opsim`: runs and replays seeds of the operator's simulation.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronik_operator::mutant::{self, Mutant};
use chronik_opsim::plan::Plan;
use chronik_opsim::runner::{Report, run, run_plan};
use chronik_opsim::shrink::shrink;
use clap::{Args, Parser, Subcommand};

/// The operator against an in-memory Kubernetes and modelled brokers, from a seed.
#[derive(Debug, Parser)]
#[command(name = "chronik-opsim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many seeds; fresh ones unless told where to begin
    Run(Run),
    /// One seed again
    Replay {
        /// Which
        seed: u64,
        /// Prints the whole story
        #[arg(long)]
        trace: bool,
        /// With others who meddle with what is the operator's, also where the seed has none
        #[arg(long)]
        strangers: bool,
        /// With this deliberate defect
        #[arg(long)]
        mutant: Option<String>,
    },
    /// The plan of a seed
    Plan {
        /// Which
        seed: u64,
        /// With others who meddle with what is the operator's, also where the seed has none
        #[arg(long)]
        strangers: bool,
    },
    /// The smallest plan that fails like that of a seed, and its story
    Shrink {
        /// Which
        seed: u64,
        /// With others who meddle with what is the operator's, also where the seed has none
        #[arg(long)]
        strangers: bool,
    },
    /// Turns on one deliberate defect after the other; each must be noticed
    Mutants {
        /// Seeds for each
        #[arg(long, default_value_t = 400)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Only these
        only: Vec<String>,
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
    /// With others who meddle with what is the operator's, also where the seed has none
    #[arg(long)]
    strangers: bool,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => run_many(&options),
        Command::Replay { seed, trace, strangers, mutant } => {
            replay(planned(seed, strangers), trace, mutant.as_deref())
        }
        Command::Plan { seed, strangers } => {
            println!("{}", planned(seed, strangers));
            ExitCode::SUCCESS
        }
        Command::Shrink { seed, strangers } => make_smaller(&planned(seed, strangers)),
        Command::Mutants { seeds, from, only } => mutants(seeds, from, &only),
    }
}

fn show(report: &Report, all: bool) {
    if all || report.failure.is_some() {
        print!("{}", report.story);
    }
    match &report.failure {
        None => println!(
            "seed {}: well, {} s, {} passes, {} kills, hash {:016x}",
            report.seed,
            report.simulated_ms / 1000,
            report.passes,
            report.kills,
            report.hash
        ),
        Some(failure) => {
            println!("seed {} FAILED: {failure}", report.seed);
            println!("replay: cargo run -p chronik-opsim --profile sim -- replay {} --trace", report.seed);
        }
    }
}

fn planned(seed: u64, strangers: bool) -> Plan {
    if strangers { Plan::among_strangers(seed) } else { Plan::new(seed) }
}

fn replay(plan: Plan, trace: bool, mutant: Option<&str>) -> ExitCode {
    if let Some(name) = mutant
        && !select(name)
    {
        eprintln!("error: no mutant {name} in this build (build with --features mutants)");
        return ExitCode::from(2);
    }
    let report = run_plan(plan, trace);
    show(&report, trace);
    if report.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn make_smaller(plan: &Plan) -> ExitCode {
    let Some((small, _)) = shrink(plan, |plan| run_plan(plan.clone(), false).failure) else {
        println!("seed {}: well", plan.seed);
        return ExitCode::SUCCESS;
    };
    show(&run_plan(small.clone(), true), true);
    println!("{small}");
    ExitCode::FAILURE
}

fn fresh() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ (since.as_secs() << 20) & 0xFFFF_FFFF_FFFF
}

fn run_many(options: &Run) -> ExitCode {
    let from = options.from.unwrap_or_else(fresh);
    println!("seeds from {from}");
    let begin = Instant::now();
    let deadline = options.minutes.map(|minutes| begin + Duration::from_secs_f64(minutes * 60.0));
    let seeds = if deadline.is_some() && options.seeds == 2000 { u64::MAX } else { options.seeds };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if options.threads == 0 { cores } else { options.threads };
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (passes, kills, simulated) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds {
                        return;
                    }
                    let report = run_plan(planned(from.wrapping_add(at), options.strangers), false);
                    done.fetch_add(1, Ordering::Relaxed);
                    passes.fetch_add(report.passes, Ordering::Relaxed);
                    kills.fetch_add(report.kills, Ordering::Relaxed);
                    simulated.fetch_add(report.simulated_ms, Ordering::Relaxed);
                    if report.failure.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        if options.keep_going {
                            println!("seed {} FAILED: {}", report.seed, report.failure.unwrap_or_default());
                        } else if !stop.swap(true, Ordering::Relaxed) {
                            show(&report, false);
                        }
                    }
                }
            });
        }
    });
    let (done, failed, seconds) = (done.into_inner(), failed.into_inner(), begin.elapsed().as_secs_f64());
    println!(
        "{done} seeds in {seconds:.1} s ({:.0}/s), {} passes, {} kills, {} simulated hours, {failed} failed",
        done as f64 / seconds.max(0.001),
        passes.into_inner(),
        kills.into_inner(),
        simulated.into_inner() / 3_600_000
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn select(name: &str) -> bool {
    Mutant::from_name(name).is_some_and(|mutant| mutant::select(Some(mutant)))
}

/// Prints for each defect how many seeds it took to notice it, and as what.
fn mutants(seeds: u64, from: u64, only: &[String]) -> ExitCode {
    if !mutant::COMPILED_IN {
        eprintln!("error: this build has no mutants (build with --features mutants)");
        return ExitCode::from(2);
    }
    let mut survivors = 0;
    println!("| mutant | noticed after | as |\n|---|---|---|");
    for mutant in Mutant::ALL.iter().copied().filter(|m| only.is_empty() || only.iter().any(|name| name == m.name())) {
        let mut reached = 0;
        let noticed = (0..seeds).find_map(|at| {
            let _compiled_in = mutant::select(Some(mutant));
            let failure = run(from + at, false).failure;
            reached += mutant::reached();
            let failure = failure?;
            // What fails anyway notices nothing.
            let _off = mutant::select(None);
            run(from + at, false).failure.is_none().then_some((at + 1, failure))
        });
        let _off = mutant::select(None);
        match noticed {
            Some((after, failure)) => println!("| {} | {after} | {failure} |", mutant.name()),
            None => {
                survivors += 1;
                println!("| {} | NEVER in {seeds} (reached {reached} times) | |", mutant.name());
            }
        }
    }
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
