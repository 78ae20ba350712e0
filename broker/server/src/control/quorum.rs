//! Changes of the metadata quorum, asked of whoever leads it.

use std::time::Duration;

use chronik_model::{NodeId, RaftIndex};
use tokio::time::Instant;

use super::{ControlApi, done, proto, refused, retry};
use crate::peer::control::ControlService as _;
use crate::peer::proto::membership_request::Kind as PeerKind;
use crate::peer::proto::{MembershipReply, MembershipRequest, membership_reply};

/// Longest wait for a change.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest wait for one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before another attempt.
const RETRY: Duration = Duration::from_millis(50);
/// Longest wait until this broker has applied a change that its leader has.
const FOLLOW: Duration = Duration::from_secs(2);

impl ControlApi {
    pub(super) async fn change_members(&self, request: proto::ChangeQuorumRequest) -> proto::Outcome {
        use proto::change_quorum_request::Kind;
        let kind = match request.kind() {
            Kind::Promote => PeerKind::Promote,
            Kind::Demote => PeerKind::Demote,
            Kind::Remove => PeerKind::Remove,
            Kind::TransferLeader => PeerKind::TransferLeader,
            Kind::Unspecified => return refused("this kind of change is unknown to this broker"),
        };
        let node = NodeId(request.node_id);
        if node.0 < 0 || (node.0 == 0 && kind != PeerKind::TransferLeader) {
            return refused(format!("{node} is not a node id"));
        }
        let wanted = MembershipRequest {
            cluster_id: self.shared().cluster_id.read().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            kind: kind.into(),
            node: node.0,
            address: String::new(),
            timeout_ms: u64::try_from(ATTEMPT.as_millis()).unwrap_or(u64::MAX),
        };
        let mut leadership = self.shared().leadership.subscribe();
        let deadline = Instant::now() + PATIENCE;
        let mut last = "no leader of the metadata quorum is known".to_owned();
        while Instant::now() < deadline {
            let known = *leadership.borrow_and_update();
            if let Some(leader) = known.leader {
                if kind == PeerKind::TransferLeader && leader == node {
                    return done();
                }
                match self.ask_leader(leader, wanted.clone()).await {
                    Ok(membership_reply::Outcome::Done(change)) => {
                        // So that the caller sees here what was done there.
                        let applied = self.meta.applied(RaftIndex(change.index));
                        let _late = tokio::time::timeout(FOLLOW, applied).await;
                        return done();
                    }
                    Ok(membership_reply::Outcome::Refused(why)) => return refused(why),
                    Ok(membership_reply::Outcome::Retry(why)) => return retry(why),
                    Ok(membership_reply::Outcome::NotLeader(_)) => last = format!("node {leader} does not lead"),
                    Err(problem) => last = problem,
                }
            }
            let _changed_or_not = tokio::time::timeout(RETRY, leadership.changed()).await;
        }
        retry(last)
    }

    async fn ask_leader(&self, leader: NodeId, wanted: MembershipRequest) -> Result<membership_reply::Outcome, String> {
        let reply: MembershipReply = if leader == self.shared().node {
            self.members.membership(wanted).await
        } else {
            self.meta.control().membership(leader, wanted).await.map_err(|error| error.to_string())?
        };
        reply.outcome.ok_or_else(|| format!("node {leader} answered nothing that is understood"))
    }
}
