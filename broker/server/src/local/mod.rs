//! `chronik-broker local`: a cluster on one machine, brokers as child processes of this very binary.
//!
//! Called by `main`. [`children`] writes each broker's configuration, starts the processes and starts again the ones that
//! die (as a StatefulSet would); [`view`] asks their admin ports once a second and shows the answers: a live summary on a
//! terminal, plain lines elsewhere. Ctrl-C and SIGTERM stop the brokers one after the other, the Raft leader last, so
//! that leaderships move while somebody can take them. Data that is found is used again; nothing is ever wiped.

mod children;
mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use children::Children;
use view::View;

/// Options of `local`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of brokers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub brokers: u16,
    /// Where the brokers keep their data, logs and pid files
    #[arg(long, default_value = "./chronik-local")]
    pub data_dir: PathBuf,
    /// Kafka port of the first broker; each further broker adds one
    #[arg(long, default_value_t = 9092)]
    pub kafka_port: u16,
    /// Raft and control port of the first broker
    #[arg(long, default_value_t = 9192)]
    pub raft_port: u16,
    /// Replication port of the first broker
    #[arg(long, default_value_t = 9292)]
    pub replication_port: u16,
    /// Admin HTTP port of the first broker
    #[arg(long, default_value_t = 9392)]
    pub admin_port: u16,
    /// Address the brokers listen on and advertise
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,
    /// Further settings for every broker, e.g. --set num.partitions=6
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Leave a broker that died dead instead of starting it again
    #[arg(long)]
    pub no_restart: bool,
    /// Plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}

/// How often the brokers are looked at once the cluster is up; much more often before.
const REFRESH: Duration = Duration::from_secs(1);
const REFRESH_BEFORE_READY: Duration = Duration::from_millis(20);

/// Runs the cluster until a signal; the exit code is 0 after a clean stop.
pub async fn run(options: Options) -> ExitCode {
    let mut children = match Children::prepare(&options) {
        Ok(children) => children,
        Err(problem) => {
            eprintln!("chronik-broker local: {problem}");
            return ExitCode::from(crate::config::EXIT_CONFIG);
        }
    };
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("chronik-broker local: cannot listen for signals: {error}");
            return ExitCode::from(crate::config::EXIT_TEMPORARY);
        }
    };
    let live = std::io::stdout().is_terminal() && !options.plain;
    let mut view = View::new(&children, live);
    if let Err(problem) = children.start_all() {
        eprintln!("chronik-broker local: {problem}");
        children.stop().await;
        return ExitCode::from(crate::config::EXIT_TEMPORARY);
    }
    view.started();
    let code = loop {
        let pause = if view.was_ready() { REFRESH } else { REFRESH_BEFORE_READY };
        tokio::select! {
            _ = interrupt.recv() => break ExitCode::SUCCESS,
            _ = terminate.recv() => break ExitCode::SUCCESS,
            () = tokio::time::sleep(pause) => {}
        }
        for event in children.supervise() {
            view.say(&event.text);
            if event.fatal {
                children.stop().await;
                return ExitCode::from(crate::config::EXIT_TEMPORARY);
            }
        }
        view.refresh().await;
    };
    view.say("stopping");
    let stopped_cleanly = children.stop().await;
    view.say(if stopped_cleanly { "stopped" } else { "stopped, but not every broker ended cleanly; see their logs" });
    if stopped_cleanly { code } else { ExitCode::FAILURE }
}
