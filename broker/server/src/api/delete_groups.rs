//! DeleteGroups: empty groups and their offsets go.

use chronik_core::group::{DeleteGroupsRequest as Delete, GroupResponse};
use chronik_model::ErrorCode;
use chronik_wire::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

use super::{Api, Call, Outcome};

pub(super) fn handle(api: &Api, _: &Call, request: DeleteGroupsRequest) -> Outcome<DeleteGroupsResponse> {
    // Each group may live on another coordinator, so each is asked for by itself.
    let asked: Vec<_> = request
        .groups_names
        .iter()
        .map(|name| {
            let group_id = name.to_string();
            let delete = Delete { group_ids: vec![group_id.clone()] };
            let answer =
                api.groups.ask(&group_id, |coordinator, now, token| coordinator.delete_groups(now, token, delete));
            (group_id, answer)
        })
        .collect();
    Outcome::Parked(Box::pin(async move {
        let mut results = Vec::with_capacity(asked.len());
        for (group_id, answer) in asked {
            let error = match answer {
                Err(error) => error,
                Ok(answer) => match answer.await {
                    Ok(GroupResponse::DeleteGroups(deleted)) => {
                        deleted.results.first().map_or(ErrorCode::UnknownServerError, |(_, error)| *error)
                    }
                    _ => ErrorCode::NotCoordinator,
                },
            };
            results.push(DeletableGroupResult { group_id: group_id.into(), error_code: error.code() });
        }
        DeleteGroupsResponse { throttle_time_ms: 0, results }
    }))
}
