//! The greeting that opens every stream, and who is let in.
//!
//! Both sides greet: [`ours`] builds it, [`check`] judges the other's. A broker of another cluster, another node than
//! was meant, or one founded with other voters is refused with a sentence that names both sides.

use chronik_model::{ClusterId, IncarnationId, NodeId, Uuid};

use super::{Identity, Position};
use crate::peer::proto;

/// Version of the peer protocol.
pub const PROTOCOL: u32 = 1;

/// What a peer says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Its node id.
    pub node: NodeId,
    /// Its cluster, when it knows it.
    pub cluster_id: Option<ClusterId>,
    /// This run of its process.
    pub incarnation: IncarnationId,
    /// Where its Raft listener is reached.
    pub address: String,
    /// Where its Kafka listener is reached.
    pub kafka_address: String,
    /// Its term, leader, commit index and founding voters.
    pub position: Position,
}

/// Why a peer was not let in, or did not let us in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RefusedGreeting {
    /// Kind.
    pub reason: proto::refusal::Reason,
    /// With both sides' names.
    pub message: String,
}

impl RefusedGreeting {
    pub(super) fn new(reason: proto::refusal::Reason, message: String) -> Self {
        Self { reason, message }
    }
}

/// What we say about ourselves, to `expected` if it is known whom we talk to.
#[must_use]
pub fn ours(
    identity: &Identity,
    cluster_id: Option<&ClusterId>,
    position: &Position,
    expected: Option<NodeId>,
) -> proto::Hello {
    proto::Hello {
        cluster_id: cluster_id.map(|id| id.as_str().to_owned()).unwrap_or_default(),
        node_id: identity.node.0,
        incarnation: bytes::Bytes::copy_from_slice(&identity.incarnation.0),
        address: identity.address.clone(),
        term: position.term,
        leader: position.leader.map_or(0, |id| id.0),
        commit: position.commit,
        bootstrap_voters: position.bootstrap_voters.iter().map(|id| id.0).collect(),
        expected_node: expected.map_or(0, |id| id.0),
        protocol: PROTOCOL,
        kafka_address: identity.kafka_address.clone(),
    }
}

/// Judges `hello` of a peer. `meant` is whom we connected to, when we did.
///
/// # Errors
/// Why it is not let in.
pub fn check(
    identity: &Identity,
    cluster_id: Option<&ClusterId>,
    position: &Position,
    hello: &proto::Hello,
    meant: Option<NodeId>,
) -> Result<Greeting, RefusedGreeting> {
    use proto::refusal::Reason;
    let refuse = |reason, message| Err(RefusedGreeting::new(reason, message));
    let me = identity.node;
    if hello.protocol != PROTOCOL {
        let message = format!("peer protocol {} is not spoken here, only {PROTOCOL}", hello.protocol);
        return refuse(Reason::Protocol, message);
    }
    let Ok(incarnation) = <[u8; 16]>::try_from(&hello.incarnation[..]) else {
        return refuse(Reason::Protocol, "the greeting has no incarnation id".to_owned());
    };
    if hello.node_id <= 0 {
        return refuse(Reason::Protocol, format!("{} is not a node id", hello.node_id));
    }
    let theirs = Some(hello.cluster_id.as_str()).filter(|id| !id.is_empty()).map(ClusterId::from);
    if let (Some(ours), Some(theirs)) = (cluster_id, &theirs)
        && ours != theirs
    {
        let message = format!(
            "node {me} at {} belongs to cluster {ours}, node {} at {} to cluster {theirs}",
            identity.address, hello.node_id, hello.address
        );
        return refuse(Reason::WrongCluster, message);
    }
    let node = NodeId(hello.node_id);
    if let Some(meant) = meant
        && meant != node
    {
        return refuse(Reason::WrongNode, format!("{} is node {node}, not node {meant}", hello.address));
    }
    if hello.expected_node != 0 && hello.expected_node != me.0 {
        let message = format!("{} is node {me}, not node {}", identity.address, hello.expected_node);
        return refuse(Reason::WrongNode, message);
    }
    if node == me && incarnation != identity.incarnation.0 {
        let message = format!(
            "two brokers with node id {me}: one at {} (Kafka {}) and one at {} (Kafka {})",
            identity.address, identity.kafka_address, hello.address, hello.kafka_address
        );
        return refuse(Reason::DuplicateNode, message);
    }
    let bootstrap_voters: Vec<NodeId> = hello.bootstrap_voters.iter().map(|id| NodeId(*id)).collect();
    if !bootstrap_voters.is_empty()
        && !position.bootstrap_voters.is_empty()
        && bootstrap_voters != position.bootstrap_voters
    {
        let message = format!(
            "node {me} was founded with the voters {}, node {node} with the voters {}: not the same cluster",
            list(&position.bootstrap_voters),
            list(&bootstrap_voters)
        );
        return refuse(Reason::VotersDiffer, message);
    }
    Ok(Greeting {
        node,
        cluster_id: theirs,
        incarnation: Uuid(incarnation),
        address: hello.address.clone(),
        kafka_address: hello.kafka_address.clone(),
        position: Position {
            term: hello.term,
            leader: Some(NodeId(hello.leader)).filter(|id| id.0 > 0),
            commit: hello.commit,
            bootstrap_voters,
        },
    })
}

