//! The commands of `chronik-sim`. Each says whether all was well.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chronik_model::mutant::{self, Mutant};
use chronik_sim::plan::{Limits, Plan};
use chronik_sim::runner::{self, Fleet, FleetReport, MutantResult, Options, Outcome};
use chronik_sim::script;
use chronik_sim::trace::Detail;

use crate::{Mutants, Replay, Run, Shrink};

/// Lines of the story of a script that failed.
const LAST_LINES: usize = 60;

type Done = Result<bool, Box<dyn Error>>;

fn cores(asked: usize) -> usize {
    if asked > 0 { asked } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// A seed that nobody used before: from the operating system.
fn fresh_seed() -> u64 {
    // Below 2^48, so that seeds stay readable and adding the number of a world does not overflow.
    RandomState::new().hash_one(0_u8) >> 16
}

/// How this program is called again: as it was, because it is on nobody's path.
fn again(words: &str) -> String {
    let program = std::env::current_exe().map_or_else(|_| "chronik-sim".to_owned(), |path| path.display().to_string());
    format!("{program} {words}")
}

fn print_speed(report: &FleetReport) {
    println!(
        "{} worlds, {:.0} simulated s ({:.0} per second of processor time), {} events, {} batches acknowledged, {} steps declined",
        report.worlds,
        report.simulated as f64 / 1e6,
        report.speed(),
        report.events,
        report.acked,
        report.declined
    );
}

pub fn run(args: &Run) -> Done {
    let from = args.from.unwrap_or_else(fresh_seed);
    let limits = Limits { founders: args.brokers, seconds: args.seconds, faults: !args.calm };
    let options = Options { limits, detail: Detail::Hash };
    let time = args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    // Time alone decides when it is given.
    let seeds = if time.is_some() { u64::MAX } else { args.seeds };
    let (threads, keep_going, twice) = (cores(args.threads), args.keep_going, args.twice);
    let fleet = Fleet { from, seeds, time, threads, keep_going, twice, options };
    println!("seeds from {from}, {} threads", fleet.threads);
    let report = fleet.run(&|report| print_speed(report));
    print_speed(&report);
    let custom = limits != Limits::default();
    for (at, (seed, failure)) in report.failed.iter().enumerate() {
        if at > 0 {
            println!("seed {seed} FAILED: {failure}");
            continue;
        }
        let plan = Plan::draw(*seed, limits);
        let mut words = format!("replay {seed}");
        if custom {
            // Another limit draws another plan: then the plan itself is what can be replayed.
            let path = PathBuf::from(format!("sim-{seed}.plan"));
            std::fs::write(&path, plan.to_string())?;
            words = format!("replay {}", path.display());
        }
        explain(&plan, &words);
        if !args.no_shrink {
            shrink_plan(&plan, 300, None)?;
        }
    }
    Ok(report.failed.is_empty())
}

/// Runs it once more and prints the report.
fn explain(plan: &Plan, words: &str) -> Outcome {
    let outcome = runner::run_plan(plan, Detail::Last);
    match &outcome.failure {
        Some(failure) => println!("{}", runner::failure(plan, failure, &outcome, &again(words))),
        None => println!("seed {}: does not fail again; that is a defect of the simulator", plan.seed),
    }
    outcome
}

fn find_plan(what: &str) -> Result<Plan, Box<dyn Error>> {
    match what.parse() {
        Ok(seed) => Ok(Plan::draw(seed, Limits::default())),
        Err(_) => Ok(runner::read_plan(Path::new(what))?),
    }
}

fn turn_on(name: Option<&String>) -> Result<(), Box<dyn Error>> {
    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::from_name(name).ok_or_else(|| format!("there is no mutant {name}"))?;
    if mutant::select(Some(mutant)) { Ok(()) } else { Err("this build has no mutants: --features mutants".into()) }
}

pub fn replay(args: &Replay) -> Done {
    turn_on(args.mutant.as_ref())?;
    let plan = find_plan(&args.what)?;
    if args.trace {
        let outcome = runner::run_plan(&plan, Detail::Whole);
        println!("{plan}\n{}", runner::story(&outcome));
        match &outcome.failure {
            Some(failure) => println!("{failure}"),
            None => println!("all is well; hash {:016x}", outcome.hash),
        }
        return Ok(outcome.failure.is_none());
    }
    let outcome = runner::run_plan(&plan, Detail::Last);
    match &outcome.failure {
        Some(failure) => {
            println!("{}", runner::failure(&plan, failure, &outcome, &again(&format!("replay {}", args.what))));
        }
        None => println!(
            "{}\nall is well: {:.3} simulated s, {} events, {} of {} batches acknowledged, hash {:016x}",
            plan.shape,
            outcome.simulated as f64 / 1e6,
            outcome.events,
            outcome.batches.1,
            outcome.batches.0,
            outcome.hash
        ),
    }
    Ok(outcome.failure.is_none())
}

pub fn plan(seed: u64) -> Done {
    print!("{}", Plan::draw(seed, Limits::default()));
    Ok(true)
}

pub fn shrink(args: &Shrink) -> Done {
    turn_on(args.mutant.as_ref())?;
    let plan = find_plan(&args.what)?;
    let shrunk = shrink_plan(&plan, args.tries, args.out.clone())?;
    Ok(!shrunk)
}

/// Shrinks, prints, writes; whether it failed at all.
fn shrink_plan(plan: &Plan, tries: usize, out: Option<PathBuf>) -> Result<bool, Box<dyn Error>> {
    let mut progress = |plan: &Plan, tries: usize| {
        eprintln!("after {tries} tries: {} steps, {} s", plan.steps.len(), plan.shape.duration as f64 / 1e6);
    };
    let Some(shrunk) = runner::shrink(plan, tries, &mut progress) else {
        println!("it does not fail");
        return Ok(false);
    };
    let path = out.unwrap_or_else(|| PathBuf::from(format!("sim-{}.plan", plan.seed)));
    std::fs::write(&path, format!("# {}\n{}", shrunk.failure, shrunk.plan))?;
    println!("smallest plan after {} worlds, in {}:\n\n{}", shrunk.tries, path.display(), shrunk.plan);
    explain(&shrunk.plan, &format!("replay {}", path.display()));
    Ok(true)
}

pub fn mutants(args: &Mutants) -> Done {
    if !mutant::COMPILED_IN {
        return Err("this build has no mutants: --features mutants".into());
    }
    let mut wanted = Vec::new();
    for name in &args.only {
        wanted.push(Mutant::from_name(name).ok_or_else(|| format!("there is no mutant {name}"))?);
    }
    let wanted = if wanted.is_empty() { Mutant::ALL.to_vec() } else { wanted };
    let mut scripts = args.scenarios.as_ref().map_or_else(|| Ok(Vec::new()), |path| script::find(path))?;
    if let Some(path) = &args.plans {
        scripts.extend(script::plans_with_mutants(path).map_err(|failure| failure.text)?);
    }
    let runs: Vec<_> = scripts.iter().map(|path| move || script::check(path).err()).collect();
    let scenarios: Vec<runner::Scenario<'_>> = scripts
        .iter()
        .zip(&runs)
        .map(|(path, run)| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), run as _))
        .collect();
    let mut well = true;
    if !args.scripts_only {
        let told = |result: &MutantResult| eprintln!("{result}");
        let options = Options::default();
        let results = runner::hunt(&wanted, args.from, args.seeds, cores(args.threads), options, &scenarios, &told);
        println!("| mutant | caught by | where | worlds | sites passed |");
        println!("|---|---|---|---|---|");
        results.iter().for_each(|result| println!("{result}"));
        let unnoticed = results.iter().filter(|result| !result.is_noticed()).count();
        let scripts = results.iter().filter(|result| result.is_by_script_only()).count();
        println!("{} mutants, {unnoticed} not noticed as declared, {scripts} by scripts only\n", results.len());
        well = unnoticed == 0;
    }
    println!("| script | its mutant | noticed by | sites passed |");
    println!("|---|---|---|---|");
    let mut pairs = (0, 0);
    for (path, scenario) in scripts.iter().zip(&scenarios) {
        let own = script::mutants(path).map_err(|failure| failure.text)?;
        for mutant in own.into_iter().filter(|mutant| wanted.contains(mutant)) {
            let result = runner::confront(scenario, mutant);
            println!("{result}");
            pairs = (pairs.0 + 1, pairs.1 + usize::from(!result.is_noticed()));
        }
    }
    println!("{} scripts with a mutant of their own, {} not noticed", pairs.0, pairs.1);
    Ok(well && pairs.1 == 0)
}

