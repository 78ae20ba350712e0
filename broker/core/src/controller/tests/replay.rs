//! The log and the snapshot: one history, one state.

use super::*;
use crate::controller::recent::Remembered;

fn busy() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 3, 1]]);
    cluster.set(on_topic(), "retention.ms", "7");
    cluster.set(ConfigResource::ClusterDefault, "num.partitions", "2");
    cluster.set(ConfigResource::Broker(NodeId(2)), "log.segment.bytes", "4096");
    cluster.fence(1);
    cluster.fence(2);
    cluster.fence(3);
    cluster.revive(3);
    cluster
}

#[test]
fn a_snapshot_holds_the_whole_state() {
    let cluster = busy();
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(restored, cluster.state);
    assert_eq!(restored.hash(), cluster.state.hash());
}

#[test]
fn replaying_the_log_gives_the_same_state() {
    let cluster = busy();
    let mut other = MetadataState::new();
    for (index, bytes) in &cluster.log {
        other.apply(*index, bytes);
    }
    assert_eq!(other.hash(), cluster.state.hash());
}

#[test]
fn a_damaged_or_newer_snapshot_is_an_error_not_a_panic() {
    let bytes = busy().state.encode_snapshot();
    assert!(MetadataState::decode_snapshot(&bytes[..bytes.len() - 1]).is_err());
    // Field 1, the version, is the first of the image.
    let mut newer = bytes;
    assert_eq!(newer[..2], [0x08, OLDEST as u8]);
    newer[1] = 0x7f;
    let error = MetadataState::decode_snapshot(&newer).unwrap_err();
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn what_cannot_be_read_is_refused_and_only_the_index_moves() {
    let mut cluster = Cluster::of(1);
    let id = ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(7), sequence: 900 };
    let good = Envelope::new(id, 0, NoOp {}).encode();
    assert_eq!(good[..2], [0x08, 0x01], "the version comes first");
    let mut newer = good.clone();
    newer[1] = 0x02;
    // Tag 50 (NoOp) as tag 90, which no release uses.
    let mut unknown = good.clone();
    let position = unknown.len() - 3;
    assert_eq!(unknown[position..], [0x92, 0x03, 0x00]);
    unknown[position + 1] = 0x05;
    let mut before = cluster.state.clone();
    for (bytes, code) in [
        (newer, ErrorCode::UnsupportedVersion),
        (unknown, ErrorCode::UnsupportedVersion),
        (vec![0xff; 20], ErrorCode::InvalidRequest),
        (good[..good.len() - 1].to_vec(), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(cluster.commit(bytes).ok().unwrap_err().code, code);
        before.applied = cluster.state.applied;
        assert_eq!(cluster.state, before);
    }
    assert_eq!(cluster.commit(Vec::new()), CommandResult::Done, "the empty entry of a new Raft leader");
}

#[test]
fn a_proposal_is_applied_once_even_after_its_result_is_forgotten() {
    let mut cluster = Cluster::of(1);
    let broker_epoch = cluster.epoch(1);
    let id = |sequence| ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(8), sequence };
    let take =
        |sequence| Envelope::new(id(sequence), 0, AllocateProducerIds { node: NodeId(1), broker_epoch }).encode();
    let first = cluster.commit(take(1));
    assert_eq!(cluster.commit(take(1)), first);
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert!(matches!(restored.recent.find(&id(1)), Some(Remembered::Result(result)) if *result == first));
    for sequence in 2..3000 {
        let bytes = Envelope::new(id(sequence), 0, NoOp {}).encode();
        cluster.state.apply(RaftIndex(cluster.state.applied().0 + 1), &bytes);
    }
    let taken = cluster.state.next_producer_id();
    assert_eq!(cluster.commit(take(1)).ok().unwrap_err().code, ErrorCode::RequestTimedOut);
    assert_eq!(cluster.state.next_producer_id(), taken);
    let another = ProposalId { incarnation: Uuid::from_u128(9), ..id(1) };
    cluster.commit(Envelope::new(another, 0, AllocateProducerIds { node: NodeId(1), broker_epoch }).encode());
    assert_eq!(cluster.state.next_producer_id(), taken + PRODUCER_ID_BLOCK, "another process starts over");
}

#[test]
fn what_is_remembered_of_proposals_is_bounded_in_bytes_too() {
    let mut cluster = Cluster::of(1);
    for _ in 0..400 {
        // Each outcome names its partition and says why not.
        let partition = || PartitionRef { topic: "x".repeat(200).as_str().into(), partition: PartitionIndex(0) };
        let partitions = (0..100).map(|_| partition()).collect();
        cluster.propose(ElectLeaders { election: ElectionType::Preferred, partitions });
    }
    let size = cluster.state.encode_snapshot().len();
    assert!(size < 5 << 20, "a snapshot of {size} bytes for one broker and no topic");
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(restored, cluster.state);
    let long = "1".repeat(100_000);
    let refusal =
        cluster.refuse(alter(ConfigResource::ClusterDefault, &long, ConfigOp::Delete, None), ErrorCode::InvalidConfig);
    assert!(refusal.len() < 1_100, "{} bytes of refusal", refusal.len());
}
