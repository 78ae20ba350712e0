//! How a broker that founded nothing becomes a member: it asks to be fed as a learner.
//!
//! `startup` runs [`become_member`] before it registers the broker. Any peer may be asked; one that does not lead says
//! who does. Ends when the local replica sees itself among the members, however long that takes: a joiner without a cluster
//! has nothing else to do, and says what it waits for.

use std::time::Duration;

use chronik_model::{ClusterId, NodeId};

use super::meta_client::Meta;
use crate::peer::proto::{MembershipRequest, membership_reply::Outcome, membership_request::Kind};
use crate::peer::transport::Transport;

const ATTEMPT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);

/// Whether the local replica is a member as far as it knows.
#[must_use]
pub fn is_member(meta: &Meta) -> bool {
    let status = meta.shared().status.load();
    let me = meta.shared().node;
    status.as_ref().is_some_and(|s| s.voters.contains(&me) || s.learners.contains(&me))
}

/// Asks peers until this broker is a member. `progress` is told what it waits for.
///
/// # Errors
/// When the cluster refuses for good, with its reason.
pub async fn become_member(meta: &Meta, transport: &Transport, progress: impl Fn(String)) -> Result<(), String> {
    let identity = transport.identity().clone();
    let mut asked_leader = None;
    let mut turn = 0_usize;
    while !is_member(meta) {
        let known: Vec<NodeId> =
            transport.directory().all().into_iter().map(|(id, _)| id).filter(|id| *id != identity.node).collect();
        let next = asked_leader.take().or_else(|| whom_to_ask(turn, &transport.connected(), &known));
        turn = turn.wrapping_add(1);
        let Some(peer) = next else {
            progress("no peer is known".into());
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let request = MembershipRequest {
            cluster_id: transport.cluster_id().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            kind: Kind::AddLearner.into(),
            node: identity.node.0,
            address: identity.address.clone(),
            timeout_ms: u64::try_from(ATTEMPT.as_millis()).unwrap_or(u64::MAX),
        };
        match meta.control().membership(peer, request).await.map(|reply| reply.outcome) {
            Ok(Some(Outcome::Done(done))) => {
                if transport.cluster_id().is_none() && !done.cluster_id.is_empty() {
                    let id = ClusterId::from(done.cluster_id);
                    tracing::info!(cluster = %id, "joined");
                    transport.set_cluster_id(id.clone());
                    *meta.shared().cluster_id.write() = Some(id);
                }
                progress(format!("node {peer} let us in; waiting for its snapshot"));
                wait_for_membership(meta).await;
            }
            Ok(Some(Outcome::NotLeader(other))) => {
                progress(format!("node {peer} does not lead"));
                asked_leader = Some(NodeId(other.leader)).filter(|id| id.0 > 0 && *id != peer);
                if asked_leader.is_none() {
                    tokio::time::sleep(RETRY).await;
                }
            }
            Ok(Some(Outcome::Refused(problem))) => return Err(format!("node {peer} refuses: {problem}")),
            Ok(Some(Outcome::Retry(problem))) => {
                progress(format!("node {peer}: {problem}"));
                tokio::time::sleep(RETRY).await;
            }
            Ok(None) => tokio::time::sleep(RETRY).await,
            Err(error) => {
                progress(error.to_string());
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    Ok(())
}

/// Connected peers in turn: one that knows no leader, or does not answer, must not keep us from the others.
fn whom_to_ask(turn: usize, connected: &[NodeId], known: &[NodeId]) -> Option<NodeId> {
    let peers = if connected.is_empty() { known } else { connected };
    peers.get(turn.checked_rem(peers.len())?).copied()
}

/// The snapshot that makes us a member comes soon; asking again meanwhile would do no harm, but no good either.
async fn wait_for_membership(meta: &Meta) {
    let mut applied = meta.shared().applied.subscribe();
    for _ in 0..25 {
        if is_member(meta) {
            return;
        }
        let _changed_or_not = tokio::time::timeout(RETRY, applied.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_help_does_not_keep_a_joiner_from_the_others() {
        let ids = |ids: &[i32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let asked: Vec<_> = (0..3).filter_map(|turn| whom_to_ask(turn, &ids(&[2, 3]), &ids(&[1, 2, 3]))).collect();
        assert_eq!(asked, ids(&[2, 3, 2]));
        assert_eq!(whom_to_ask(usize::MAX, &[], &ids(&[1])), Some(NodeId(1)));
        assert_eq!(whom_to_ask(0, &[], &[]), None);
    }
}
