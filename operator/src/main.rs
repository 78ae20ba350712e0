//! The `chronik-operator` binary: parses, builds, runs, and turns the end into an exit code.
//!
//! Order of `run`: bind the HTTP servers, connect, elect a leader, control, stop. On SIGTERM or SIGINT the passes under way
//! come to their end, then the Lease is released; when leadership is lost they end where they are, and so does the process.
//!
//! Exit codes: 0 stopped in order; 64 usage; 69 the API server cannot be used; 75 leadership was lost or something failed
//! that a restart may cure.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_operator::api::crd;
use chronik_operator::broker_io::BrokerIo;
use chronik_operator::cli::{Cli, Command, CrdsAction, CrdsArgs, LogArgs, LogFormat, Name, RunArgs};
use chronik_operator::controller::{self, Context};
use chronik_operator::health::{self, Health};
use chronik_operator::kube_io::{KubeIo, crds};
use chronik_operator::lease::elector::Elector;
use chronik_operator::lease::{Fence, Role, Terms};
use chronik_operator::metrics::Metrics;
use chronik_operator::reconcile::Settings;
use clap::Parser as _;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

// The deliberate defects of the simulator never get into an operator.
const _: () = assert!(!chronik_operator::mutant::COMPILED_IN);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_USAGE: u8 = 64;
const EXIT_UNAVAILABLE: u8 = 69;
const EXIT_TEMPORARY: u8 = 75;
/// Pods get 30 seconds by default: passes have most of it, the Lease the rest.
const PASSES_END_WITHIN: Duration = Duration::from_secs(20);
const SERVERS_END_WITHIN: Duration = Duration::from_secs(2);
/// Names are looked up in threads of their own; a few are enough.
const BLOCKING_THREADS: usize = 4;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot use the Kubernetes API server: {0}")]
    Api(String),
    #[error("{0}")]
    Temporary(String),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version are no errors, and go where they can be read from.
            let code = if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
            return if error.print().is_ok() { code } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    start_log(&cli.log);
    // Before the first client: two providers in one tree would otherwise have to be chosen between at run time.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::warn!("a TLS provider was installed before");
    }
    let result = match cli.command {
        Command::Version => {
            println!("chronik-operator {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Crds(CrdsArgs { action: None }) => {
            print!("{}", crd::crd_yaml());
            Ok(())
        }
        Command::Crds(CrdsArgs { action: Some(CrdsAction::Apply { timeout }) }) => {
            with_runtime(async move { apply_crds(timeout).await })
        }
        Command::Run(args) => with_runtime(async move { Box::pin(run(*args)).await }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(match failure {
                Failure::Api(_) => EXIT_UNAVAILABLE,
                Failure::Temporary(_) => EXIT_TEMPORARY,
            })
        }
    }
}

/// One thread: a pass computes for milliseconds and waits for the rest.
fn with_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| Failure::Temporary(error.to_string()))?;
    let result = runtime.block_on(work);
    // A name being looked up is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn start_log(args: &LogArgs) {
    let default = match args.verbose {
        0 => "warn,chronik_operator=info",
        1 => "info,chronik_operator=debug",
        _ => "debug,chronik_operator=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

async fn connect() -> Result<Client, Failure> {
    let config = Config::infer().await.map_err(|error| Failure::Api(error.to_string()))?;
    Client::try_from(config).map_err(|error| Failure::Api(error.to_string()))
}

async fn apply_crds(patience: Duration) -> Result<(), Failure> {
    let client = connect().await?;
    let names = crds::apply(&client, &crd::crds(), patience).await.map_err(|error| Failure::Api(error.to_string()))?;
    for name in names {
        println!("customresourcedefinition/{name} applied");
    }
    Ok(())
}

async fn run(args: RunArgs) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let health = Health::default();
    let (stop_servers, servers_stop) = watch::channel(false);
    let servers = serve(&args, &metrics, &health, &servers_stop).await?;
    let client = connect().await?;
    let identity = identity(&args);
    let namespace = Name::get(args.namespace.as_ref());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity,
        namespace = namespace.unwrap_or("(all)"),
        broker_image = args.broker_image,
        "chronik-operator starts"
    );

    let (impatience, stopped) = stop_on_signal()?;
    let result = tokio::select! {
        result = lead_and_control(&args, &client, &identity, &metrics, &health, &stopped) => result,
        _ = impatience => Err(Failure::Temporary("told twice to stop: the passes are left where they are".to_owned())),
    };
    metrics.leads(false);
    stop_servers.send_replace(true);
    for server in servers {
        drop(timeout(SERVERS_END_WITHIN, server).await);
    }
    tracing::info!("chronik-operator stops");
    result
}

