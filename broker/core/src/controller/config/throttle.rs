//! How fast replicas may be copied: Kafka's settings, as `kafka-reassign-partitions --throttle` sets them, and one of
//! our own for the replicas that a reassignment adds.
//!
//! A rate counts for one broker. Replicas that are in sync are never held back by any of them; the server sees to that.

use std::collections::BTreeMap;

use chronik_model::{NodeId, PartitionIndex};

use super::{ConfigKind, table};
use crate::controller::state::{MetadataState, Topic};

/// Bytes per second that a broker, as leader, sends of the partitions listed in [`LEADER_REPLICAS`].
pub const LEADER_RATE: &str = "leader.replication.throttled.rate";
/// Bytes per second that a broker, as follower, copies of the partitions listed in [`FOLLOWER_REPLICAS`].
pub const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
/// Bytes per second that a broker copies of all the replicas that reassignments add on it, listed or not.
pub const REASSIGNMENT_RATE: &str = "reassignment.throttle.rate";
/// On a topic: the replicas to which [`LEADER_RATE`] applies, by the broker that leads.
pub const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
/// On a topic: the replicas to which [`FOLLOWER_RATE`] applies, by the broker that follows.
pub const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";

/// What the settings say of one broker, in bytes per second; `None` = as fast as it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicationRates {
    /// [`LEADER_RATE`].
    pub leader: Option<u64>,
    /// [`FOLLOWER_RATE`].
    pub follower: Option<u64>,
    /// [`REASSIGNMENT_RATE`].
    pub reassignment: Option<u64>,
}

/// The format of a list of replicas: `*` is all, else `partition:broker,...`; empty is none.
pub(super) fn check_replicas(value: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<i32>().is_ok_and(|number| number >= 0);
    let pair = |word: &str| word.trim().split_once(':').is_some_and(|(a, b)| number(a) && number(b));
    if value.is_empty() || value == "*" || value.split(',').all(pair) {
        return Ok(());
    }
    Err("* for all replicas, or a list of partition:broker".to_owned())
}

fn lists(value: &str, partition: PartitionIndex, node: NodeId) -> bool {
    let names = |word: &str| {
        let pair = word.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        pair == Some((partition.0, node.0))
    };
    value == "*" || value.split(',').any(names)
}

impl MetadataState {
    /// How fast broker `node` may copy.
    #[must_use]
    pub fn replication_rates(&self, node: NodeId) -> ReplicationRates {
        let rate = |name: &str| {
            let def = table::TABLE.iter().find(|def| def.broker_name == name)?;
            let value = self.layers(def, None, Some(node)).into_iter().next()?.value?;
            let unlimited = matches!(def.kind, ConfigKind::Long { max, .. } if value == max.to_string());
            if unlimited { None } else { value.parse().ok() }
        };
        ReplicationRates {
            leader: rate(LEADER_RATE),
            follower: rate(FOLLOWER_RATE),
            reassignment: rate(REASSIGNMENT_RATE),
        }
    }
}

impl Topic {
    /// Whether the topic lists the replica of `partition` on `node` under [`LEADER_REPLICAS`] or [`FOLLOWER_REPLICAS`].
    #[must_use]
    pub fn lists_throttled(&self, setting: &str, partition: PartitionIndex, node: NodeId) -> bool {
        in_list(&self.configs, setting, partition, node)
    }
}

fn in_list(configs: &BTreeMap<String, String>, setting: &str, partition: PartitionIndex, node: NodeId) -> bool {
    configs.get(setting).is_some_and(|value| lists(value, partition, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_replicas_are_read_as_kafka_reads_them() {
        for good in ["", "*", "0:1", "0:1,12:3", "0:1, 1:2"] {
            assert_eq!(check_replicas(good), Ok(()), "{good}");
        }
        for bad in ["1", "a:1", "0:1,", ":", "0:-1", "*,0:1", "0:1:2"] {
            assert!(check_replicas(bad).is_err(), "{bad}");
        }
        let (zero, one) = (PartitionIndex(0), PartitionIndex(1));
        assert!(lists("*", one, NodeId(9)));
        assert!(lists("0:1,1:2", one, NodeId(2)));
        assert!(!lists("0:1,1:2", one, NodeId(1)));
        assert!(!lists("", zero, NodeId(1)));
    }
}
