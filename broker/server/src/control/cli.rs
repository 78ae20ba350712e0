//! `chronik-broker control`: the control service for people and scripts. Asks one broker, prints JSON.
//!
//! Exit codes: 0 done; 1 refused, with the reason; 64 usage; 69 the broker does not answer; 75 not now, ask again;
//! 77 the secret is missing or wrong.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::proto::control_client::ControlClient;
use super::proto::{self, change_quorum_request::Kind};
use super::secret;
use crate::config::{EXIT_CONFIG, EXIT_TEMPORARY};

const EXIT_REFUSED: u8 = 1;
const EXIT_UNAVAILABLE: u8 = 69;
const EXIT_NO_PERMISSION: u8 = 77;

/// Whom to ask.
#[derive(Args, Debug)]
pub struct Options {
    /// Raft address (raft.port) of any broker of the cluster
    #[arg(long, default_value = "127.0.0.1:9192", global = true)]
    address: String,
    /// File with the cluster's secret, the one that control.secret.file names; of several lines the first counts
    #[arg(long, env = "CHRONIK_CONTROL_SECRET_FILE", value_name = "FILE", global = true)]
    secret_file: Option<PathBuf>,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 30, global = true)]
    timeout: u64,
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand, Debug)]
enum Question {
    /// Show the broker, the quorum and all brokers with their replicas
    Describe,
    /// Give a broker no new replicas; `rebalance` then moves away those it has
    Cordon { node: i32 },
    /// Let a broker have replicas again
    Uncordon { node: i32 },
    /// Begin the next few moves that empty cordoned brokers and even out the others; repeat until nothing remains
    Rebalance {
        /// Partitions that may be moved at a time
        #[arg(long, default_value_t = 5)]
        max_in_flight: i32,
        /// Bytes per second that each broker copies; unset = as configured
        #[arg(long, value_name = "BYTES_PER_SECOND")]
        throttle: Option<u64>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Hand the leaderships of a broker to other in-sync replicas
    MoveLeaders { node: i32 },
    /// Make a learner of the metadata quorum a voter
    Promote { node: i32 },
    /// Make a voter of the metadata quorum a learner; not the one that leads
    Demote { node: i32 },
    /// Remove a voter or learner from the metadata quorum
    Remove { node: i32 },
    /// Hand the leadership of the metadata quorum to a voter, or to whoever is fit
    Transfer { node: Option<i32> },
    /// Forget a broker that will not return and holds no replicas
    Unregister { node: i32 },
    /// Say in which rack a broker is that is not configured with one; without a rack, that it is not known
    AssignRack { node: i32, rack: Option<String> },
    /// Give a setting one value for all brokers, without a restart; without a value, as built in
    SetDefault { name: String, value: Option<String> },
}

type Client = ControlClient<InterceptedService<Channel, Bearer>>;

/// Adds the secret to each question.
#[derive(Clone, Debug)]
struct Bearer(Option<tonic::metadata::AsciiMetadataValue>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// How an answer ends the process.
enum End {
    Done,
    Refused,
    Retry,
}

/// Asks and prints.
pub async fn run(options: Options) -> ExitCode {
    let bearer = match secret_of(&options) {
        Ok(bearer) => bearer,
        Err(problem) => return fail(EXIT_CONFIG, &problem),
    };
    let timeout = Duration::from_secs(options.timeout.max(1));
    let endpoint = match Endpoint::from_shared(format!("http://{}", options.address)) {
        Ok(endpoint) => endpoint.connect_timeout(timeout).timeout(timeout),
        Err(error) => return fail(EXIT_CONFIG, &format!("--address {}: {error}", options.address)),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let problem = format!(
                "cannot connect to {}: {reason}\nIs the broker running, and is this its raft.port? (default 9192; \
                 --address host:port)",
                options.address
            );
            return fail(EXIT_UNAVAILABLE, &problem);
        }
    };
    let client = ControlClient::with_interceptor(channel, bearer).max_decoding_message_size(64 << 20);
    match ask(client, options.question).await {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Refused) => ExitCode::from(EXIT_REFUSED),
        Ok(End::Retry) => ExitCode::from(EXIT_TEMPORARY),
        Err(status) => {
            let code = match status.code() {
                Code::Unauthenticated | Code::PermissionDenied => EXIT_NO_PERMISSION,
                _ => EXIT_UNAVAILABLE,
            };
            fail(code, &format!("{}: {}", options.address, status.message()))
        }
    }
}