async fn lead_and_control(
    args: &RunArgs,
    client: &Client,
    identity: &str,
    metrics: &Arc<Metrics>,
    health: &Health,
    stopped: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let fence = if args.no_leader_election { Fence::open() } else { Fence::default() };
    // The elector goes on until the passes have ended: they need the Lease.
    let (release, released) = watch::channel(false);
    let (election, mut role) = if args.no_leader_election {
        health.elected();
        (None, None)
    } else {
        let namespace =
            Name::get(args.lease_namespace.as_ref()).unwrap_or_else(|| client.default_namespace()).to_owned();
        let terms = Terms::of(args.lease_duration);
        let (elector, role) =
            Elector::new(client.clone(), &namespace, &args.lease_name, identity, terms, fence.clone());
        (Some(tokio::spawn(elector.run(released))), Some(role))
    };

    let mut lost = false;
    if leads(role.as_mut(), health, stopped.clone()).await {
        metrics.leads(true);
        let kube = KubeIo::new(client.clone(), fence.clone(), Arc::clone(metrics), identity, args.api_timeout);
        let brokers = BrokerIo::new(fence, args.broker_timeout);
        let context = Arc::new(Context::new(kube, brokers, settings(args), Arc::clone(metrics), health.clone()));
        let namespace = Name::get(args.namespace.as_ref());
        let work = controller::run(client.clone(), namespace, args.concurrency, context, stopped.clone());
        tokio::select! {
            () = within(work, stopped.clone()) => {}
            () = loses(role.as_mut()) => lost = true,
        }
    }
    release.send_replace(true);
    if let Some(election) = election {
        drop(timeout(Duration::from_secs(3), election).await);
    }
    if lost { Err(Failure::Temporary("leadership is lost".to_owned())) } else { Ok(()) }
}

/// Waits until this replica leads; false = told to stop before.
async fn leads(role: Option<&mut watch::Receiver<Role>>, health: &Health, mut stopped: watch::Receiver<bool>) -> bool {
    let Some(role) = role else { return !*stopped.borrow() };
    loop {
        tokio::select! {
            changed = role.changed() => {
                if changed.is_err() {
                    return false;
                }
                health.elected();
                if *role.borrow_and_update() == Role::Leader {
                    return true;
                }
            }
            _ = stopped.wait_for(|stop| *stop) => return false,
        }
    }
}

/// Comes back when leadership is lost, and only then.
async fn loses(role: Option<&mut watch::Receiver<Role>>) {
    if let Some(role) = role
        && role.wait_for(|role| *role == Role::Lost).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Runs the controller to its end; when told to stop, only for so long.
async fn within(work: impl Future<Output = ()>, mut stopped: watch::Receiver<bool>) {
    let overdue = async {
        drop(stopped.wait_for(|stop| *stop).await);
        tracing::info!("stopping: the passes under way come to their end");
        tokio::time::sleep(PASSES_END_WITHIN).await;
    };
    tokio::select! {
        () = work => {}
        () = overdue => tracing::warn!("passes did not end in time and are left where they are"),
    }
}

fn settings(args: &RunArgs) -> Settings {
    Settings { broker_image: args.broker_image.clone() }
}

fn identity(args: &RunArgs) -> String {
    let given = args.identity.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let host =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default();
    // A host may run several by hand: told apart by the process id.
    given.map_or_else(|| format!("{}_{}", host(), std::process::id()), str::to_owned)
}

async fn serve(
    args: &RunArgs,
    metrics: &Arc<Metrics>,
    health: &Health,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let taken = |what: &str, address, error: std::io::Error| {
        Failure::Temporary(format!("cannot serve {what} at {address}: {error}"))
    };
    let for_metrics =
        health::bind(args.metrics_address).await.map_err(|e| taken("metrics", args.metrics_address, e))?;
    let for_health = health::bind(args.health_address).await.map_err(|e| taken("health", args.health_address, e))?;
    let metrics_server = health::serve_metrics(for_metrics, Arc::clone(metrics), stop.clone());
    let health_server = health::serve_health(for_health, health.clone(), stop.clone());
    Ok(vec![spawn("metrics", metrics_server), spawn("health", health_server)])
}

fn spawn(name: &'static str, server: impl Future<Output = std::io::Result<()>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(server = name, %error, "a server ended");
        }
    })
}

/// Set by the first SIGTERM or SIGINT; the task ends with a second one after a while: somebody is out of patience.
fn stop_on_signal() -> Result<(JoinHandle<()>, watch::Receiver<bool>), Failure> {
    const IMPATIENCE: Duration = Duration::from_secs(1);
    let failed = |error: std::io::Error| Failure::Temporary(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first {
                None => first = Some(Instant::now()),
                Some(when) if when.elapsed() >= IMPATIENCE => return,
                Some(_) => {}
            }
            stop.send_replace(true);
        }
    });
    Ok((task, stopped))
}
