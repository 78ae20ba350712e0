//! SyncGroup: the leader hands in the assignment, members fetch theirs; answered when it is in the log.

use chronik_core::group::{GroupResponse, SyncGroupRequest as Sync};
use chronik_model::ErrorCode;
use chronik_wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::{Api, Call, Outcome, owned};

pub(super) fn handle(api: &Api, call: &Call, request: SyncGroupRequest) -> Outcome<SyncGroupResponse> {
    let refused = |error: ErrorCode| SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() };
    if request.group_instance_id.is_some() && call.version < 3 {
        return Outcome::Done(refused(ErrorCode::UnsupportedVersion));
    }
    if call.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Outcome::Done(refused(ErrorCode::InconsistentGroupProtocol));
    }
    let sync = Sync {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id,
        member_id: request.member_id.to_string(),
        group_instance_id: owned(request.group_instance_id.as_ref()),
        protocol_type: owned(request.protocol_type.as_ref()),
        protocol_name: owned(request.protocol_name.as_ref()),
        assignments: request
            .assignments
            .iter()
            .map(|one| (one.member_id.to_string(), bytes::Bytes::copy_from_slice(&one.assignment)))
            .collect(),
    };
    let group_id = sync.group_id.clone();
    match api.groups.ask(&group_id, |coordinator, now, token| coordinator.sync(now, token, sync)) {
        Err(error) => Outcome::Done(refused(error)),
        Ok(answer) => Outcome::Parked(Box::pin(async move {
            match answer.await {
                Ok(GroupResponse::Sync(synced)) => SyncGroupResponse {
                    throttle_time_ms: 0,
                    error_code: synced.error.code(),
                    protocol_type: synced.protocol_type.map(Into::into),
                    protocol_name: synced.protocol_name.map(Into::into),
                    assignment: synced.assignment,
                },
                _ => refused(ErrorCode::NotCoordinator),
            }
        })),
    }
}
