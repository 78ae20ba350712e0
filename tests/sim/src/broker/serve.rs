//! Requests of clients: the twin of the server's `api`. Each is answered at once, or when what it waits for came to pass.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_core::controller::{
    AllocateProducerIds, AlterConfigs, Command, CommandResult, ConfigChange, ConfigOp, ConfigResource, CreateTopic,
    DeleteTopic, SetBrokerRack,
};
use chronik_core::group::partition_for;
use chronik_log::{AppendOrigin, split_batches};
use chronik_model::batch::BatchHeader;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName, TopicPartition};
use chronik_node::partition::Append;
use chronik_node::quorum::Input;
use chronik_node::settings::OFFSETS_TOPIC;

use super::alarms::{Alarm, AlarmId};
use super::fetch::Parked;
use super::meta::{NoResult, Purpose};
use super::waiters::{Asker, Woken};
use super::{Broker, Key};
use crate::kernel::Ctx;
use crate::proto::{Address, ClientReply, ClientRequest, MetadataView, PartitionView, TopicView};

/// How long administrative requests wait for the quorum.
const ADMIN_MS: u64 = 10_000;
/// How long the topic of groups may take to be made.
const OFFSETS_TOPIC_MS: u64 = 5_000;
/// How long a block of producer ids may take.
const PRODUCER_IDS_MS: u64 = 10_000;

/// What a client waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// That it is done.
    Done,
    /// The coordinator of this group, once the topic of groups exists.
    Coordinator(String),
    /// That this is done, once the metadata version allows it.
    Then(Box<Command>),
}

/// A produce that waits for its acknowledgement.
#[derive(Debug)]
struct PendingProduce {
    from: Address,
    request: u64,
    base_offset: Offset,
    alarm: AlarmId,
}

/// Requests that wait.
#[derive(Debug, Default)]
pub(super) struct Serving {
    pub(super) last: u64,
    produces: BTreeMap<u64, PendingProduce>,
    pub(super) parked: BTreeMap<u64, Parked>,
    /// The parked fetch of each follower.
    pub(super) parked_of: BTreeMap<Address, u64>,
    /// The block that producer ids are taken from: next and end.
    ids: (i64, i64),
    /// Who waits for the next block.
    ids_wanted: VecDeque<(Address, u64)>,
    /// The block was asked for.
    ids_asked: bool,
}

impl Serving {
    /// Nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.produces.is_empty() && self.parked.is_empty()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.produces.len() + self.parked.len() + self.ids_wanted.len()
    }
}

/// Kafka's code for a proposal that came to nothing.
fn code_of(result: Result<CommandResult, NoResult>) -> Result<CommandResult, ErrorCode> {
    match result {
        Ok(result) => result.ok().map_err(|error| error.code),
        Err(NoResult::TimedOut) => Err(ErrorCode::RequestTimedOut),
        // Another broker can serve the retry.
        Err(NoResult::Stopped) => Err(ErrorCode::NotController),
        Err(NoResult::Refused(_)) => Err(ErrorCode::InvalidRequest),
    }
}

