//! The way out, in order: leaderships of partitions move, then that of the quorum; open requests end; logs are settled,
//! checkpoints written, and the mark of a clean end is the last thing on the disk.

use chronik_consensus::TransferError;
use chronik_model::{BrokerEpoch, NodeId};
use chronik_node::quorum::Input;

use super::alarms::Alarm;
use super::life::Stage;
use super::{Broker, EXIT_TEMPORARY};
use crate::kernel::Ctx;

/// A broker that wants to stop waits no longer than this when there is no quorum that could let it.
const HOPELESS_MS: u64 = 500;
/// How long leadership of the quorum may take to move.
const HAND_OVER_MS: u64 = 2_000;

impl Broker {
    /// SIGTERM.
    pub fn begin_stop(&mut self, ctx: &mut Ctx<'_>) {
        self.look_at_the_clock(ctx);
        if self.life.stage < Stage::Serving {
            ctx.note(|| "stops before its start was complete".to_owned());
            return ctx.exit(0);
        }
        if self.life.stage > Stage::Serving {
            return;
        }
        self.life.stage = Stage::Leaving;
        if self.epoch == BrokerEpoch::NONE {
            self.hand_over(ctx);
        } else {
            self.life.wants_shutdown = true;
            let limit = self.after(self.config.controlled_shutdown_timeout_ms);
            self.life.stage_alarm = Some(self.alarms.set(limit, Alarm::Stage));
            self.look_for_hope(ctx);
            self.tell_wish(ctx);
        }
        self.pump(ctx);
    }

    /// Whether no quorum could let this broker go: nobody leads, or it leads nobody, for a while.
    pub(super) fn look_for_hope(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage != Stage::Leaving {
            return;
        }
        let led = self.leadership.leader.is_some_and(|leader| leader != self.node);
        let hopeless = !led && !self.majority_connected();
        let since = *self.life.hopeless_since.get_or_insert(self.now.mono_ms);
        if !hopeless {
            self.life.hopeless_since = None;
        } else if self.now.mono_ms - since >= HOPELESS_MS {
            ctx.note(|| "no quorum could let it go".to_owned());
            return self.hand_over(ctx);
        }
        self.alarms.set(self.after(HOPELESS_MS / 5), Alarm::Hope);
    }

    /// Whether a majority of the voters can be talked to.
    fn majority_connected(&self) -> bool {
        let voters = &self.quorum.replica().membership().voters;
        let reached = voters.iter().filter(|id| **id == self.node || self.host.links.contains(id)).count();
        reached > voters.len() / 2
    }

    /// The leader's word came, or another leader.
    pub(super) fn consider_leaving(&mut self, ctx: &mut Ctx<'_>) {
        match self.life.stage {
            Stage::Leaving if self.life.may_stop => {
                ctx.note(|| "may stop".to_owned());
                self.hand_over(ctx);
            }
            Stage::HandingOver if self.leadership.leader.is_some_and(|leader| leader != self.node) => self.drain(ctx),
            _ => {}
        }
    }

    pub(super) fn stage_expired(&mut self, ctx: &mut Ctx<'_>) {
        self.life.stage_alarm = None;
        match self.life.stage {
            Stage::Leaving => {
                ctx.note(|| "stops without the leader's permission".to_owned());
                self.hand_over(ctx);
            }
            Stage::HandingOver => self.drain(ctx),
            Stage::Draining => self.end(ctx),
            _ => {}
        }
    }

    fn hand_over(&mut self, ctx: &mut Ctx<'_>) {
        self.alarms.clear(&mut self.life.stage_alarm);
        self.life.stage = Stage::HandingOver;
        if self.leadership.leader != Some(self.node) {
            return self.drain(ctx);
        }
        self.life.stage_alarm = Some(self.alarms.set(self.after(HAND_OVER_MS), Alarm::Stage));
        self.tell_quorum(Input::Transfer(None, ()));
    }

    pub(super) fn on_transfer(&mut self, ctx: &mut Ctx<'_>, answer: Result<NodeId, TransferError>) {
        match answer {
            Ok(to) => ctx.note(|| format!("hands leadership of the quorum to b{to}")),
            Err(error) => {
                ctx.note(|| format!("keeps leadership of the quorum: {error}"));
                if self.life.stage == Stage::HandingOver {
                    self.drain(ctx);
                }
            }
        }
    }

    /// No new requests; those that wait may end.
    fn drain(&mut self, _ctx: &mut Ctx<'_>) {
        self.alarms.clear(&mut self.life.stage_alarm);
        self.life.stage = Stage::Draining;
        let limit = self.after(self.config.drain_timeout_ms);
        self.life.stage_alarm = Some(self.alarms.set(limit, Alarm::Stage));
    }

    /// After each event: whether nobody waits any more.
    pub(super) fn consider_end(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage == Stage::Draining && self.serving.is_idle() {
            self.end(ctx);
        }
    }

    fn end(&mut self, ctx: &mut Ctx<'_>) {
        let settled = self.settle_logs();
        let marked = settled.and_then(|()| self.replicas.log_dir().write_clean_shutdown(self.epoch));
        match marked {
            Ok(()) => {
                ctx.note(|| "stopped in order".to_owned());
                ctx.exit(0);
            }
            Err(error) => {
                ctx.note(|| format!("stopped, but not in order: {error}"));
                ctx.exit(EXIT_TEMPORARY);
            }
        }
    }
}