fn list(ids: &[NodeId]) -> String {
    let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
    format!("[{}]", ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::refusal::Reason;

    fn identity(node: i32, run: u8) -> Identity {
        Identity {
            node: NodeId(node),
            incarnation: Uuid([run; 16]),
            address: format!("host-{node}:1"),
            kafka_address: format!("host-{node}:2"),
        }
    }

    fn voters(ids: &[i32]) -> Position {
        Position { bootstrap_voters: ids.iter().map(|id| NodeId(*id)).collect(), ..Position::default() }
    }

    /// What node 1 of cluster `c`, founded with 1, 2 and 3, says to a greeting.
    fn judge(from: &Identity, cluster: Option<&str>, position: &Position, expected: i32) -> Result<Greeting, Reason> {
        let cluster = cluster.map(ClusterId::from);
        let hello = ours(from, cluster.as_ref(), position, Some(NodeId(expected)));
        let mine = ClusterId::from("c");
        check(&identity(1, 1), Some(&mine), &voters(&[1, 2, 3]), &hello, None).map_err(|refused| refused.reason)
    }

    #[test]
    fn a_founder_of_the_same_cluster_and_a_joiner_that_knows_nothing_are_let_in() {
        let greeting = judge(&identity(2, 2), Some("c"), &voters(&[1, 2, 3]), 1).unwrap();
        assert_eq!((greeting.node, greeting.address.as_str()), (NodeId(2), "host-2:1"));
        assert!(judge(&identity(4, 4), None, &voters(&[]), 1).is_ok());
    }

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let same = voters(&[1, 2, 3]);
        assert_eq!(judge(&identity(2, 2), Some("other"), &same, 1), Err(Reason::WrongCluster));
        assert_eq!(judge(&identity(2, 2), Some("c"), &same, 3), Err(Reason::WrongNode));
        assert_eq!(judge(&identity(2, 2), Some("c"), &voters(&[2]), 1), Err(Reason::VotersDiffer));
        assert_eq!(judge(&identity(1, 9), Some("c"), &same, 1), Err(Reason::DuplicateNode));
        assert_eq!(judge(&identity(0, 9), Some("c"), &same, 1), Err(Reason::Protocol));
    }

    #[test]
    fn an_answer_from_another_node_than_was_meant_is_refused() {
        let hello = ours(&identity(3, 3), None, &voters(&[]), None);
        let refused = check(&identity(1, 1), None, &voters(&[]), &hello, Some(NodeId(2))).unwrap_err();
        assert_eq!(refused.message, "host-3:1 is node 3, not node 2");
    }

    #[test]
    fn a_malformed_greeting_is_refused() {
        let mut hello = ours(&identity(2, 2), None, &voters(&[]), None);
        hello.incarnation.truncate(3);
        assert!(check(&identity(1, 1), None, &voters(&[]), &hello, None).is_err());
    }
}
