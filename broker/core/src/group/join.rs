//! JoinGroup: who becomes a member, who gets the current generation, and what starts a rebalance.

use bytes::Bytes;
use chronik_model::ErrorCode;

use super::context::{Cx, Purpose, Takeover, metadata_write_error};
use super::messages::{GroupResponse, GroupState, JoinGroupRequest, JoinGroupResponse, SyncGroupResponse};
use super::records::GroupRecord;
use super::state::{Group, Member, millis};

impl<T> Group<T> {
    /// Answers or parks a JoinGroup. The caller has checked group id and session timeout.
    pub(super) fn join(&mut self, cx: &mut Cx<'_, T>, token: T, request: JoinGroupRequest) {
        let refused = if self.state == GroupState::Dead {
            Some((request.member_id.as_str(), ErrorCode::CoordinatorNotAvailable))
        } else if !self.has_room_for(&request.member_id, cx.config) {
            self.remove(cx, &request.member_id);
            Some(("", ErrorCode::GroupMaxSizeReached))
        } else if !self.supports(&request.protocol_type, &request.protocols) {
            Some((request.member_id.as_str(), ErrorCode::InconsistentGroupProtocol))
        } else {
            None
        };
        match refused {
            Some((member_id, error)) => cx.reply(token, JoinGroupResponse::failed(member_id, error)),
            None if request.member_id.is_empty() => self.join_new(cx, token, request),
            None => self.join_known(cx, token, request),
        }
        self.maybe_complete_join(cx);
    }

    fn join_new(&mut self, cx: &mut Cx<'_, T>, token: T, request: JoinGroupRequest) {
        let id = request.fresh_member_id.clone();
        if id.is_empty() || self.members.contains_key(&id) || self.pending.contains_key(&id) {
            return cx.reply(token, JoinGroupResponse::failed("", ErrorCode::UnknownServerError));
        }
        if let Some(instance_id) = request.group_instance_id.clone() {
            match self.static_members.get(&instance_id).cloned() {
                Some(old_member_id) => self.take_over(cx, token, request, instance_id, &old_member_id),
                None => self.add_member(cx, token, id, request),
            }
        } else if !request.require_known_member_id {
            self.add_member(cx, token, id, request);
        } else if self.pending.len() >= cx.config.max_pending_members {
            cx.reply(token, JoinGroupResponse::failed("", ErrorCode::GroupMaxSizeReached));
        } else {
            self.pending.insert(id.clone(), cx.now.after(millis(request.session_timeout_ms)));
            cx.reply(token, JoinGroupResponse::failed(&id, ErrorCode::MemberIdRequired));
        }
    }

