//! The control service: what an operator, of flesh or of code, asks of a broker (`proto/control.proto`).
//!
//! Served on the Raft port next to the peers' own service, by every broker. What the metadata decides is proposed like
//! any other command, what the quorum decides is forwarded to its leader. [`secret`] lets callers in, [`describe`] tells,
//! [`rebalance`] moves replicas as `chronik_core::balance` plans, [`quorum`] changes members, [`cli`] is the same for
//! people.
//!
//! What never happens: an answer without the secret; a change that cannot be repeated; a wait without an end.

pub mod cli;
mod describe;
mod quorum;
mod rebalance;
pub mod secret;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chronik_core::controller::{
    AlterConfigs, Command, CommandError, CommandResult, ConfigChange, ConfigOp, ConfigResource, MoveLeaders,
    SetBrokerRack, SetCordon, UnregisterBroker,
};
use chronik_model::{DirectoryId, ErrorCode, NodeId};
use tonic::{Request, Response, Status};

use crate::driver::Shared;
use crate::driver::control::Control;
use crate::driver::meta_client::Meta;
use crate::replication::meta::ProposeError;
use proto::control_server::{Control as Rpc, ControlServer};
use secret::Secret;

/// Generated from `proto/control.proto`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::redundant_clone,
    reason = "generated code"
)]
pub mod proto {
    tonic::include_proto!("chronik.control.v1");
}

/// Longest wait for a command to be committed and applied here.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions are short.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What this broker knows about itself, from those who own the facts.
pub trait Myself: Send + Sync + 'static {
    /// Why it is not ready, if so.
    ///
    /// # Errors
    /// What is missing.
    fn readiness(&self) -> Result<(), String>;
    /// Bytes of its file system: free and in all.
    fn space(&self) -> (u64, u64);
    /// Whether its log directory failed.
    fn log_dir_offline(&self) -> bool;
    /// Time since its start.
    fn uptime(&self) -> Duration;
    /// Size of the partitions that it hosts, by topic and index.
    fn sizes(&self) -> Vec<(String, i32, u64)>;
}

/// Answers the control service.
pub struct ControlApi {
    meta: Meta,
    members: Arc<Control>,
    secret: Arc<Secret>,
    myself: Arc<dyn Myself>,
    directory: OnceLock<DirectoryId>,
    /// Two plans made at once would begin twice as much.
    planning: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for ControlApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlApi").field("node", &self.shared().node).finish_non_exhaustive()
    }
}

/// The service as it is added to the gRPC listener.
pub type ControlApiServer = ControlServer<ControlApi>;

impl ControlApi {
    /// A service over the metadata and the members of this broker.
    #[must_use]
    pub fn new(meta: Meta, members: Arc<Control>, secret: Arc<Secret>, myself: Arc<dyn Myself>) -> Arc<Self> {
        let (directory, planning) = (OnceLock::new(), tokio::sync::Mutex::new(()));
        Arc::new(Self { meta, members, secret, myself, directory, planning })
    }

    /// The data directory has this identity from now on; only the first call counts.
    pub fn claimed(&self, directory: DirectoryId) {
        let _first = self.directory.set(directory);
    }

    /// For the gRPC listener.
    #[must_use]
    pub fn server(self: &Arc<Self>) -> ControlApiServer {
        ControlServer::from_arc(Arc::clone(self)).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    fn shared(&self) -> &Arc<Shared> {
        self.meta.shared()
    }

    async fn run(&self, command: impl Into<Command>) -> Result<CommandResult, Refusal> {
        match self.meta.run(command.into(), PATIENCE).await {
            Ok(result) => result.ok().map_err(Refusal::Command),
            Err(ProposeError::Refused(problem)) => Err(Refusal::Never(problem)),
            Err(error @ (ProposeError::TimedOut | ProposeError::Stopped)) => Err(Refusal::NotNow(error.to_string())),
        }
    }

    /// Waits until this broker knows what was committed before the call.
    async fn catch_up(&self) -> Result<(), Refusal> {
        let not_now = |error: ProposeError| Refusal::NotNow(error.to_string());
        let index = self.meta.read_index(PATIENCE).await.map_err(not_now)?;
        let applied = tokio::time::timeout(PATIENCE, self.meta.applied(index)).await;
        applied.map_err(|_| not_now(ProposeError::TimedOut))
    }

    /// What would be refused is not proposed: whoever asks again every minute must not fill the metadata log with it.
    async fn set_default(&self, name: String, value: Option<String>) -> proto::Outcome {
        let op = if value.is_some() { ConfigOp::Set } else { ConfigOp::Delete };
        let changes = vec![ConfigChange { name, op, value }];
        let command = AlterConfigs { resource: ConfigResource::ClusterDefault, changes, replace: false };
        if let Err(error) = self.shared().state.read().check_alter_configs(&command) {
            return refused(error.message);
        }
        outcome(self.run(command).await)
    }

    async fn forget(&self, node: NodeId) -> proto::Outcome {
        // A voter that is gone counts against every majority: forgetting it would hide that.
        let status = self.shared().status.load();
        if status.as_ref().is_some_and(|status| status.voters.contains(&node)) {
            return refused(format!("broker {node} votes in the metadata quorum; remove it there first"));
        }
        match self.run(UnregisterBroker { node }).await {
            Err(Refusal::Command(error)) if error.code == ErrorCode::BrokerIdNotRegistered => done(),
            result => outcome(result),
        }
    }
}

/// Why a command has no result.
enum Refusal {
    /// By the metadata, as it is.
    Command(CommandError),
    /// Whatever the metadata is.
    Never(String),
    /// Nobody can say.
    NotNow(String),
}

fn done() -> proto::Outcome {
    proto::Outcome { outcome: Some(proto::outcome::Outcome::Done(proto::Done {})) }
}

fn refused(why: impl Into<String>) -> proto::Outcome {
    proto::Outcome { outcome: Some(proto::outcome::Outcome::Refused(why.into())) }
}

fn retry(why: impl Into<String>) -> proto::Outcome {
    proto::Outcome { outcome: Some(proto::outcome::Outcome::Retry(why.into())) }
}

fn outcome(result: Result<CommandResult, Refusal>) -> proto::Outcome {
    match result {
        Ok(_) => done(),
        // It will be understood when every broker is upgraded.
        Err(Refusal::Command(error)) if error.code == ErrorCode::UnsupportedVersion => retry(error.message),
        Err(Refusal::Command(error)) => refused(error.message),
        Err(Refusal::Never(why)) => refused(why),
        Err(Refusal::NotNow(why)) => retry(why),
    }
}

#[tonic::async_trait]
impl Rpc for ControlApi {
    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeReply>, Status> {
        self.secret.admit(&request)?;
        Ok(Response::new(self.describe_all().await))
    }

