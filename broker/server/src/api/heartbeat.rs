//! Heartbeat: a member lives; the error code tells it to rejoin.

use chronik_core::group::HeartbeatRequest as Beat;
use chronik_model::ErrorCode;
use chronik_wire::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::{Api, Call, Outcome, owned};

pub(super) fn handle(api: &Api, call: &Call, request: HeartbeatRequest) -> Outcome<HeartbeatResponse> {
    let answer = |error: ErrorCode| {
        Outcome::Done(HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() })
    };
    if request.group_instance_id.is_some() && call.version < 3 {
        return answer(ErrorCode::UnsupportedVersion);
    }
    let beat = Beat {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id,
        member_id: request.member_id.to_string(),
        group_instance_id: owned(request.group_instance_id.as_ref()),
    };
    let group_id = beat.group_id.clone();
    match api.groups.query(&group_id, |coordinator, now| coordinator.heartbeat(now, &beat)) {
        Err(error) => answer(error),
        // Kafka lets members of a loading coordinator be: the heartbeat is as good as received.
        Ok(ErrorCode::CoordinatorLoadInProgress) => answer(ErrorCode::None),
        Ok(error) => answer(error),
    }
}
