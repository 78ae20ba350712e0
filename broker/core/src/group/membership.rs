//! What members of a formed generation ask: SyncGroup, Heartbeat, LeaveGroup.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_model::ErrorCode;

use super::context::{Cx, Purpose, metadata_write_error};
use super::messages::{
    GroupResponse, GroupState, HeartbeatRequest, LeaveMember, LeaveMemberResponse, SyncGroupRequest, SyncGroupResponse,
};
use super::records::GroupRecord;
use super::state::Group;

impl<T> Group<T> {
    /// Answers a SyncGroup, or parks it until the leader's assignment is in the log.
    pub(super) fn sync(&mut self, cx: &mut Cx<'_, T>, token: T, request: SyncGroupRequest) {
        if let Err(error) = self.validate_sync(&request) {
            return cx.reply(token, SyncGroupResponse::failed(error));
        }
        let completing = self.state == GroupState::CompletingRebalance;
        let Some(member) = self.members.get_mut(&request.member_id) else {
            return cx.reply(token, SyncGroupResponse::failed(ErrorCode::UnknownMemberId));
        };
        member.synced = true;
        if completing {
            if let Some(abandoned) = member.syncing.replace(token) {
                // The client gave that connection up; whoever still listens there has to start over.
                cx.reply(abandoned, SyncGroupResponse::failed(ErrorCode::RebalanceInProgress));
            }
            if self.is_leader(&request.member_id) && !self.storing {
                self.store_assignment(cx, request.assignments);
            }
        } else {
            member.renew_session(cx.now);
            let assignment = member.assignment.clone();
            cx.reply(token, self.synced(assignment));
        }
        if self.members.values().all(|member| member.synced) {
            self.sync_deadline = None;
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        if self.state == GroupState::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<String>, known: &Option<String>| said.is_some() && said != known;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol_name, &self.protocol) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::CompletingRebalance | GroupState::Stable | GroupState::Dead => Ok(()),
        }
    }

    fn synced(&self, assignment: Bytes) -> GroupResponse {
        GroupResponse::Sync(SyncGroupResponse {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment,
        })
    }

    /// Writes the generation; members the leader forgot get nothing, ids that are no members are dropped.
    fn store_assignment(&mut self, cx: &mut Cx<'_, T>, assignments: Vec<(String, Bytes)>) {
        let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        assignments.retain(|id, _| self.members.contains_key(id));
        let metadata = self.metadata(|id, _| assignments.get(id).cloned().unwrap_or_default());
        match GroupRecord::group(&self.id, Some(&metadata)) {
            Ok(record) => {
                self.storing = true;
                self.recorded = true;
                let purpose = Purpose::Assignment { group: self.identity(), generation: self.generation, assignments };
                cx.append(vec![record], purpose);
            }
            Err(_) => self.assignment_stored(cx, self.generation, assignments, Err(ErrorCode::UnknownServerError)),
        }
    }

    /// The write of the leader's assignment succeeded or failed; a newer generation or rebalance makes it moot.
    pub(super) fn assignment_stored(
        &mut self,
        cx: &mut Cx<'_, T>,
        generation: i32,
        mut assignments: BTreeMap<String, Bytes>,
        result: Result<(), ErrorCode>,
    ) {
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            return;
        }
        self.storing = false;
        if let Err(error) = result {
            self.fail_assignment(cx, metadata_write_error(error));
            return self.prepare_rebalance(cx);
        }
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            if let Some(token) = member.syncing.take() {
                member.renew_session(cx.now);
                waiting.push((token, member.assignment.clone()));
            }
        }
        for (token, assignment) in waiting {
            cx.reply(token, self.synced(assignment));
        }
        self.transition(cx.now, GroupState::Stable);
    }

    /// Keeps a member alive and tells it whether to rejoin.
    pub(super) fn heartbeat(&mut self, cx: &mut Cx<'_, T>, request: &HeartbeatRequest) -> ErrorCode {
        if self.state == GroupState::Dead {
            return ErrorCode::CoordinatorNotAvailable;
        }
        if let Err(error) = self.validate_member(&request.member_id, request.group_instance_id.as_deref()) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        let Some(member) = self.members.get_mut(&request.member_id) else { return ErrorCode::UnknownMemberId };
        member.renew_session(cx.now);
        match self.state {
            GroupState::PreparingRebalance => ErrorCode::RebalanceInProgress,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::None,
            GroupState::Empty | GroupState::Dead => ErrorCode::UnknownMemberId,
        }
    }

    /// Takes one leaving member out. An empty member id is an administrator naming a static member.
    pub(super) fn leave(&mut self, cx: &mut Cx<'_, T>, leaving: LeaveMember) -> LeaveMemberResponse {
        let LeaveMember { member_id, group_instance_id } = leaving;
        let instance_id = group_instance_id.as_deref();
        let found = if member_id.is_empty() {
            let current = instance_id.and_then(|instance_id| self.static_members.get(instance_id));
            current.cloned().ok_or(ErrorCode::UnknownMemberId)
        } else if self.pending.contains_key(&member_id) {
            Ok(member_id.clone())
        } else {
            self.validate_member(&member_id, instance_id).map(|()| member_id.clone())
        };
        let error = match found {
            Ok(current) => {
                let pending = self.pending.contains_key(&current);
                if pending {
                    // It never was a member: only those who wait for it are concerned.
                    self.pending.remove(&current);
                    self.maybe_complete_join(cx);
                } else {
                    self.remove_and_rebalance(cx, &current);
                }
                ErrorCode::None
            }
            Err(error) => error,
        };
        LeaveMemberResponse { member_id, group_instance_id, error }
    }
}
