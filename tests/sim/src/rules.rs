//! Rules of scenario scripts about single kinds of packets: what is lost, and what is held back until it is let go.
//!
//! The kernel asks before it hands a packet to the network. Worlds drawn from seeds have no rules.

use chronik_consensus::mirror::MessageType;

use crate::proto::{Address, ClientRequest, Packet, Reply, Request};

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whose packets; `None` = anybody's.
    pub from: Option<Address>,
    /// To whom; `None` = to anybody.
    pub to: Option<Address>,
    /// Which kind, as [`kind_of`] says, or the part of it before the `-`.
    pub kind: String,
    /// Held until it is let go instead of lost.
    pub hold: bool,
    /// Packets it is for; then it is over.
    pub times: u32,
}

/// All rules, and what they hold.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    held: Vec<(Address, Address, Packet)>,
}

impl Rules {
    /// Adds a rule.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Takes all rules away; what they held, in order.
    pub fn end(&mut self) -> Vec<(Address, Address, Packet)> {
        self.rules.clear();
        std::mem::take(&mut self.held)
    }

    /// The first that is held; the rules stay.
    pub fn first(&mut self) -> Option<(Address, Address, Packet)> {
        if self.held.is_empty() { None } else { Some(self.held.remove(0)) }
    }

    /// Kinds of what is held, in order.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        self.held.iter().map(|(from, to, packet)| format!("{from} -> {to} {}", kind_of(packet))).collect()
    }

    /// Whether a rule keeps the packet from the network.
    pub(crate) fn stop(&mut self, from: Address, to: Address, packet: &Packet) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let kind = kind_of(packet);
        let fits = |rule: &&Rule| {
            let part =
                kind.strip_prefix(rule.kind.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            part && rule.from.is_none_or(|who| who == from) && rule.to.is_none_or(|who| who == to)
        };
        let Some(at) = self.rules.iter().position(|rule| rule.times > 0 && fits(&rule)) else { return false };
        let rule = &mut self.rules[at];
        rule.times -= 1;
        if rule.hold {
            self.held.push((from, to, packet.clone()));
        }
        true
    }
}

/// The kind of a packet in one word.
#[must_use]
pub fn kind_of(packet: &Packet) -> String {
    let raft = |kind: Option<MessageType>| match kind.unwrap_or(MessageType::Hup) {
        MessageType::Append => "append",
        MessageType::AppendResponse => "appended",
        MessageType::RequestVote => "vote",
        MessageType::RequestVoteResponse => "voted",
        MessageType::RequestPreVote => "prevote",
        MessageType::RequestPreVoteResponse => "prevoted",
        MessageType::Heartbeat => "heartbeat",
        MessageType::HeartbeatResponse => "heartbeaten",
        MessageType::Snapshot => "image",
        MessageType::TimeoutNow => "timeout",
        _ => "other",
    };
    match packet {
        Packet::Raft(message) => format!("raft-{}", raft(message.kind())),
        Packet::Chunk(_) => "chunk".to_owned(),
        Packet::Receipt { .. } => "receipt".to_owned(),
        Packet::Refused { .. } => "refused".to_owned(),
        Packet::Request { body, .. } => match &**body {
            Request::Propose(_) => "propose",
            Request::Heartbeat(..) => "alive",
            Request::Membership(_) => "membership",
            Request::FollowerFetch { .. } => "fetch",
            Request::LeaderOffsets(..) => "offsets",
            Request::Client(ClientRequest::Produce { .. }) => "produce",
            Request::Client(_) => "client",
        }
        .to_owned(),
        Packet::Reply { body, .. } => match &**body {
            Reply::Proposed(_) => "answer-propose",
            Reply::Heartbeat(_) => "answer-alive",
            Reply::Membership(_) => "answer-membership",
            Reply::FollowerFetch(_) => "answer-fetch",
            Reply::LeaderOffsets(_) => "answer-offsets",
            Reply::Client(_) => "answer-client",
        }
        .to_owned(),
    }
}
