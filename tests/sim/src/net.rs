//! The network: how long a packet takes, which are lost, and which brokers have a connection.
//!
//! Raft messages and state images need a link, as production sends them over one stream per pair; a link takes time to
//! be made, breaks with its process, and breaks by keepalive when its path is cut. Requests find their own way; where
//! nobody listens the network says so, where the path is cut nothing comes back.

use std::collections::{BTreeMap, BTreeSet};

use chronik_log::disk::SplitMix64;
use chronik_model::NodeId;

use crate::kernel::Micros;
use crate::proto::{Address, Packet};

/// A connection that has no path for this long is given up.
pub const KEEPALIVE: Micros = 3_000_000;

/// News of the link to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// There is one; whom the peer calls the leader of the quorum.
    Connected(NodeId, Option<NodeId>),
    /// It broke.
    Lost(NodeId),
    /// A new connection was refused: no process listens at the address known.
    Refused {
        /// Who.
        peer: NodeId,
        /// Whether that address ever worked.
        was_connected: bool,
    },
}

/// How the network behaves; faults change it while the world runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// Least latency.
    pub min: Micros,
    /// What may come on top, evenly.
    pub jitter: Micros,
    /// Of 1000 packets, how many are lost.
    pub loss: u64,
    /// Of 1000 Raft messages, how many come twice.
    pub twice: u64,
    /// Of 1000 packets, how many are late by up to a second.
    pub late: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { min: 200, jitter: 400, loss: 0, twice: 0, late: 0 }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    first: Option<Micros>,
    second: Option<Micros>,
}

impl Fate {
    /// Delays of the first copy and, if there is one, of the second; `None` when it is lost.
    #[must_use]
    pub fn delays(self) -> Option<(Micros, Option<Micros>)> {
        Some((self.first?, self.second))
    }
}

/// Who reaches whom.
#[derive(Debug, Default)]
pub struct Network {
    /// How it behaves.
    pub weather: Weather,
    /// One-way cuts between brokers.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// Brokers that clients do not reach.
    pub hidden: BTreeSet<NodeId>,
    /// Extra latency from and to a broker.
    pub slow: BTreeMap<NodeId, Micros>,
    /// Pairs (smaller id first) that have a link.
    links: BTreeSet<(NodeId, NodeId)>,
    /// The address (a generation) that a broker has now.
    pub address: BTreeMap<NodeId, u32>,
    /// The address under which `.0` looks for `.1`, and whether it worked.
    known: BTreeMap<(NodeId, NodeId), (u32, bool)>,
    /// What the name service answers; lags behind `address`.
    pub published: BTreeMap<NodeId, u32>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

impl Network {
    /// Whether a packet from `from` can reach `to` now.
    #[must_use]
    pub fn open(&self, from: Address, to: Address) -> bool {
        match (from, to) {
            (Address::Broker(a), Address::Broker(b)) => a == b || !self.cuts.contains(&(a, b)),
            (Address::Client(_), Address::Broker(node)) | (Address::Broker(node), Address::Client(_)) => {
                !self.hidden.contains(&node)
            }
            (Address::Client(_), Address::Client(_)) => false,
        }
    }

    /// Both ways are open between two brokers.
    #[must_use]
    pub fn path(&self, a: NodeId, b: NodeId) -> bool {
        !self.cuts.contains(&(a, b)) && !self.cuts.contains(&(b, a))
    }

    /// Whether two brokers have a link.
    #[must_use]
    pub fn linked(&self, a: NodeId, b: NodeId) -> bool {
        self.links.contains(&pair(a, b))
    }

    /// Makes or breaks the link; whether that changed anything.
    pub fn set_link(&mut self, a: NodeId, b: NodeId, up: bool) -> bool {
        if up { self.links.insert(pair(a, b)) } else { self.links.remove(&pair(a, b)) }
    }

    /// Peers of `node` that it has a link with.
    #[must_use]
    pub fn peers_of(&self, node: NodeId) -> Vec<NodeId> {
        let others = self.links.iter().filter_map(|(a, b)| match () {
            () if *a == node => Some(*b),
            () if *b == node => Some(*a),
            () => None,
        });
        others.collect()
    }

    /// `from` looks for `to`: whether the address it knows is the right one. Asks the name service anew when it is not, so
    /// the next try may find it.
    pub fn look_up(&mut self, from: NodeId, to: NodeId) -> bool {
        let current = self.address.get(&to).copied().unwrap_or(0);
        let published = self.published.get(&to).copied().unwrap_or(0);
        let known = self.known.entry((from, to)).or_insert((published, false));
        if known.0 == current {
            return true;
        }
        *known = (published, false);
        false
    }

    /// The address under which `from` knows `to` works.
    pub fn worked(&mut self, from: NodeId, to: NodeId) {
        let current = self.address.get(&to).copied().unwrap_or(0);
        self.known.insert((from, to), (current, true));
    }

    /// Whether the address under which `from` knows `to` ever worked.
    #[must_use]
    pub fn has_worked(&self, from: NodeId, to: NodeId) -> bool {
        self.known.get(&(from, to)).is_some_and(|known| known.1)
    }

    /// Heals everything: no cuts, no weather, right addresses.
    pub fn heal(&mut self) {
        self.weather = Weather::default();
        self.cuts.clear();
        self.hidden.clear();
        self.slow.clear();
        self.published = self.address.clone();
    }

    /// What becomes of a packet that is sent now.
    pub(crate) fn fate(&self, from: Address, to: Address, packet: &Packet, random: &mut SplitMix64) -> Fate {
        let lost = Fate { first: None, second: None };
        if from == to {
            return Fate { first: Some(1), second: None };
        }
        let image = matches!(packet, Packet::Chunk(_) | Packet::Receipt { .. });
        let needs_link = image || matches!(packet, Packet::Raft(_));
        if let (true, Address::Broker(a), Address::Broker(b)) = (needs_link, from, to)
            && !self.linked(a, b)
        {
            return lost;
        }
        if !self.open(from, to) {
            return lost;
        }
        let weather = &self.weather;
        // A stream loses nothing while it lives; what a bad network loses there is late instead.
        let loss = if image { 0 } else { weather.loss };
        if loss > 0 && random.below(1_000) < loss {
            return lost;
        }
        let ends = [from, to].into_iter().filter_map(|end| match end {
            Address::Broker(node) => self.slow.get(&node).copied(),
            Address::Client(_) => None,
        });
        let extra: Micros = ends.sum();
        let mut delay = weather.min + extra + random.below(weather.jitter.max(1));
        if weather.late > 0 && random.below(1_000) < weather.late {
            delay += random.below(1_000_000);
        }
        let raft = matches!(packet, Packet::Raft(_));
        let again = raft && weather.twice > 0 && random.below(1_000) < weather.twice;
        let second = again.then(|| delay + random.below(50_000));
        Fate { first: Some(delay), second }
    }
}