fn secret_of(options: &Options) -> Result<Bearer, String> {
    let Some(path) = &options.secret_file else { return Ok(Bearer(None)) };
    let problem = |problem: String| format!("--secret-file {}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    let first = first.ok_or_else(|| problem("holds no secret".into()))?;
    secret::bearer(first).map(|value| Bearer(Some(value))).map_err(|_| problem("is not a secret".into()))
}

#[allow(clippy::result_large_err, reason = "what gRPC clients return")]
async fn ask(mut client: Client, question: Question) -> Result<End, Status> {
    let quorum = |kind: Kind, node_id| proto::ChangeQuorumRequest { kind: kind.into(), node_id };
    match question {
        Question::Describe => show(&client.describe(proto::DescribeRequest {}).await?, |_| End::Done),
        Question::Cordon { node } => {
            show(&client.cordon(proto::CordonRequest { node_id: node, cordoned: true }).await?, outcome)
        }
        Question::Uncordon { node } => {
            show(&client.cordon(proto::CordonRequest { node_id: node, cordoned: false }).await?, outcome)
        }
        Question::Rebalance { max_in_flight, throttle, dry_run } => {
            let throttle_bytes_per_second = throttle.unwrap_or(0);
            let request = proto::RebalanceRequest { max_in_flight, throttle_bytes_per_second, dry_run };
            show(&client.rebalance(request).await?, |reply| match &reply.outcome {
                Some(proto::rebalance_reply::Outcome::Progress(_)) => End::Done,
                Some(proto::rebalance_reply::Outcome::Retry(_)) => End::Retry,
                Some(proto::rebalance_reply::Outcome::Refused(_)) | None => End::Refused,
            })
        }
        Question::MoveLeaders { node } => {
            let request = proto::MoveLeadersRequest { node_id: node };
            show(&client.move_leaders(request).await?, |reply| match &reply.outcome {
                Some(proto::move_leaders_reply::Outcome::Left(_)) => End::Done,
                Some(proto::move_leaders_reply::Outcome::Retry(_)) => End::Retry,
                Some(proto::move_leaders_reply::Outcome::Refused(_)) | None => End::Refused,
            })
        }
        Question::Promote { node } => show(&client.change_quorum(quorum(Kind::Promote, node)).await?, outcome),
        Question::Demote { node } => show(&client.change_quorum(quorum(Kind::Demote, node)).await?, outcome),
        Question::Remove { node } => show(&client.change_quorum(quorum(Kind::Remove, node)).await?, outcome),
        Question::Transfer { node } => {
            show(&client.change_quorum(quorum(Kind::TransferLeader, node.unwrap_or(0))).await?, outcome)
        }
        Question::Unregister { node } => {
            show(&client.unregister(proto::UnregisterRequest { node_id: node }).await?, outcome)
        }
        Question::AssignRack { node, rack } => {
            let request = proto::AssignRackRequest { node_id: node, rack: rack.unwrap_or_default() };
            show(&client.assign_rack(request).await?, outcome)
        }
        Question::SetDefault { name, value } => {
            let request = proto::SetClusterDefaultRequest { name, value };
            show(&client.set_cluster_default(request).await?, outcome)
        }
    }
}

fn outcome(reply: &proto::Outcome) -> End {
    match &reply.outcome {
        Some(proto::outcome::Outcome::Done(_)) => End::Done,
        Some(proto::outcome::Outcome::Retry(_)) => End::Retry,
        Some(proto::outcome::Outcome::Refused(_)) | None => End::Refused,
    }
}

#[allow(clippy::result_large_err, reason = "what gRPC clients return")]
fn show<T: Serialize>(reply: &Response<T>, end: impl Fn(&T) -> End) -> Result<End, Status> {
    let text = serde_json::to_string_pretty(reply.get_ref()).map_err(|error| Status::internal(error.to_string()))?;
    println!("{text}");
    Ok(end(reply.get_ref()))
}

fn fail(code: u8, problem: &str) -> ExitCode {
    eprintln!("chronik-broker: {problem}");
    ExitCode::from(code)
}
