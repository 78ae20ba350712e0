//! The command line of `chronik-operator`: what can be asked of it, and with which settings.
//!
//! Parsed once, by `main`. Every setting of `run` is an option and an environment variable; the option is stronger.
//! Nothing here does anything: that is in `main`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Kubernetes operator of Chronik: keeps Kafka-compatible clusters as their ChronikCluster objects want them
#[derive(Debug, Parser)]
#[command(name = "chronik-operator", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions as YAML, or apply them
    Crds(CrdsArgs),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub struct CrdsArgs {
    #[command(subcommand)]
    pub action: Option<CrdsAction>,
}

#[derive(Debug, Subcommand)]
pub enum CrdsAction {
    /// Apply the CustomResourceDefinitions to the cluster and wait until the API server serves them
    Apply {
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds(1, 3600))]
        timeout: Duration,
    },
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, env = "CHRONIK_OPERATOR_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// More log lines; twice for even more. RUST_LOG, where set, decides alone
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Watch this namespace only; needs no more than a Role in it [default: all namespaces]
    #[arg(long, env = "CHRONIK_OPERATOR_NAMESPACE", value_name = "NAMESPACE", value_parser = optional_name)]
    pub namespace: Option<Name>,
    /// Image of the brokers of clusters that name none
    #[arg(long, env = "CHRONIK_BROKER_IMAGE", value_name = "IMAGE")]
    pub broker_image: String,
    /// Name of the Lease that decides which replica of the operator works
    #[arg(long, env = "CHRONIK_OPERATOR_LEASE_NAME", value_name = "NAME", default_value = "chronik-operator")]
    pub lease_name: String,
    /// Namespace of that Lease [default: the namespace of the kubeconfig or of the pod]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", value_parser = optional_name)]
    pub lease_namespace: Option<Name>,
    /// How long a dead leader keeps its Lease; a living one gives up after two thirds of it without renewal
    #[arg(long, env = "CHRONIK_OPERATOR_LEASE_DURATION", value_name = "SECONDS", default_value = "15", value_parser = seconds(3, 300))]
    pub lease_duration: Duration,
    /// Who this replica is, in the Lease and in events [default: the host name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Work without a Lease: only where nobody else can run
    #[arg(long)]
    pub no_leader_election: bool,
    /// Where /metrics is served
    #[arg(long, env = "CHRONIK_OPERATOR_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Where /healthz and /readyz are served
    #[arg(long, env = "CHRONIK_OPERATOR_HEALTH_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    pub health_address: SocketAddr,
    /// How many clusters are worked on at a time
    #[arg(long, env = "CHRONIK_OPERATOR_CONCURRENCY", value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// How long one call to a broker may take
    #[arg(long, env = "CHRONIK_OPERATOR_BROKER_TIMEOUT", value_name = "SECONDS", default_value = "2", value_parser = seconds(1, 60))]
    pub broker_timeout: Duration,
    /// How long one call to the API server may take
    #[arg(long, env = "CHRONIK_OPERATOR_API_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = seconds(1, 120))]
    pub api_timeout: Duration,
}

/// A namespace from the environment: an empty variable, as charts like to write, is no namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name(Option<String>);

impl Name {
    pub fn get(this: Option<&Self>) -> Option<&str> {
        this.and_then(|name| name.0.as_deref())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
fn optional_name(text: &str) -> Result<Name, String> {
    let text = text.trim();
    Ok(Name((!text.is_empty()).then(|| text.to_owned())))
}

fn seconds(min: u64, max: u64) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match text.trim_end_matches('s').parse::<u64>() {
        Ok(seconds) if (min..=max).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Ok(_) | Err(_) => Err(format!("wanted: whole seconds, {min} to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn run(args: &[&str]) -> RunArgs {
        let mut all = vec!["chronik-operator", "run", "--broker-image", "b:1"];
        all.extend(args);
        match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Command::Run(args)) => *args,
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_watch_all_namespaces_and_elect_a_leader() {
        let args = run(&[]);
        assert_eq!(Name::get(args.namespace.as_ref()), None);
        assert_eq!(args.concurrency, 4);
        assert_eq!(args.lease_duration, Duration::from_secs(15));
        assert!(!args.no_leader_election);
        assert_eq!(args.metrics_address.port(), 8080);
        assert_eq!(args.health_address.port(), 8081);
    }

    #[test]
    fn an_empty_namespace_means_all() {
        assert_eq!(Name::get(run(&["--namespace", ""]).namespace.as_ref()), None);
        assert_eq!(Name::get(run(&["--namespace", "a"]).namespace.as_ref()), Some("a"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        let error = Cli::try_parse_from(["chronik-operator", "run", "--broker-image", "b", "--lease-duration", "1"])
            .unwrap_err();
        assert!(error.to_string().contains("3 to 300"), "{error}");
        assert!(Cli::try_parse_from(["chronik-operator", "run", "--broker-image", "b", "--concurrency", "0"]).is_err());
    }

    #[test]
    fn crds_print_unless_told_to_apply() {
        let parse = |args: &[&str]| match Cli::try_parse_from(args).map(|cli| cli.command) {
            Ok(Command::Crds(args)) => args.action,
            other => panic!("not crds: {other:?}"),
        };
        assert!(parse(&["chronik-operator", "crds"]).is_none());
        assert!(
            matches!(parse(&["chronik-operator", "crds", "apply"]), Some(CrdsAction::Apply { timeout }) if timeout.as_secs() == 60)
        );
    }
}