impl Broker {
    pub(super) fn serve_client(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, request: ClientRequest) {
        match request {
            ClientRequest::Metadata => {
                let view = self.metadata_view();
                self.reply_client(ctx, from, id, ClientReply::Metadata(view));
            }
            ClientRequest::CreateTopic { name, partitions, replication_factor, configs } => {
                let configs = configs.into_iter().collect();
                let topic_id = ctx.uuid();
                let assignments = Vec::new();
                let command = CreateTopic { name, topic_id, partitions, replication_factor, assignments, configs };
                self.propose(ctx, command, ADMIN_MS, Purpose::Client(from, id, Wish::Done));
            }
            ClientRequest::DeleteTopic(name) => {
                let known = self.state.read().topic(name.as_str()).map(|topic| topic.id);
                match known {
                    Some(topic_id) => {
                        let wish = Purpose::Client(from, id, Wish::Done);
                        self.propose(ctx, DeleteTopic { topic_id }, ADMIN_MS, wish);
                    }
                    None => self.reply_client(ctx, from, id, ClientReply::Done(ErrorCode::UnknownTopicOrPartition)),
                }
            }
            ClientRequest::AlterTopicConfig(topic, name, value) => {
                let op = if value.is_some() { ConfigOp::Set } else { ConfigOp::Delete };
                let changes = vec![ConfigChange { name, op, value }];
                let command = AlterConfigs { resource: ConfigResource::Topic(topic), changes, replace: false };
                self.propose(ctx, command, ADMIN_MS, Purpose::Client(from, id, Wish::Done));
            }
            ClientRequest::AssignRack(node, rack) => self.run(ctx, from, id, SetBrokerRack { node, rack }.into()),
            ClientRequest::ReadIndex => self.tell_quorum(Input::ReadIndex((from, id))),
            ClientRequest::InitProducerId => {
                self.serving.ids_wanted.push_back((from, id));
                self.hand_out_ids(ctx);
            }
            ClientRequest::Produce { tp, acks, timeout_ms, batch } => {
                self.produce(ctx, from, id, &tp, acks, timeout_ms, &batch);
            }
            ClientRequest::Fetch { tp, current_leader_epoch, offset, last_fetched_epoch, max_wait_ms } => {
                let epochs = (current_leader_epoch, last_fetched_epoch);
                self.serve_consumer(ctx, from, id, tp, epochs.0, offset, epochs.1, max_wait_ms);
            }
            ClientRequest::ListOffsets { tp, earliest } => {
                let offset = self.hosted(&tp).and_then(|key| self.list_offset(key, earliest));
                self.reply_client(ctx, from, id, ClientReply::Offset(offset));
            }
            ClientRequest::FindCoordinator(group) => self.find_coordinator(ctx, from, id, group),
            other => self.serve_group(ctx, from, id, other),
        }
    }

    /// Where a command needs a newer metadata version than is in force, that is proposed first.
    fn run(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, command: Command) {
        let members = self.quorum.replica().membership().members();
        let raise = self.state.read().raise_for(&command, &members);
        match raise {
            Ok(None) => self.propose(ctx, command, ADMIN_MS, Purpose::Client(from, id, Wish::Done)),
            Ok(Some(raise)) => {
                let wish = Wish::Then(Box::new(command));
                self.propose(ctx, raise, ADMIN_MS, Purpose::Client(from, id, wish));
            }
            Err(error) => self.reply_client(ctx, from, id, ClientReply::Done(error.code)),
        }
    }

    fn metadata_view(&self) -> MetadataView {
        let state = self.state.read();
        let topics = state.topics().map(|topic| TopicView {
            name: topic.name.clone(),
            id: topic.id,
            partitions: topic
                .iter()
                .map(|(_, partition)| PartitionView {
                    leader: partition.leader,
                    leader_epoch: partition.leader_epoch,
                    isr: partition.isr.clone(),
                })
                .collect(),
        });
        MetadataView { topics: topics.collect(), brokers: state.alive_brokers().map(|broker| broker.node).collect() }
    }

