//! OffsetForLeaderEpoch: the end of the largest epoch that is not larger than the one asked for.

use chronik_model::{ErrorCode, LeaderEpoch};
use chronik_wire::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

use super::list_offsets::hosted;
use super::{Api, Call, Outcome};

pub(super) fn handle(
    api: &Api,
    _: &Call,
    request: OffsetForLeaderEpochRequest,
) -> Outcome<OffsetForLeaderEpochResponse> {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|wanted| look(api, &topic.topic, wanted)).collect();
            OffsetForLeaderTopicResult { topic: topic.topic, partitions }
        })
        .collect();
    Outcome::Done(OffsetForLeaderEpochResponse { throttle_time_ms: 0, topics })
}

fn look(api: &Api, topic: &str, wanted: &OffsetForLeaderPartition) -> EpochEndOffset {
    let found = hosted(api, topic, wanted.partition).and_then(|partition| {
        partition.end_of_epoch(LeaderEpoch(wanted.current_leader_epoch), LeaderEpoch(wanted.leader_epoch))
    });
    let (error, end) = match found {
        Ok(end) => (ErrorCode::None, end),
        Err(error) => (error, None),
    };
    EpochEndOffset {
        error_code: error.code(),
        partition: wanted.partition,
        leader_epoch: end.map_or(-1, |end| end.epoch.0),
        end_offset: end.map_or(-1, |end| end.end_offset.0),
    }
}