    fn join_known(&mut self, cx: &mut Cx<'_, T>, token: T, request: JoinGroupRequest) {
        let id = request.member_id.clone();
        if self.pending.contains_key(&id) {
            // Ids are handed out to dynamic members only.
            if request.group_instance_id.is_some() {
                return cx.reply(token, JoinGroupResponse::failed(&id, ErrorCode::UnknownMemberId));
            }
            return self.add_member(cx, token, id, request);
        }
        if let Err(error) = self.validate_member(&id, request.group_instance_id.as_deref()) {
            return cx.reply(token, JoinGroupResponse::failed(&id, error));
        }
        let unchanged = self.members.get(&id).is_some_and(|member| member.protocols == request.protocols);
        match self.state {
            GroupState::PreparingRebalance => self.rejoin(cx, token, request),
            // The answer to the first join was lost, or a follower only wants to know the generation.
            GroupState::CompletingRebalance if unchanged => cx.reply(token, GroupResponse::Join(self.joined(&id))),
            GroupState::Stable if unchanged && !self.is_leader(&id) => {
                cx.reply(token, GroupResponse::Join(self.joined(&id)));
            }
            // Changed metadata; or the leader, which asks for a new assignment this way.
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.rejoin(cx, token, request);
                self.prepare_rebalance(cx);
            }
            GroupState::Empty | GroupState::Dead => {
                cx.reply(token, JoinGroupResponse::failed(&id, ErrorCode::UnknownMemberId));
            }
        }
    }

    fn add_member(&mut self, cx: &mut Cx<'_, T>, token: T, id: String, request: JoinGroupRequest) {
        if self.state == GroupState::PreparingRebalance && self.generation == 0 {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        self.leader.get_or_insert_with(|| id.clone());
        if let Some(instance_id) = &request.group_instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        self.pending.remove(&id);
        let member = Member {
            instance_id: request.group_instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            rebalance_timeout_ms: effective_rebalance_timeout(request.rebalance_timeout_ms, request.session_timeout_ms),
            session_timeout_ms: request.session_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            is_new: true,
            synced: false,
            joining: Some(token),
            syncing: None,
            deadline: cx.now.after(cx.config.new_member_join_timeout_ms),
        };
        self.members.insert(id, member);
        self.maybe_prepare_rebalance(cx);
    }

    /// Parks the join of a known member and takes its new metadata.
    fn rejoin(&mut self, cx: &mut Cx<'_, T>, token: T, request: JoinGroupRequest) {
        let id = request.member_id.clone();
        match self.members.get_mut(&id) {
            Some(member) => update(cx, member, token, &id, request),
            None => cx.reply(token, JoinGroupResponse::failed(&id, ErrorCode::UnknownMemberId)),
        }
    }

    /// A static member came back without its member id: the new id takes the place of the old one.
    fn take_over(
        &mut self,
        cx: &mut Cx<'_, T>,
        token: T,
        request: JoinGroupRequest,
        instance_id: String,
        old_member_id: &str,
    ) {
        let new_member_id = request.fresh_member_id.clone();
        let old_leader = self.leader.clone();
        let Some(mut member) = self.members.remove(old_member_id) else {
            return cx.reply(token, JoinGroupResponse::failed("", ErrorCode::UnknownMemberId));
        };
        if let Some(waiting) = member.joining.take() {
            cx.reply(waiting, JoinGroupResponse::failed(old_member_id, ErrorCode::FencedInstanceId));
        }
        if let Some(waiting) = member.syncing.take() {
            cx.reply(waiting, SyncGroupResponse::failed(ErrorCode::FencedInstanceId));
        }
        let takeover = Takeover {
            generation: self.generation,
            instance_id: instance_id.clone(),
            old_member_id: old_member_id.to_owned(),
            new_member_id: new_member_id.clone(),
            old_leader,
            old_protocols: member.protocols.clone(),
            old_rebalance_timeout_ms: member.rebalance_timeout_ms,
            old_session_timeout_ms: member.session_timeout_ms,
            supports_skipping_assignment: request.supports_skipping_assignment,
        };
        update(cx, &mut member, token, &new_member_id, request);
        member.renew_session(cx.now);
        self.members.insert(new_member_id.clone(), member);
        self.static_members.insert(instance_id, new_member_id.clone());
        if self.is_leader(old_member_id) {
            self.leader = Some(new_member_id);
        }
        match self.state {
            GroupState::Stable if self.protocol.is_some() && self.select_protocol() == self.protocol => {
                self.store_takeover(cx, takeover);
            }
            // While completing, the leader may be assigning to the old id already: start over.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(cx),
            GroupState::PreparingRebalance | GroupState::Empty | GroupState::Dead => {}
        }
    }

    /// The group stays stable; only the member's new id has to reach the log before the member hears of it.
    fn store_takeover(&mut self, cx: &mut Cx<'_, T>, takeover: Takeover) {
        // The new metadata may subscribe to other topics although the protocol stays.
        self.compute_subscribed();
        match GroupRecord::group(&self.id, Some(&self.metadata(|_, member| member.assignment.clone()))) {
            Ok(record) => {
                let purpose = Purpose::StaticMember { group: self.identity(), takeover: Box::new(takeover) };
                cx.append(vec![record], purpose);
            }
            Err(_) => self.takeover_stored(cx, takeover, Err(ErrorCode::UnknownServerError)),
        }
    }

    /// The write of a static member's new id succeeded or failed.
    pub(super) fn takeover_stored(&mut self, cx: &mut Cx<'_, T>, takeover: Takeover, result: Result<(), ErrorCode>) {
        let current = self.state == GroupState::Stable && self.generation == takeover.generation;
        let Some(member) = self.members.get_mut(&takeover.new_member_id) else { return };
        // Meanwhile a rebalance began, and the parked join became part of it; or yet another process took over.
        if !current {
            return;
        }
        let Some(token) = member.joining.take() else { return };
        let id = takeover.new_member_id.as_str();
        member.renew_session(cx.now);
        let response = match result {
            Ok(()) if takeover.supports_skipping_assignment => {
                let mut response = self.joined(id);
                response.skip_assignment = self.is_leader(id);
                response
            }
            Ok(()) => {
                // The old leader's id keeps a client that cannot skip the assignment from computing one.
                let mut response = self.joined(id);
                response.members = Vec::new();
                response.leader = takeover.old_leader.unwrap_or_default();
                response
            }
            Err(error) => {
                self.undo_takeover(takeover);
                return cx.reply(token, JoinGroupResponse::failed("", metadata_write_error(error)));
            }
        };
        cx.reply(token, GroupResponse::Join(response));
    }

    fn undo_takeover(&mut self, takeover: Takeover) {
        let Some(mut member) = self.members.remove(&takeover.new_member_id) else { return };
        member.protocols = takeover.old_protocols;
        member.rebalance_timeout_ms = takeover.old_rebalance_timeout_ms;
        member.session_timeout_ms = takeover.old_session_timeout_ms;
        if self.is_leader(&takeover.new_member_id) {
            self.leader = Some(takeover.old_member_id.clone());
        }
        self.static_members.insert(takeover.instance_id, takeover.old_member_id.clone());
        self.members.insert(takeover.old_member_id, member);
        self.compute_subscribed();
    }
}

/// Takes a member's new metadata and parks its join. A join of it that is still parked is from a connection that the
/// client gave up; it is told to come again.
fn update<T>(cx: &mut Cx<'_, T>, member: &mut Member<T>, token: T, member_id: &str, request: JoinGroupRequest) {
    if let Some(abandoned) = member.joining.replace(token) {
        cx.reply(abandoned, JoinGroupResponse::failed(member_id, ErrorCode::RebalanceInProgress));
    }
    member.protocols = request.protocols;
    member.session_timeout_ms = request.session_timeout_ms;
    member.rebalance_timeout_ms = effective_rebalance_timeout(request.rebalance_timeout_ms, request.session_timeout_ms);
}

/// JoinGroup version 0 has no rebalance timeout.
fn effective_rebalance_timeout(rebalance_timeout_ms: i32, session_timeout_ms: i32) -> i32 {
    if rebalance_timeout_ms < 0 { session_timeout_ms } else { rebalance_timeout_ms }
}
