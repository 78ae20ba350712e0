//! The rebalance itself: starting it, waiting for members, forming the next generation, and every timer of a group.

use std::collections::BTreeSet;

use bytes::Bytes;
use chronik_model::ErrorCode;

use super::context::{Cx, Purpose};
use super::messages::{GroupResponse, GroupState, SyncGroupResponse};
use super::records::GroupRecord;
use super::state::{Group, JoinTimer};

impl<T> Group<T> {
    pub(super) fn maybe_prepare_rebalance(&mut self, cx: &mut Cx<'_, T>) {
        match self.state {
            GroupState::Empty | GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(cx),
            GroupState::PreparingRebalance | GroupState::Dead => {}
        }
    }

    /// Calls all members to rejoin.
    pub(super) fn prepare_rebalance(&mut self, cx: &mut Cx<'_, T>) {
        if self.state == GroupState::CompletingRebalance {
            self.fail_assignment(cx, ErrorCode::RebalanceInProgress);
        }
        self.sync_deadline = None;
        self.storing = false;
        let rebalance_ms = self.rebalance_timeout_ms();
        self.join_timer = Some(if self.state == GroupState::Empty {
            let delay_ms = cx.config.initial_rebalance_delay_ms;
            let remaining_ms = rebalance_ms.saturating_sub(delay_ms);
            JoinTimer::Initial { deadline: cx.now.after(delay_ms), delay_ms, remaining_ms }
        } else {
            JoinTimer::Members { deadline: cx.now.after(rebalance_ms) }
        });
        self.transition(cx.now, GroupState::PreparingRebalance);
        self.maybe_complete_join(cx);
    }

    /// Answers all parked SyncGroups with an error; nobody has an assignment any more.
    pub(super) fn fail_assignment(&mut self, cx: &mut Cx<'_, T>, error: ErrorCode) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(token) = member.syncing.take() {
                cx.reply(token, SyncGroupResponse::failed(error));
                member.renew_session(cx.now);
            }
        }
    }

    /// Ends the wait for members when all are there or the time is up.
    pub(super) fn maybe_complete_join(&mut self, cx: &mut Cx<'_, T>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        let now = cx.now.mono_ms;
        match self.join_timer {
            // New members keep coming: wait another delay, but not beyond the rebalance timeout.
            Some(JoinTimer::Initial { deadline, delay_ms, remaining_ms })
                if deadline <= now && self.new_member_added && remaining_ms > 0 && delay_ms > 0 =>
            {
                self.new_member_added = false;
                let next_ms = cx.config.initial_rebalance_delay_ms.min(remaining_ms);
                self.join_timer = Some(JoinTimer::Initial {
                    deadline: cx.now.after(next_ms),
                    delay_ms: next_ms,
                    remaining_ms: remaining_ms.saturating_sub(delay_ms),
                });
            }
            Some(timer) if timer.deadline() <= now => self.complete_join(cx),
            Some(JoinTimer::Initial { .. }) => {}
            Some(JoinTimer::Members { .. }) | None => {
                let all_here = self.members.values().all(|member| member.joining.is_some());
                if all_here && self.pending.is_empty() {
                    self.complete_join(cx);
                }
            }
        }
    }

    /// Forms the next generation of those who joined. Static members keep their place until their session ends.
    fn complete_join(&mut self, cx: &mut Cx<'_, T>) {
        self.join_timer = None;
        let absent = self.members.iter().filter(|(_, m)| m.joining.is_none() && m.instance_id.is_none());
        let absent: Vec<String> = absent.map(|(id, _)| id.clone()).collect();
        for id in absent {
            self.remove(cx, &id);
        }
        let joined = |member: Option<&super::state::Member<T>>| member.is_some_and(|member| member.joining.is_some());
        if !joined(self.leader.as_ref().and_then(|leader| self.members.get(leader))) {
            match self.members.iter().find(|(_, member)| joined(Some(member))) {
                Some((id, _)) => self.leader = Some(id.clone()),
                None if self.members.is_empty() => self.leader = None,
                None => {
                    // Only static members that are away: wait for one of them, or for their sessions to end.
                    let deadline = cx.now.after(self.rebalance_timeout_ms().max(1));
                    self.join_timer = Some(JoinTimer::Members { deadline });
                    return;
                }
            }
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() { self.become_empty(cx) } else { self.await_assignment(cx) }
    }

    fn become_empty(&mut self, cx: &mut Cx<'_, T>) {
        self.protocol = None;
        self.subscribed = Some(BTreeSet::new());
        self.transition(cx.now, GroupState::Empty);
        // When the write fails the last generation stays in the log; after a failover its sessions just time out.
        if let Ok(record) = GroupRecord::group(&self.id, Some(&self.metadata(|_, _| Bytes::new()))) {
            self.recorded = true;
            cx.append(vec![record], Purpose::Background);
        }
    }

    fn await_assignment(&mut self, cx: &mut Cx<'_, T>) {
        self.protocol = self.select_protocol();
        self.compute_subscribed();
        self.transition(cx.now, GroupState::CompletingRebalance);
        self.sync_deadline = Some(cx.now.after(self.rebalance_timeout_ms().max(1)));
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            member.is_new = false;
            member.synced = false;
            member.renew_session(cx.now);
            if let Some(token) = member.joining.take() {
                waiting.push((id.clone(), token));
            }
        }
        for (id, token) in waiting {
            let response = self.joined(&id);
            cx.reply(token, GroupResponse::Join(response));
        }
    }

    /// Does what the clock demands.
    pub(super) fn expire(&mut self, cx: &mut Cx<'_, T>) {
        if self.state == GroupState::Dead {
            return;
        }
        let now = cx.now.mono_ms;
        self.pending.retain(|_, lapses| *lapses > now);
        let gone = self.members.iter().filter(|(_, member)| member.session_end().is_some_and(|end| end <= now));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            // Removing one may complete a rebalance, which renews the sessions of the others.
            if self.members.get(&id).is_some_and(|member| member.session_end().is_some_and(|end| end <= now)) {
                self.remove_and_rebalance(cx, &id);
            }
        }
        if self.sync_deadline.is_some_and(|deadline| deadline <= now) {
            self.expire_syncs(cx);
        }
        self.maybe_complete_join(cx);
    }

    /// Members that joined the generation but never asked for their assignment are taken as gone.
    fn expire_syncs(&mut self, cx: &mut Cx<'_, T>) {
        self.sync_deadline = None;
        let silent: Vec<String> = self.members.iter().filter(|(_, m)| !m.synced).map(|(id, _)| id.clone()).collect();
        if silent.is_empty() || !matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable) {
            return;
        }
        for id in silent {
            self.remove(cx, &id);
        }
        self.prepare_rebalance(cx);
    }

    pub(super) fn remove_and_rebalance(&mut self, cx: &mut Cx<'_, T>, member_id: &str) {
        self.remove(cx, member_id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(cx),
            GroupState::PreparingRebalance => self.maybe_complete_join(cx),
            GroupState::Empty | GroupState::Dead => {}
        }
    }
}
