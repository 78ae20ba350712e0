//! LeaveGroup: members go, the rest is asked to rebalance.

use chronik_core::group::{GroupResponse, LeaveGroupRequest as Leave, LeaveGroupResponse as Left, LeaveMember};
use chronik_model::ErrorCode;
use chronik_wire::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};

use super::{Api, Call, Outcome, owned};

pub(super) fn handle(api: &Api, call: &Call, request: LeaveGroupRequest) -> Outcome<LeaveGroupResponse> {
    let version = call.version;
    let refused = |error: ErrorCode| LeaveGroupResponse { error_code: error.code(), ..LeaveGroupResponse::default() };
    let members = if version >= 3 {
        request
            .members
            .iter()
            .map(|member| LeaveMember {
                member_id: member.member_id.to_string(),
                group_instance_id: owned(member.group_instance_id.as_ref()),
            })
            .collect()
    } else {
        vec![LeaveMember { member_id: request.member_id.to_string(), group_instance_id: None }]
    };
    let leave = Leave { group_id: request.group_id.to_string(), members };
    let group_id = leave.group_id.clone();
    match api.groups.ask(&group_id, |coordinator, now, token| coordinator.leave(now, token, leave)) {
        Err(error) => Outcome::Done(refused(error)),
        Ok(answer) => Outcome::Parked(Box::pin(async move {
            match answer.await {
                Ok(GroupResponse::Leave(left)) => to_wire(left, version),
                _ => refused(ErrorCode::NotCoordinator),
            }
        })),
    }
}

fn to_wire(left: Left, version: i16) -> LeaveGroupResponse {
    let only = left.members.first().map_or(ErrorCode::None, |member| member.error);
    let error = if version < 3 && left.error.is_none() { only } else { left.error };
    LeaveGroupResponse {
        throttle_time_ms: 0,
        error_code: error.code(),
        members: left
            .members
            .into_iter()
            .map(|member| MemberResponse {
                member_id: member.member_id.into(),
                group_instance_id: member.group_instance_id.map(Into::into),
                error_code: member.error.code(),
            })
            .collect(),
    }
}
