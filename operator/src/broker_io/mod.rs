//! The brokers as a reconcile pass sees them: the [`Brokers`] port over gRPC.
//!
//! One for the whole process; passes of several clusters share it. Connections are kept between passes, a bounded number
//! of them, by address and port: a connection whose call did not answer is dropped, so that the next call connects anew
//! and finds a pod that has moved. Every call is bounded by one short time that includes connecting. Every call carries the
//! cluster's secret; calls that change something ask the [`Fence`] first.
//!
//! The address that Kubernetes shows for the pod is preferred to its name: a pod has it seconds before a DNS server knows,
//! and it does not answer for a pod of that name that is gone. Who answered is said in the answer, and the pass checks it.

mod pool;
mod proto;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use crate::lease::Fence;
use crate::observed::{BrokerFacts, NodeId};
use crate::ports::{BrokerAddress, BrokerError, Brokers, LeadersMoved, QuorumChange, RebalanceFacts, RebalanceLimits};
use pool::{Control, Pool};
use proto::pb;

/// The brokers over gRPC.
#[derive(Debug)]
pub struct BrokerIo {
    pool: Pool,
    fence: Fence,
    patience: Duration,
}

impl BrokerIo {
    /// `patience`: how long a call may take, connecting included.
    pub fn new(fence: Fence, patience: Duration) -> Self {
        Self { pool: Pool::new(patience), fence, patience }
    }

    /// A call that changes something.
    async fn change<M, T, F>(&self, at: &BrokerAddress, message: M, call: F) -> Result<T, BrokerError>
    where
        F: AsyncFnOnce(&mut Control, Request<M>) -> Result<tonic::Response<T>, Status>,
    {
        if !self.fence.holds(Instant::now()) {
            return Err(BrokerError::Retry("this replica of the operator no longer leads".to_owned()));
        }
        self.call(at, message, call).await
    }

    async fn call<M, T, F>(&self, at: &BrokerAddress, message: M, call: F) -> Result<T, BrokerError>
    where
        F: AsyncFnOnce(&mut Control, Request<M>) -> Result<tonic::Response<T>, Status>,
    {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer(&at.token.0)?);
        let host = at.ip.as_deref().unwrap_or(&at.host);
        let mut client = self.pool.client(host, at.port).map_err(|error| self.unreachable(at, &error))?;
        match tokio::time::timeout(self.patience, call(&mut client, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let error = self.judge(at, &status);
                if matches!(error, BrokerError::Unreachable(_)) {
                    self.pool.forget(host, at.port);
                }
                Err(error)
            }
            Err(_) => {
                self.pool.forget(host, at.port);
                Err(self.unreachable(at, &format!("no answer within {:?}", self.patience)))
            }
        }
    }

    fn judge(&self, at: &BrokerAddress, status: &Status) -> BrokerError {
        let message = if status.message().is_empty() { status.code().description() } else { status.message() };
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                BrokerError::Refused(format!("broker {} does not accept the cluster's secret: {message}", at.node))
            }
            // An older broker without that call, or a newer one that wants more: asking again will not help.
            Code::Unimplemented | Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
                BrokerError::Refused(format!("broker {}: {message}", at.node))
            }
            Code::ResourceExhausted | Code::Aborted => BrokerError::Retry(format!("broker {}: {message}", at.node)),
            _ => self.unreachable(at, &describe(status)),
        }
    }

    fn unreachable(&self, at: &BrokerAddress, why: &str) -> BrokerError {
        let host = at.ip.as_deref().unwrap_or(&at.host);
        BrokerError::Unreachable(format!("broker {} at {host}:{}: {why}", at.node, at.port))
    }
}

impl Brokers for BrokerIo {
    async fn describe(&self, at: &BrokerAddress) -> Result<BrokerFacts, BrokerError> {
        let reply = self.call(at, pb::DescribeRequest {}, async |c, r| c.describe(r).await).await?;
        proto::facts(reply).ok_or_else(|| self.unreachable(at, "its answer is incomplete"))
    }

    async fn cordon(&self, at: &BrokerAddress, node: NodeId, cordoned: bool) -> Result<(), BrokerError> {
        let message = pb::CordonRequest { node_id: node.0, cordoned };
        proto::outcome(self.change(at, message, async |c, r| c.cordon(r).await).await?)
    }

    async fn rebalance(&self, at: &BrokerAddress, limits: RebalanceLimits) -> Result<RebalanceFacts, BrokerError> {
        let message =
            pb::RebalanceRequest { max_in_flight: limits.max_in_flight, throttle_bytes_per_second: 0, dry_run: false };
        proto::rebalanced(self.change(at, message, async |c, r| c.rebalance(r).await).await?)
    }

    async fn move_leaders(&self, at: &BrokerAddress, node: NodeId) -> Result<LeadersMoved, BrokerError> {
        let message = pb::MoveLeadersRequest { node_id: node.0 };
        proto::leaders_moved(self.change(at, message, async |c, r| c.move_leaders(r).await).await?)
    }

    async fn change_quorum(&self, at: &BrokerAddress, change: QuorumChange) -> Result<(), BrokerError> {
        let message = proto::quorum_change(change);
        proto::outcome(self.change(at, message, async |c, r| c.change_quorum(r).await).await?)
    }

    async fn unregister(&self, at: &BrokerAddress, node: NodeId) -> Result<(), BrokerError> {
        let message = pb::UnregisterRequest { node_id: node.0 };
        proto::outcome(self.change(at, message, async |c, r| c.unregister(r).await).await?)
    }

    async fn assign_rack(&self, at: &BrokerAddress, node: NodeId, rack: Option<&str>) -> Result<(), BrokerError> {
        let message = pb::AssignRackRequest { node_id: node.0, rack: rack.unwrap_or_default().to_owned() };
        proto::outcome(self.change(at, message, async |c, r| c.assign_rack(r).await).await?)
    }

    async fn set_default(&self, at: &BrokerAddress, name: &str, value: Option<&str>) -> Result<(), BrokerError> {
        let message = pb::SetClusterDefaultRequest { name: name.to_owned(), value: value.map(str::to_owned) };
        proto::outcome(self.change(at, message, async |c, r| c.set_cluster_default(r).await).await?)
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, BrokerError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
        .parse()
        .map_err(|_| BrokerError::Refused("the cluster's secret is not text that a header can carry".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A status with the causes that tonic keeps beside its message ("transport error" says nothing).
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