    async fn cordon(&self, request: Request<proto::CordonRequest>) -> Result<Response<proto::Outcome>, Status> {
        self.secret.admit(&request)?;
        let proto::CordonRequest { node_id, cordoned } = request.into_inner();
        let result = self.run(SetCordon { node: NodeId(node_id), cordoned }).await;
        Ok(Response::new(outcome(result)))
    }

    async fn rebalance(
        &self,
        request: Request<proto::RebalanceRequest>,
    ) -> Result<Response<proto::RebalanceReply>, Status> {
        use proto::rebalance_reply::Outcome;
        self.secret.admit(&request)?;
        let outcome = match self.rebalance_now(request.into_inner()).await {
            Ok(progress) => Outcome::Progress(progress),
            Err(Refusal::Command(error)) => Outcome::Refused(error.message),
            Err(Refusal::Never(why)) => Outcome::Refused(why),
            Err(Refusal::NotNow(why)) => Outcome::Retry(why),
        };
        Ok(Response::new(proto::RebalanceReply { outcome: Some(outcome) }))
    }

    async fn move_leaders(
        &self,
        request: Request<proto::MoveLeadersRequest>,
    ) -> Result<Response<proto::MoveLeadersReply>, Status> {
        use proto::move_leaders_reply::Outcome;
        self.secret.admit(&request)?;
        let outcome = match self.run(MoveLeaders { node: NodeId(request.into_inner().node_id) }).await {
            Ok(CommandResult::LeadersMoved { moved, left }) => Outcome::Left(proto::LeadersLeft { moved, left }),
            Ok(other) => Outcome::Retry(format!("the controller answered something else: {other:?}")),
            Err(Refusal::Command(error)) => Outcome::Refused(error.message),
            Err(Refusal::Never(why)) => Outcome::Refused(why),
            Err(Refusal::NotNow(why)) => Outcome::Retry(why),
        };
        Ok(Response::new(proto::MoveLeadersReply { outcome: Some(outcome) }))
    }

    async fn change_quorum(
        &self,
        request: Request<proto::ChangeQuorumRequest>,
    ) -> Result<Response<proto::Outcome>, Status> {
        self.secret.admit(&request)?;
        Ok(Response::new(self.change_members(request.into_inner()).await))
    }

    async fn unregister(&self, request: Request<proto::UnregisterRequest>) -> Result<Response<proto::Outcome>, Status> {
        self.secret.admit(&request)?;
        Ok(Response::new(self.forget(NodeId(request.into_inner().node_id)).await))
    }

    async fn assign_rack(
        &self,
        request: Request<proto::AssignRackRequest>,
    ) -> Result<Response<proto::Outcome>, Status> {
        self.secret.admit(&request)?;
        let proto::AssignRackRequest { node_id, rack } = request.into_inner();
        let rack = (!rack.is_empty()).then_some(rack);
        let result = self.run(SetBrokerRack { node: NodeId(node_id), rack }).await;
        Ok(Response::new(outcome(result)))
    }

    async fn set_cluster_default(
        &self,
        request: Request<proto::SetClusterDefaultRequest>,
    ) -> Result<Response<proto::Outcome>, Status> {
        self.secret.admit(&request)?;
        let proto::SetClusterDefaultRequest { name, value } = request.into_inner();
        Ok(Response::new(self.set_default(name, value).await))
    }
}
