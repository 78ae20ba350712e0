//! An admin: makes topics, deletes and makes them again, changes settings. One request at a time.

use std::collections::{BTreeSet, VecDeque};

use chronik_model::{ErrorCode, NodeId, TopicName};

use super::conn::{Conn, Heard, Outcome, ROLE};
use super::{AdminConfig, TopicSpec};
use crate::kernel::{Ctx, Timer};
use crate::oracle::history::History;
use crate::proto::{ClientReply, ClientRequest, Packet};

/// Take something up.
const ACT: u16 = ROLE;
/// Try what failed again.
const AGAIN: u16 = ROLE + 1;
const TIMEOUT_MS: u64 = 5_000;
/// Tries of one change, the first topics apart.
const MOST_TRIES: u32 = 20;

#[derive(Clone, Debug)]
enum Task {
    Create(TopicSpec, bool),
    Delete(TopicName),
    Alter(TopicName, &'static str, Option<String>),
}

#[derive(Debug)]
pub(super) struct Admin {
    config: AdminConfig,
    pub(super) conn: Conn<()>,
    tasks: VecDeque<Task>,
    tries: u32,
    busy: bool,
    present: BTreeSet<TopicName>,
    ready: bool,
    stopped: bool,
}

impl Admin {
    pub(super) fn new(config: AdminConfig, id: u32, brokers: &[NodeId]) -> Self {
        let tasks: VecDeque<Task> = config.create.iter().map(|spec| Task::Create(spec.clone(), true)).collect();
        let ready = tasks.is_empty();
        Self {
            config,
            conn: Conn::new(id, brokers),
            tasks,
            tries: 0,
            busy: false,
            present: BTreeSet::new(),
            ready,
            stopped: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stopped && !self.busy
    }

    pub(super) fn describe(&self) -> String {
        format!("admin c{} {:?} try {}", self.conn.id(), self.tasks.front(), self.tries)
    }

    pub(super) fn on_packet(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, packet: Packet, history: &mut History) {
        if let Heard::End((), _, end) = self.conn.on_packet(ctx, packet) {
            self.on_end(ctx, &end, history);
        }
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer, history: &mut History) {
        match timer.kind {
            ACT => {
                self.think(ctx);
                self.act_later(ctx);
                self.work(ctx, history);
            }
            AGAIN => self.work(ctx, history),
            0 => {
                // Admins need no metadata.
                self.act_later(ctx);
                self.work(ctx, history);
            }
            _ => {
                if let Heard::End((), _, end) = self.conn.on_timer(ctx, timer) {
                    self.on_end(ctx, &end, history);
                }
            }
        }
    }

    fn act_later(&mut self, ctx: &mut Ctx<'_>) {
        let every = self.config.every_ms;
        if every > 0 && !self.stopped {
            let wait = every / 2 + ctx.kernel.streams.workload.below(every) + 1;
            ctx.timer(wait, Timer { kind: ACT, key: 0 });
        }
    }

    /// Takes something new up.
    fn think(&mut self, ctx: &mut Ctx<'_>) {
        if self.stopped || !self.ready || !self.tasks.is_empty() {
            return;
        }
        let random = &mut ctx.kernel.streams.workload;
        let mut pick = |count: usize| random.below(count.max(1) as u64) as usize;
        let churn = !self.config.churn.is_empty() && (pick(2) == 0 || self.config.create.is_empty());
        if churn {
            let spec = self.config.churn[pick(self.config.churn.len())].clone();
            let task = match self.present.contains(&spec.name) {
                true => Task::Delete(spec.name),
                false => Task::Create(spec, false),
            };
            self.tasks.push_back(task);
        } else if !self.config.create.is_empty() {
            let name = self.config.create[pick(self.config.create.len())].name.clone();
            if !self.config.min_isr.is_empty() && pick(2) == 0 {
                let value = self.config.min_isr[pick(self.config.min_isr.len())];
                self.tasks.push_back(Task::Alter(name, "min.insync.replicas", Some(value.to_string())));
            } else if self.config.segments {
                let value = [None, Some("4096"), Some("16384")][pick(3)];
                self.tasks.push_back(Task::Alter(name, "segment.bytes", value.map(ToOwned::to_owned)));
            }
        }
    }

    fn work(&mut self, ctx: &mut Ctx<'_>, history: &mut History) {
        if self.busy || self.stopped {
            return;
        }
        let Some(task) = self.tasks.front().cloned() else { return };
        let body = match task {
            Task::Create(spec, _) => ClientRequest::CreateTopic {
                name: spec.name,
                partitions: spec.partitions,
                replication_factor: spec.replication_factor,
                configs: spec.configs,
            },
            Task::Delete(name) => {
                history.delete_topic(&name, ctx.kernel.now);
                ClientRequest::DeleteTopic(name)
            }
            Task::Alter(name, key, value) => ClientRequest::AlterTopicConfig(name, key.to_owned(), value),
        };
        self.busy = true;
        self.tries += 1;
        let broker = self.conn.any_broker(ctx);
        self.conn.ask(ctx, broker, body, TIMEOUT_MS, ());
    }

    fn on_end(&mut self, ctx: &mut Ctx<'_>, end: &Outcome, history: &mut History) {
        self.busy = false;
        let Some(task) = self.tasks.front().cloned() else { return };
        let error = match end {
            Outcome::Reply(ClientReply::Done(error)) => *error,
            Outcome::Reply(_) | Outcome::Refused => ErrorCode::BrokerNotAvailable,
            Outcome::TimedOut => ErrorCode::RequestTimedOut,
        };
        let needed = matches!(task, Task::Create(_, true));
        let done = match (&task, error) {
            (_, ErrorCode::None)
            | (Task::Create(..), ErrorCode::TopicAlreadyExists)
            | (Task::Delete(_), ErrorCode::UnknownTopicOrPartition) => true,
            (_, ErrorCode::InvalidConfig | ErrorCode::InvalidRequest | ErrorCode::PolicyViolation) => !needed,
            _ => !needed && self.tries >= MOST_TRIES,
        };
        if !done {
            let wait = 100 + ctx.kernel.streams.workload.below(300);
            return ctx.timer(wait, Timer { kind: AGAIN, key: 0 });
        }
        ctx.note(|| format!("{task:?}: {error:?}"));
        match task {
            Task::Create(spec, _) => {
                self.present.insert(spec.name);
            }
            Task::Delete(name) => {
                self.present.remove(&name);
            }
            Task::Alter(..) => {}
        }
        self.tasks.pop_front();
        self.tries = 0;
        self.ready |= !self.tasks.iter().any(|task| matches!(task, Task::Create(_, true)));
        self.work(ctx, history);
    }
}
