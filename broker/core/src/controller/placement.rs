//! Where the replicas of new partitions go: live brokers first, racks apart, replicas and leaders even over the cluster.
//!
//! Deterministic from the state; the topic's id only breaks ties, so that many small topics do not all start on the
//! first broker.

use std::collections::BTreeMap;

use chronik_model::{NodeId, TopicId};

use super::state::{Broker, MetadataState};

#[derive(Clone, Copy, Default)]
struct Load {
    replicas: usize,
    preferred: usize,
}

fn mix(seed: u64, node: NodeId, turn: usize) -> u64 {
    // SplitMix64's finisher: spreads neighbouring inputs.
    let mut value = seed ^ u64::from(node.0.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^= (turn as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl MetadataState {
    /// Replicas of `partitions` new partitions, `factor` each. The caller has checked that so many brokers exist.
    pub(super) fn place(&self, topic: TopicId, partitions: usize, factor: usize) -> Vec<Vec<NodeId>> {
        let seed = (topic.as_u128() >> 64) as u64 ^ topic.as_u128() as u64;
        let mut loads: BTreeMap<NodeId, Load> = self.brokers.keys().map(|node| (*node, Load::default())).collect();
        for (_, _, state) in self.partitions() {
            for (position, node) in state.replicas.iter().enumerate() {
                if let Some(load) = loads.get_mut(node) {
                    load.replicas += 1;
                    load.preferred += usize::from(position == 0);
                }
            }
        }
        (0..partitions).map(|turn| self.place_one(&mut loads, seed, turn, factor)).collect()
    }

    fn place_one(&self, loads: &mut BTreeMap<NodeId, Load>, seed: u64, turn: usize, factor: usize) -> Vec<NodeId> {
        let mut chosen: Vec<&Broker> = Vec::with_capacity(factor);
        for position in 0..factor {
            let next = self
                .uncordoned()
                .filter(|broker| !chosen.iter().any(|taken| taken.node == broker.node))
                .min_by_key(|broker| {
                    let load = loads.get(&broker.node).copied().unwrap_or_default();
                    let same_rack =
                        chosen.iter().filter(|taken| taken.rack.is_some() && taken.rack == broker.rack).count();
                    let leads = if position == 0 { load.preferred } else { 0 };
                    (!broker.is_active(), same_rack, leads, load.replicas, mix(seed, broker.node, turn))
                });
            let Some(next) = next else { break };
            if let Some(load) = loads.get_mut(&next.node) {
                load.replicas += 1;
                load.preferred += usize::from(position == 0);
            }
            chosen.push(next);
        }
        chosen.into_iter().map(|broker| broker.node).collect()
    }
}
