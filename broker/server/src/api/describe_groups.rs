//! DescribeGroups: state, members and assignments of classic groups.

use chronik_model::ErrorCode;
use chronik_wire::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};

use super::{Api, Call, Outcome};

/// "Not asked for" in the bit field of authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

pub(super) fn handle(api: &Api, call: &Call, request: DescribeGroupsRequest) -> Outcome<DescribeGroupsResponse> {
    let groups = request.groups.iter().map(|group_id| describe(api, call.version, group_id)).collect();
    Outcome::Done(DescribeGroupsResponse { throttle_time_ms: 0, groups })
}

fn describe(api: &Api, version: i16, group_id: &str) -> DescribedGroup {
    let refused = |error: ErrorCode| DescribedGroup {
        error_code: error.code(),
        group_id: group_id.into(),
        authorized_operations: NO_OPERATIONS,
        ..DescribedGroup::default()
    };
    let described =
        match api.groups.query(group_id, |coordinator, _| coordinator.describe_groups(&[group_id.to_owned()])) {
            Err(error) => return refused(error),
            Ok(mut described) => match described.pop() {
                Some(group) => group,
                None => return refused(ErrorCode::UnknownServerError),
            },
        };
    let missing = !described.found && described.error.is_none();
    DescribedGroup {
        error_code: if missing && version >= 6 { ErrorCode::GroupIdNotFound } else { described.error }.code(),
        error_message: (missing && version >= 6).then(|| format!("group {group_id} does not exist").into()),
        group_id: described.group_id.into(),
        group_state: described.state.map_or("", chronik_core::group::GroupState::as_str).into(),
        protocol_type: described.protocol_type.into(),
        protocol_data: described.protocol.into(),
        members: described
            .members
            .into_iter()
            .map(|member| DescribedGroupMember {
                member_id: member.member_id.into(),
                group_instance_id: member.group_instance_id.map(Into::into),
                client_id: member.client_id.into(),
                client_host: member.client_host.into(),
                member_metadata: member.metadata,
                member_assignment: member.assignment,
            })
            .collect(),
        authorized_operations: NO_OPERATIONS,
    }
}