pub fn scenario(paths: &[PathBuf], bless: bool, trace: bool, mutant: Option<&String>) -> Done {
    turn_on(mutant)?;
    let mut well = true;
    for path in paths {
        for file in script::find(path)? {
            let name = file.display();
            let result = if bless { script::bless(&file).map(|_| ()) } else { script::check(&file) };
            if trace {
                println!("{}", script::story(&file)?);
            }
            match result {
                Ok(()) => println!("{name}: ok"),
                Err(failure) => {
                    well = false;
                    let story = script::story(&file)?;
                    let lines: Vec<&str> = story.lines().collect();
                    println!("{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
                    println!("{name}: FAILED\n{}", failure.text);
                    println!("whole story: {}", again(&format!("scenario {name} --trace")));
                }
            }
        }
    }
    Ok(well)
}

pub fn corpus(path: &Path) -> Done {
    let options = Options::default();
    let mut well = true;
    for entry in runner::read_corpus(path)? {
        let outcome = entry.run(options);
        match &outcome.failure {
            None => println!("{}: ok ({})", entry.name, entry.why),
            Some(_) => {
                well = false;
                // A plan is named from where the list lies.
                let plan = path.with_file_name(&entry.name);
                let what = if plan.exists() { plan.display().to_string() } else { entry.name.clone() };
                explain(&entry.plan(options), &format!("replay {what}"));
            }
        }
    }
    Ok(well)
}
