//! What administrators ask: ListGroups, DescribeGroups, DeleteGroups.

use bytes::Bytes;
use chronik_model::ErrorCode;

use super::config::Now;
use super::context::{Cx, GroupRef, Purpose, offsets_write_error};
use super::coordinator::GroupCoordinator;
use super::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribedGroup, DescribedMember, Effect, GroupResponse, GroupState,
    ListGroupsRequest, ListGroupsResponse, ListedGroup, OffsetFetchPartitionResponse, OffsetFetchTopicResponse,
    TopicPartitions,
};
use super::state::{Group, Member};

/// The type of every group here (KIP-848 groups are another type).
const GROUP_TYPE: &str = "classic";

impl<T> GroupCoordinator<T> {
    /// ListGroups.
    #[must_use]
    pub fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let matches = |filter: &[String], name: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let listed = self.groups.values().filter(|group| {
            matches(&request.states_filter, group.state.as_str()) && matches(&request.types_filter, GROUP_TYPE)
        });
        let list = |group: &Group<T>| ListedGroup {
            group_id: group.id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.state,
        };
        match self.phase_refusal() {
            Some(error) => ListGroupsResponse { error, groups: Vec::new() },
            None => ListGroupsResponse { error: ErrorCode::None, groups: listed.map(list).collect() },
        }
    }

    /// DescribeGroups, in request order.
    #[must_use]
    pub fn describe_groups(&self, group_ids: &[String]) -> Vec<DescribedGroup> {
        let refusal = self.phase_refusal();
        let describe = |id: &String| match (refusal, self.groups.get(id)) {
            (Some(error), _) => DescribedGroup::without_members(id, error, None),
            (None, None) => DescribedGroup::without_members(id, ErrorCode::None, Some(GroupState::Dead)),
            (None, Some(group)) => group.describe(),
        };
        group_ids.iter().map(describe).collect()
    }

    /// DeleteGroups. The answer waits until the tombstones are in the log; until then the groups are `Dead`.
    pub fn delete_groups(&mut self, now: Now, token: T, request: DeleteGroupsRequest) -> Vec<Effect<T>> {
        let mut results: Vec<(String, ErrorCode)> = Vec::new();
        let mut deleting = Vec::new();
        let mut records = Vec::new();
        for id in request.group_ids {
            if results.iter().any(|(seen, _)| *seen == id) {
                continue;
            }
            let error = match (self.phase_refusal(), self.groups.get_mut(&id)) {
                (Some(error), _) => error,
                (None, None) => ErrorCode::GroupIdNotFound,
                (None, Some(group)) => match group.state {
                    GroupState::Dead => ErrorCode::CoordinatorNotAvailable,
                    GroupState::Empty => {
                        let obituary = group.obituary();
                        if obituary.is_empty() {
                            self.forget(&id);
                        } else {
                            group.state = GroupState::Dead;
                            records.extend(obituary);
                            deleting.push(group.identity());
                            self.settle(&id);
                        }
                        ErrorCode::None
                    }
                    _ => ErrorCode::NonEmptyGroup,
                },
            };
            results.push((id, error));
        }
        let mut effects = Vec::new();
        let mut cx = Cx { now, config: &self.config, flights: &mut self.flights, effects: &mut effects };
        if deleting.is_empty() {
            cx.reply(token, GroupResponse::DeleteGroups(DeleteGroupsResponse { results }));
        } else {
            cx.append(records, Purpose::DeleteGroups { token, results, deleting });
        }
        effects
    }

    /// The tombstones are in the log, or the groups live on.
    pub(super) fn groups_deleted(
        &mut self,
        now: Now,
        mut results: Vec<(String, ErrorCode)>,
        deleting: &[GroupRef],
        outcome: Result<(), ErrorCode>,
    ) -> DeleteGroupsResponse {
        for life in deleting {
            let Some(group) = self.groups.get_mut(&life.id).filter(|group| group.incarnation == life.incarnation)
            else {
                continue;
            };
            match outcome {
                Ok(()) => self.forget(&life.id),
                Err(error) => {
                    group.state = GroupState::Empty;
                    // Ids that were handed out start their time again.
                    let lapses = now.after(u64::try_from(self.config.min_session_timeout_ms).unwrap_or(0));
                    group.pending.values_mut().for_each(|deadline| *deadline = lapses);
                    self.settle(&life.id);
                    for (_, result) in results.iter_mut().filter(|(id, _)| *id == life.id) {
                        *result = offsets_write_error(error);
                    }
                }
            }
        }
        DeleteGroupsResponse { results }
    }
}

impl<T> Group<T> {
    fn describe(&self) -> DescribedGroup {
        let stable = self.state == GroupState::Stable;
        let protocol = self.protocol.as_deref().filter(|_| stable);
        let member = |(id, member): (&String, &Member<T>)| DescribedMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable { member.metadata(protocol) } else { Bytes::new() },
            assignment: if stable { member.assignment.clone() } else { Bytes::new() },
        };
        DescribedGroup {
            error: ErrorCode::None,
            found: true,
            group_id: self.id.clone(),
            state: Some(self.state),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: self.members.iter().map(member).collect(),
        }
    }
}

impl DescribedGroup {
    fn without_members(group_id: &str, error: ErrorCode, state: Option<GroupState>) -> Self {
        Self {
            error,
            found: false,
            group_id: group_id.to_owned(),
            state,
            protocol_type: String::new(),
            protocol: String::new(),
            members: Vec::new(),
        }
    }
}

impl OffsetFetchTopicResponse {
    /// Nothing is committed for any of these.
    pub(super) fn nothing(topics: &[TopicPartitions]) -> Vec<Self> {
        let none = |topic: &TopicPartitions| Self {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().copied().map(OffsetFetchPartitionResponse::none).collect(),
        };
        topics.iter().map(none).collect()
    }
}
