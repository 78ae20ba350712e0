//! Answers the control questions of other brokers and of tools.
//!
//! Served by the transport. A proposal or membership change is answered when it is applied here, or with who leads. The
//! status page comes from a function that `startup` sets once there is something to show.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chronik_consensus::{Membership, MembershipChange, MembershipError};
use chronik_core::controller::Heartbeat;
use chronik_model::{BrokerEpoch, NodeId, RaftIndex, Uuid};
use futures::future::BoxFuture;

use super::Shared;
use super::clock::wall_ms;
use super::inbox::{Inbox, Input, ProposeAnswer};
use crate::peer::control::ControlService;
use crate::peer::directory::{Origin, PeerAddress, PeerDirectory};
use crate::peer::proto::{
    self, HeartbeatReply, HeartbeatRequest, MembershipReply, MembershipRequest, NotLeader, ProposeReply,
    ProposeRequest, StatusReply, heartbeat_reply, membership_reply, membership_request::Kind, propose_reply,
};

/// A heartbeat as the controller understands it. A directory id of another length is none of ours.
#[must_use]
pub fn heartbeat_of(request: &HeartbeatRequest) -> Heartbeat {
    let directories = request.offline_directories.iter();
    Heartbeat {
        node: NodeId(request.node),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        applied: RaftIndex(request.applied),
        wants_shutdown: request.wants_shutdown,
        offline_dirs: directories.filter_map(|id| <[u8; 16]>::try_from(&id[..]).ok().map(Uuid)).collect(),
    }
}

/// What a peer asks of the quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A new learner, and where it is.
    Learner(NodeId, PeerAddress),
    /// Another change of the members.
    Change(MembershipChange),
    /// Another leader; `None` = whoever is fit.
    Transfer(Option<NodeId>),
}

/// Understands a membership question.
///
/// # Errors
/// Why it is refused, for people.
pub fn asked_of(request: &MembershipRequest) -> Result<Asked, String> {
    let node = NodeId(request.node);
    match request.kind() {
        Kind::AddLearner if node.0 <= 0 => Err(format!("{node} is not a node id")),
        Kind::AddLearner => {
            let address = PeerAddress::parse(&request.address, 9192).map_err(|error| error.to_string())?;
            Ok(Asked::Learner(node, address))
        }
        Kind::Promote => Ok(Asked::Change(MembershipChange::Promote(node))),
        Kind::Demote => Ok(Asked::Change(MembershipChange::Demote(node))),
        Kind::Remove => Ok(Asked::Change(MembershipChange::RemoveNode(node))),
        Kind::TransferLeader => Ok(Asked::Transfer(Some(node).filter(|id| id.0 > 0))),
        Kind::Unspecified => Err("this kind of change is unknown to this broker".into()),
    }
}

/// Makes the JSON of the status page.
pub type StatusPage = Box<dyn Fn() -> String + Send + Sync>;

/// The control service of this broker.
pub struct Control {
    shared: Arc<Shared>,
    inbox: Inbox,
    directory: Arc<PeerDirectory>,
    page: OnceLock<StatusPage>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Control {
    /// A service that puts questions into `inbox`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, inbox: Inbox, directory: Arc<PeerDirectory>) -> Arc<Self> {
        Arc::new(Self { shared, inbox, directory, page: OnceLock::new() })
    }

    /// Shows `page` from now on; only the first call counts.
    pub fn show(&self, page: StatusPage) {
        let _first = self.page.set(page);
    }

    fn leader(&self) -> NotLeader {
        NotLeader { leader: self.shared.leadership.borrow().leader.map_or(0, |id| id.0) }
    }