    /// The hosted partition of this name, or why it is not here.
    pub(super) fn hosted(&self, tp: &TopicPartition) -> Result<Key, ErrorCode> {
        match self.replicas.by_name.get(tp) {
            Some(key) => Ok(*key),
            None if self.state.read().partition(tp).is_some() => Err(ErrorCode::NotLeaderOrFollower),
            None => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }

    fn list_offset(&self, key: Key, earliest: bool) -> Result<Offset, ErrorCode> {
        let partition = self.replicas.by_id.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let none = LeaderEpoch::NONE;
        let found = if earliest { partition.earliest(none) } else { partition.latest(none) };
        found.map(|found| Offset(found.offset))
    }

    /// Earliest and latest, for a follower that is out of range.
    pub(super) fn leader_offsets(&self, key: Key, epoch: LeaderEpoch) -> Result<(Offset, Offset), ErrorCode> {
        let partition = self.replicas.by_id.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        Ok((Offset(partition.earliest(epoch)?.offset), Offset(partition.end(epoch)?.offset)))
    }

    // Produce.

    #[allow(clippy::too_many_arguments, reason = "the fields of a produce")]
    fn produce(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: Address,
        id: u64,
        tp: &TopicPartition,
        acks: i16,
        timeout_ms: u64,
        batch: &Bytes,
    ) {
        self.serving.last += 1;
        let number = self.serving.last;
        let deadline_ms = self.after(timeout_ms);
        let done = self.append(ctx, tp, acks, batch, number, deadline_ms);
        // There is no answer to put an error of acks=0 into; production closes the connection then.
        let (error, base_offset) = match done {
            Ok((base_offset, true)) => {
                let alarm = self.alarms.set(deadline_ms, Alarm::Produce(number));
                self.serving.produces.insert(number, PendingProduce { from, request: id, base_offset, alarm });
                return;
            }
            Ok((base_offset, false)) => (ErrorCode::None, base_offset.0),
            Err(error) => (error, -1),
        };
        if acks != 0 {
            self.reply_client(ctx, from, id, ClientReply::Produced { error, base_offset });
        }
    }

    fn append(
        &mut self,
        ctx: &mut Ctx<'_>,
        tp: &TopicPartition,
        acks: i16,
        records: &Bytes,
        number: u64,
        deadline_ms: u64,
    ) -> Result<(Offset, bool), ErrorCode> {
        if !(-1..=1).contains(&acks) {
            return Err(ErrorCode::InvalidRequiredAcks);
        }
        if tp.topic.as_str() == OFFSETS_TOPIC {
            return Err(ErrorCode::InvalidTopicException);
        }
        let key = self.hosted(tp)?;
        let batches = split_batches(records).map_err(|error| error.code())?;
        if batches.len() != 1 {
            return Err(ErrorCode::InvalidRecord);
        }
        let header = BatchHeader::decode(&batches[0]).map_err(|_| ErrorCode::CorruptMessage)?;
        if header.is_transactional() {
            return Err(ErrorCode::InvalidTxnState);
        }
        let woken = self.replicas.woken.clone();
        let partition = self.replicas.by_id.get_mut(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let request = Append { batches: &batches, acks, origin: AppendOrigin::Client, only_epoch: None };
        let ticket = |required| (acks != 0).then(|| (deadline_ms, woken.ticket(required, Asker::Produce(number))));
        let mut out = Vec::new();
        let appended = partition.append(&request, ticket, self.now, &mut out);
        self.may_have_appended(key);
        self.deliver(ctx, key, out);
        match appended {
            Ok(outcome) => Ok((outcome.base_offset, outcome.waits)),
            Err((code, _)) => Err(code),
        }
    }

    pub(super) fn on_woken(&mut self, ctx: &mut Ctx<'_>, woken: Woken) {
        match woken {
            Woken::Fetch(number) => self.look_again(ctx, number, false),
            Woken::Produce(number, error) => self.produce_ended(ctx, number, error),
            Woken::Group(partition, epoch, number, error) => {
                self.group_append_ended(ctx, partition, epoch, number, error)
            }
            Woken::Loaded(partition, epoch, error) => self.groups_loaded(ctx, partition, epoch, error),
        }
    }

    pub(super) fn produce_expired(&mut self, ctx: &mut Ctx<'_>, number: u64) {
        self.produce_ended(ctx, number, ErrorCode::RequestTimedOut);
    }

    fn produce_ended(&mut self, ctx: &mut Ctx<'_>, number: u64, error: ErrorCode) {
        let Some(produce) = self.serving.produces.remove(&number) else { return };
        self.alarms.cancel(produce.alarm);
        let base_offset = if error.is_none() { produce.base_offset.0 } else { -1 };
        self.reply_client(ctx, produce.from, produce.request, ClientReply::Produced { error, base_offset });
    }

    // What goes through the quorum.

    pub(super) fn wish_settled(
        &mut self,
        ctx: &mut Ctx<'_>,
        to: Address,
        id: u64,
        wish: Wish,
        result: Result<CommandResult, NoResult>,
    ) {
        let result = code_of(result);
        match wish {
            Wish::Done => {
                let code = result.err().unwrap_or(ErrorCode::None);
                self.reply_client(ctx, to, id, ClientReply::Done(code));
            }
            Wish::Then(command) => match result {
                Ok(_) => self.propose(ctx, *command, ADMIN_MS, Purpose::Client(to, id, Wish::Done)),
                Err(code) => self.reply_client(ctx, to, id, ClientReply::Done(code)),
            },
            Wish::Coordinator(group) => {
                let made = matches!(result, Ok(_) | Err(ErrorCode::TopicAlreadyExists));
                let found = if made { self.coordinator_of(&group) } else { Err(ErrorCode::CoordinatorNotAvailable) };
                self.reply_client(ctx, to, id, ClientReply::Coordinator(found));
            }
        }
    }

    fn coordinator_of(&self, group: &str) -> Result<chronik_model::NodeId, ErrorCode> {
        let state = self.state.read();
        let topic = state.topic(OFFSETS_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(0);
        let index = partition_for(group, count).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let leader = state.leader(&TopicPartition::new(OFFSETS_TOPIC, PartitionIndex(index)));
        leader.map(|broker| broker.node).ok_or(ErrorCode::CoordinatorNotAvailable)
    }

    fn find_coordinator(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, group: String) {
        let exists = self.state.read().topic(OFFSETS_TOPIC).is_some();
        if exists {
            let found = self.coordinator_of(&group);
            return self.reply_client(ctx, from, id, ClientReply::Coordinator(found));
        }
        let configs = [("cleanup.policy", "compact"), ("compression.type", "producer")];
        let command = CreateTopic {
            name: TopicName::from(OFFSETS_TOPIC),
            topic_id: ctx.uuid(),
            partitions: self.config.offsets_partitions,
            replication_factor: self.config.offsets_replication_factor,
            assignments: Vec::new(),
            configs: configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        self.propose(ctx, command, OFFSETS_TOPIC_MS, Purpose::Client(from, id, Wish::Coordinator(group)));
    }

    /// Hands out producer ids to those who wait, and asks for a block when there are none left.
    fn hand_out_ids(&mut self, ctx: &mut Ctx<'_>) {
        while self.serving.ids.0 < self.serving.ids.1 {
            let Some((to, id)) = self.serving.ids_wanted.pop_front() else { return };
            let producer_id = self.serving.ids.0;
            self.serving.ids.0 += 1;
            self.reply_client(ctx, to, id, ClientReply::ProducerId(Ok((producer_id, 0))));
        }
        // The first of those who wait asks; the others find what it got.
        if !self.serving.ids_wanted.is_empty() && !self.serving.ids_asked {
            self.ask_for_ids(ctx);
        }
    }

    fn ask_for_ids(&mut self, ctx: &mut Ctx<'_>) {
        self.serving.ids_asked = true;
        let command = Command::from(AllocateProducerIds { node: self.node, broker_epoch: self.epoch });
        self.propose(ctx, command, PRODUCER_IDS_MS, Purpose::ProducerIds);
    }

    pub(super) fn on_producer_ids(&mut self, ctx: &mut Ctx<'_>, result: Result<CommandResult, NoResult>) {
        self.serving.ids_asked = false;
        match code_of(result) {
            Ok(CommandResult::ProducerIds { first, count }) => {
                self.serving.ids = (first, first + count);
                self.hand_out_ids(ctx);
            }
            refused => {
                // Clients retry on this one; the state of this broker's own registration is none of their business.
                let error = match refused {
                    Err(
                        ErrorCode::RequestTimedOut
                        | ErrorCode::NotController
                        | ErrorCode::StaleBrokerEpoch
                        | ErrorCode::BrokerIdNotRegistered,
                    ) => ErrorCode::CoordinatorLoadInProgress,
                    Err(code) => code,
                    Ok(_) => ErrorCode::UnknownServerError,
                };
                if let Some((to, id)) = self.serving.ids_wanted.pop_front() {
                    self.reply_client(ctx, to, id, ClientReply::ProducerId(Err(error)));
                }
                if !self.serving.ids_wanted.is_empty() {
                    self.ask_for_ids(ctx);
                }
            }
        }
    }
}
