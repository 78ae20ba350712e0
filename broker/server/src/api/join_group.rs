//! JoinGroup: a member enters a group or its next generation; answered when the generation is formed.

use chronik_core::group::{GroupResponse, JoinGroupProtocol, JoinGroupRequest as Join, JoinGroupResponse as Joined};
use chronik_model::ErrorCode;
use chronik_wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};

use super::{Api, Call, Outcome, groups::host_of, owned};

pub(super) fn handle(api: &Api, call: &Call, request: JoinGroupRequest) -> Outcome<JoinGroupResponse> {
    let version = call.version;
    let member_id = request.member_id.to_string();
    let refused = move |error: ErrorCode| JoinGroupResponse {
        error_code: error.code(),
        protocol_name: (version < 7).then(Default::default),
        member_id: member_id.as_str().into(),
        ..JoinGroupResponse::default()
    };
    if request.group_instance_id.is_some() && version < 5 {
        return Outcome::Done(refused(ErrorCode::UnsupportedVersion));
    }
    let client_id = call.client_id().to_owned();
    let instance = owned(request.group_instance_id.as_ref());
    let fresh = format!("{}-{}", instance.as_deref().unwrap_or(&client_id), uuid::Uuid::new_v4());
    let join = Join {
        group_id: request.group_id.to_string(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        member_id: request.member_id.to_string(),
        group_instance_id: instance,
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .iter()
            .map(|protocol| JoinGroupProtocol {
                name: protocol.name.to_string(),
                // A copy: what the group keeps must not keep the whole frame alive.
                metadata: bytes::Bytes::copy_from_slice(&protocol.metadata),
            })
            .collect(),
        client_id,
        client_host: host_of(call),
        require_known_member_id: version >= 4,
        supports_skipping_assignment: version >= 9,
        fresh_member_id: fresh,
    };
    let group_id = join.group_id.clone();
    let asked = api.groups.ask(&group_id, |coordinator, now, token| coordinator.join(now, token, join));
    match asked {
        Err(error) => Outcome::Done(refused(error)),
        Ok(answer) => Outcome::Parked(Box::pin(async move {
            match answer.await {
                Ok(GroupResponse::Join(joined)) => to_wire(joined, version),
                _ => refused(ErrorCode::NotCoordinator),
            }
        })),
    }
}

fn to_wire(joined: Joined, version: i16) -> JoinGroupResponse {
    let member = |member: chronik_core::group::JoinGroupMember| JoinGroupResponseMember {
        member_id: member.member_id.into(),
        group_instance_id: member.group_instance_id.map(Into::into),
        metadata: member.metadata,
    };
    JoinGroupResponse {
        throttle_time_ms: 0,
        error_code: joined.error.code(),
        generation_id: joined.generation_id,
        protocol_type: joined.protocol_type.map(Into::into),
        protocol_name: match joined.protocol_name {
            Some(name) => Some(name.into()),
            None if version < 7 => Some(Default::default()),
            None => None,
        },
        leader: joined.leader.into(),
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id.into(),
        members: joined.members.into_iter().map(member).collect(),
    }
}
