//! The command line of `chronik-broker`. Parses, builds, runs, and turns the end into an exit code.
//!
//! Exit codes: 0 stopped in order; 64 configuration or usage; 65 the data directory belongs to another cluster or node,
//! or is damaged; 66 another process is this broker; 69 the broker asked does not answer; 75 a fault that a restart may
//! cure; 77 the broker asked wants another secret.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chronik_broker::config::{Config, EXIT_CONFIG, EXIT_TEMPORARY};
use chronik_broker::{admin, control, local, probe, startup, telemetry};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

// The deliberate defects of the simulator never get into a broker.
const _: () = assert!(!chronik_model::mutant::COMPILED_IN);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A second signal this long after the first ends the process at once.
const IMPATIENCE: Duration = Duration::from_secs(3);

#[derive(Parser, Debug)]
#[command(name = "chronik-broker", version, about = "A broker of a Chronik cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a broker
    Run(RunArgs),
    /// Run a whole cluster on this machine
    Local(local::Options),
    /// Show what a running broker knows, on one screen
    Status(AskArgs),
    /// Examine a running cluster: what is wrong, where, and what to do
    Doctor(AskArgs),
    /// Operate a running cluster: cordon, rebalance, change the quorum
    Control(control::cli::Options),
    /// Write records to every broker of a cluster, read them back and compare
    Probe(probe::Options),
    /// Print every setting with its value, its source and its meaning
    Config(ConfigArgs),
    /// Print the version
    Version,
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, env = "CHRONIK_CONFIG")]
    config: Option<PathBuf>,
    /// One setting, stronger than file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the effective configuration and end
    #[arg(long)]
    print_config: bool,
    /// End when the parent process ends
    #[arg(long)]
    die_with_parent: bool,
}

#[derive(Args, Debug)]
struct AskArgs {
    /// Admin address of the broker
    #[arg(long, default_value = "127.0.0.1:9392")]
    admin: String,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_CONFIG } else { 0 };
            // Nowhere to say that nothing can be said.
            let _printed = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_TEMPORARY, &error),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run(&args).await,
            Command::Local(options) => local::run(options).await,
            Command::Status(args) => admin::show::status(&args.admin, args.json).await,
            Command::Doctor(args) => admin::show::doctor(&args.admin, args.json).await,
            Command::Control(options) => control::cli::run(options).await,
            Command::Probe(options) => probe::run(&options).await,
            Command::Config(args) => print_config(&args),
            Command::Version => {
                println!("chronik-broker {}", env!("CARGO_PKG_VERSION"));
                ExitCode::SUCCESS
            }
        }
    });
    // Tasks that still wait for somebody must not hold up the end.
    runtime.shutdown_background();
    code
}

fn load(args: &ConfigArgs) -> Result<Config, ExitCode> {
    let pairs = args.set.iter().map(String::as_str);
    Config::load(args.config.as_deref(), pairs).map_err(|error| fail(EXIT_CONFIG, &error))
}

fn print_config(args: &ConfigArgs) -> ExitCode {
    match load(args) {
        Ok(config) => {
            print!("{}", config.describe());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

async fn run(args: &RunArgs) -> ExitCode {
    if args.print_config {
        return print_config(&args.config);
    }
    if args.die_with_parent
        && let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        return fail(EXIT_TEMPORARY, &error);
    }
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let switch = match telemetry::start(&config.tracing) {
        Ok(switch) => switch,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    tracing::info!("{}", startup::describe(&config));
    let (stop, stopping) = watch::channel(false);
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(EXIT_TEMPORARY, &error),
    };
    let result = tokio::select! {
        result = startup::run(config, switch, stopping) => result,
        () = signals.stop_twice(&stop) => return fail(EXIT_TEMPORARY, &"a second signal ends the process at once"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the broker ends");
            fail(error.exit_code(), &error)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Asks to stop at the first signal; ends at a second one that comes later. A terminal sends its signal to the whole
    /// process group besides that of a supervisor, so what follows closely means the same as the first.
    async fn stop_twice(mut self, stop: &watch::Sender<bool>) {
        self.next().await;
        stop.send_replace(true);
        let begin = Instant::now();
        loop {
            self.next().await;
            if begin.elapsed() > IMPATIENCE {
                return;
            }
        }
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("chronik-broker: {error}");
    ExitCode::from(code)
}
