//! ListGroups: the groups of all coordinators on this broker.

use chronik_core::group::ListGroupsRequest as List;
use chronik_model::ErrorCode;
use chronik_wire::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

use super::{Api, Call, Outcome};

pub(super) fn handle(api: &Api, _: &Call, request: ListGroupsRequest) -> Outcome<ListGroupsResponse> {
    let list = List {
        states_filter: request.states_filter.iter().map(ToString::to_string).collect(),
        types_filter: request.types_filter.iter().map(ToString::to_string).collect(),
    };
    let mut response = ListGroupsResponse::default();
    for listed in api.groups.each(|coordinator| coordinator.list_groups(&list)) {
        if !listed.error.is_none() {
            response.error_code = listed.error.code();
            continue;
        }
        response.groups.extend(listed.groups.into_iter().map(|group| ListedGroup {
            group_id: group.group_id.into(),
            protocol_type: group.protocol_type.into(),
            group_state: group.state.as_str().into(),
            group_type: "classic".into(),
        }));
    }
    if response.error_code != ErrorCode::None.code() {
        response.groups.clear();
    }
    Outcome::Done(response)
}