    async fn answer_proposal(&self, request: ProposeRequest) -> propose_reply::Outcome {
        use propose_reply::Outcome;
        let timeout = Duration::from_millis(request.timeout_ms.min(600_000));
        let Ok(answer) = self.inbox.ask(|reply| Input::Propose(request.envelope, reply)) else {
            return Outcome::Dropped("the leader is overloaded".into());
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(ProposeAnswer::Applied(index, result))) => {
                Outcome::Applied(proto::Applied { index: index.0, result: result.encode().into() })
            }
            Ok(Ok(ProposeAnswer::NotLeader(leader))) => {
                Outcome::NotLeader(NotLeader { leader: leader.map_or(0, |id| id.0) })
            }
            Ok(Ok(ProposeAnswer::Dropped)) => Outcome::Dropped("the proposal was dropped".into()),
            Ok(Ok(ProposeAnswer::Refused(problem))) => Outcome::Refused(problem),
            Ok(Ok(ProposeAnswer::Unknown)) => Outcome::Unknown("leadership changed".into()),
            Ok(Ok(ProposeAnswer::Stopped) | Err(_)) => Outcome::Unknown("the replica has stopped".into()),
            Err(_) => Outcome::Unknown("not committed in time".into()),
        }
    }

    async fn answer_heartbeat(&self, request: HeartbeatRequest) -> heartbeat_reply::Outcome {
        use heartbeat_reply::Outcome;
        let heartbeat = heartbeat_of(&request);
        let Ok(answer) = self.inbox.ask(|reply| Input::Heartbeat(heartbeat, reply)) else {
            return Outcome::NotLeader(self.leader());
        };
        match answer.await {
            Ok(Some(reply)) if reply.stale_epoch => {
                let state = self.shared.state.read();
                let current = state.broker(NodeId(request.node));
                Outcome::Stale(proto::StaleEpoch {
                    current_epoch: current.map_or(-1, |broker| broker.epoch.0),
                    address: current
                        .map(|b| format!("{}:{}", b.endpoints.control.host, b.endpoints.control.port))
                        .unwrap_or_default(),
                    incarnation: current.map(|b| bytes::Bytes::copy_from_slice(&b.incarnation.0)).unwrap_or_default(),
                })
            }
            Ok(Some(reply)) => Outcome::Ok(proto::HeartbeatOk {
                fenced: reply.fenced,
                may_shut_down: reply.may_shut_down,
                wall_ms: wall_ms(),
                applied: self.shared.applied.borrow().0,
            }),
            Ok(None) | Err(_) => Outcome::NotLeader(self.leader()),
        }
    }

    async fn answer_membership(&self, request: MembershipRequest) -> membership_reply::Outcome {
        use membership_reply::Outcome;
        let change = match asked_of(&request) {
            Ok(Asked::Learner(node, address)) => {
                self.directory.register(node, &address, Origin::Learned);
                MembershipChange::AddLearner(node)
            }
            Ok(Asked::Change(change)) => change,
            Ok(Asked::Transfer(to)) => return self.transfer(to).await,
            Err(problem) => return Outcome::Refused(problem),
        };
        let timeout = Duration::from_millis(request.timeout_ms.min(600_000));
        let Ok(answer) = self.inbox.ask(|reply| Input::Membership(change, reply)) else {
            return Outcome::Retry("the leader is overloaded".into());
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Ok(membership))) => Outcome::Done(self.done(&membership)),
            // What was asked for is so already: a repeated question gets the answer of the first.
            Ok(Ok(Err(MembershipError::UnknownNode(_)))) if matches!(change, MembershipChange::RemoveNode(_)) => {
                Outcome::Done(self.done(&self.members()))
            }
            Ok(Ok(Err(error))) => self.membership_error(&error),
            Ok(Err(_)) => Outcome::Retry("the replica has stopped".into()),
            Err(_) => Outcome::Retry("not committed in time".into()),
        }
    }

    async fn transfer(&self, to: Option<NodeId>) -> membership_reply::Outcome {
        use membership_reply::Outcome;
        let Ok(answer) = self.inbox.ask(|reply| Input::Transfer(to, reply)) else {
            return Outcome::Retry("the leader is overloaded".into());
        };
        match answer.await {
            Ok(Ok(_)) => Outcome::Done(self.done(&Membership::default())),
            Ok(Err(chronik_consensus::TransferError::NotLeader { .. })) => Outcome::NotLeader(self.leader()),
            Ok(Err(error)) => Outcome::Refused(error.to_string()),
            Err(_) => Outcome::Retry("the replica has stopped".into()),
        }
    }

    fn members(&self) -> Membership {
        let status = self.shared.status.load();
        let members = |s: &Arc<chronik_consensus::NodeStatus>| Membership {
            index: s.applied,
            voters: s.voters.clone(),
            learners: s.learners.clone(),
        };
        status.as_ref().map(members).unwrap_or_default()
    }

    fn done(&self, membership: &Membership) -> proto::MembershipDone {
        let cluster_id = self.shared.cluster_id.read().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect();
        proto::MembershipDone {
            cluster_id,
            voters: ids(&membership.voters),
            learners: ids(&membership.learners),
            index: membership.index.0,
        }
    }

    fn membership_error(&self, error: &MembershipError) -> membership_reply::Outcome {
        use membership_reply::Outcome;
        match error {
            MembershipError::NotLeader { leader } => {
                Outcome::NotLeader(NotLeader { leader: leader.map_or(0, |id| id.0) })
            }
            // What was asked for is so already: a repeated question gets the answer of the first.
            MembershipError::AlreadyLearner(_) | MembershipError::AlreadyVoter(_) => {
                Outcome::Done(self.done(&self.members()))
            }
            MembershipError::InProgress
            | MembershipError::LearnerNotCaughtUp { .. }
            | MembershipError::VotersNotCaughtUp { .. }
            | MembershipError::Dropped
            | MembershipError::Stopped => Outcome::Retry(error.to_string()),
            MembershipError::WouldLoseMajority { .. }
            | MembershipError::UnknownNode(_)
            | MembershipError::LastVoter(_)
            | MembershipError::IsLeader(_)
            | MembershipError::InvalidNode(_) => Outcome::Refused(error.to_string()),
        }
    }
}

impl ControlService for Control {
    fn propose(&self, request: ProposeRequest) -> BoxFuture<'_, ProposeReply> {
        Box::pin(async { ProposeReply { outcome: Some(self.answer_proposal(request).await) } })
    }

    fn heartbeat(&self, request: HeartbeatRequest) -> BoxFuture<'_, HeartbeatReply> {
        Box::pin(async { HeartbeatReply { outcome: Some(self.answer_heartbeat(request).await) } })
    }

    fn membership(&self, request: MembershipRequest) -> BoxFuture<'_, MembershipReply> {
        Box::pin(async { MembershipReply { outcome: Some(self.answer_membership(request).await) } })
    }

    fn status(&self) -> BoxFuture<'_, StatusReply> {
        let json = self.page.get().map_or_else(|| "{}".to_owned(), |page| page());
        Box::pin(std::future::ready(StatusReply { json, wall_ms: wall_ms() }))
    }
}
