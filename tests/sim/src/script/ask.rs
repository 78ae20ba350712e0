//! Commands of a script that ask brokers as a client does.

use chronik_model::batch::{BatchBuilder, BatchHeader, records};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, TopicName, TopicPartition};

use super::harness;
use super::stage::{Answer, Asked, Idempotent, Stage, Words, topic_partition};
use crate::kernel::{EPOCH_WALL_MS, Micros};
use crate::oracle::history::{Outcome, Sent, print_of};
use crate::proto::{Address, ClientReply, ClientRequest, FetchedData, Packet, Reply, Request};
use crate::runner::Failure;
use crate::survey;

/// The client that scripts speak through.
const SCRIPT: u32 = 1_000;
/// How long an answer may take when the command says nothing else.
const PATIENCE: Micros = 5_000_000;
/// How long something may take to come to pass.
pub(super) const LONG: Micros = 60_000_000;

/// What came back.
enum Heard {
    Reply(ClientReply),
    Refused,
    Nothing,
}

/// The records of whole batches: `0@1 a, 1@1 b`.
pub(super) fn describe(mut bytes: &[u8]) -> String {
    let mut found = Vec::new();
    while let Ok(header) = BatchHeader::decode(bytes) {
        let Some(batch) = bytes.get(..header.total_bytes) else { break };
        let body = &batch[chronik_model::batch::HEADER_BYTES..];
        for (number, record) in records(body, header.record_count).enumerate() {
            let value = record.ok().and_then(|record| record.value).unwrap_or_default();
            let offset = header.base_offset.0 + number as i64;
            found.push(format!("{offset}@{} {}", header.partition_leader_epoch, String::from_utf8_lossy(value)));
        }
        bytes = &bytes[header.total_bytes..];
    }
    if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
}

impl Stage {
    fn send(&mut self, node: NodeId, request: ClientRequest) -> u64 {
        self.next += 1;
        let packet = Packet::Request { id: self.next, body: Box::new(Request::Client(request)) };
        self.world.kernel.send(Address::Client(SCRIPT), Address::Broker(node), packet);
        self.next
    }

    fn hear(&mut self, request: u64, patience: Micros) -> Result<Heard, Failure> {
        let until = self.world.kernel.now + patience;
        loop {
            let answers = |packet: &Packet| match packet {
                Packet::Reply { id, .. } | Packet::Refused { id } => *id == request,
                _ => false,
            };
            if let Some(at) = self.world.letters.iter().position(|(_, packet)| answers(packet)) {
                return Ok(match self.world.letters.swap_remove(at).1 {
                    Packet::Reply { body, .. } => match *body {
                        Reply::Client(reply) => Heard::Reply(reply),
                        _ => Heard::Nothing,
                    },
                    _ => Heard::Refused,
                });
            }
            if !self.world.step(until).map_err(Failure::from)? {
                self.run(until.saturating_sub(self.world.kernel.now))?;
                return Ok(Heard::Nothing);
            }
        }
    }

    fn ask(&mut self, node: NodeId, request: ClientRequest, patience: Micros) -> Result<Heard, Failure> {
        let request = self.send(node, request);
        self.hear(request, patience)
    }

    /// Asks one broker after the other until it is done.
    fn administer(&mut self, request: &ClientRequest, done: &[ErrorCode]) -> Answer {
        let until = self.world.kernel.now + LONG;
        let mut last = "nobody answers".to_owned();
        while self.world.kernel.now < until {
            let nodes: Vec<NodeId> = self.world.hosts.keys().copied().collect();
            for node in nodes.into_iter().filter(|node| survey::up(&self.world, *node).is_some()).collect::<Vec<_>>() {
                if let Heard::Reply(ClientReply::Done(code)) = self.ask(node, request.clone(), PATIENCE)? {
                    if done.contains(&code) {
                        return Ok(Vec::new());
                    }
                    last = format!("{code:?}");
                }
            }
            self.run(100_000)?;
        }
        Ok(vec![format!("not done: {last}")])
    }

    pub(super) fn topic(&mut self, rest: &str) -> Answer {
        let mut words = Words::new(rest);
        let name = TopicName::from(words.at(0)?);
        let partitions = words.number("partitions", 1)?;
        let replication_factor = words.number("rf", 3)?;
        let mut configs = Vec::new();
        if let Some(min) = words.take("min-insync") {
            configs.push(("min.insync.replicas".to_owned(), min.to_owned()));
        }
        configs.extend(words.rest());
        let request = ClientRequest::CreateTopic { name: name.clone(), partitions, replication_factor, configs };
        let answer = self.administer(&request, &[ErrorCode::None, ErrorCode::TopicAlreadyExists])?;
        self.topics.push(name.clone());
        if !answer.is_empty() {
            return Ok(answer);
        }
        self.wait_for(LONG, |stage| {
            let found: Vec<_> = survey::partitions(&stage.world).into_iter().filter(|p| p.tp.topic == name).collect();
            if found.is_empty() || found.iter().any(|partition| stage.lagging(partition).is_some()) {
                return Some(format!("{name} is not everywhere"));
            }
            None
        })
    }

    /// Asks a broker for a linearizable read, and compares what it says with what was committed when it was asked.
    pub(super) fn read(&mut self, who: &str) -> Answer {
        let node = self.node(who)?;
        let all = self.world.hosts.keys().filter_map(|node| survey::up(&self.world, *node));
        let committed = all.map(|broker| broker.quorum_status().commit).max();
        Ok(vec![match self.ask(node, ClientRequest::ReadIndex, PATIENCE)? {
            Heard::Reply(ClientReply::ReadIndex(Some(index))) if Some(index) < committed => "stale".to_owned(),
            Heard::Reply(ClientReply::ReadIndex(Some(_))) => "fresh".to_owned(),
            Heard::Reply(_) => "it cannot say".to_owned(),
            _ => "no answer".to_owned(),
        }])
    }

    /// Asks one broker once, and tells the answer.
    pub(super) fn create(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let (node, name) = (self.node(words.at(0)?)?, TopicName::from(words.at(1)?));
        self.topics.push(name.clone());
        let request = ClientRequest::CreateTopic { name, partitions: 1, replication_factor: -1, configs: words.rest() };
        Ok(vec![match self.ask(node, request, LONG)? {
            Heard::Reply(ClientReply::Done(ErrorCode::None)) => "created".to_owned(),
            Heard::Reply(ClientReply::Done(code)) => format!("refused: {code:?}"),
            _ => "no answer".to_owned(),
        }])
    }

    pub(super) fn config(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let topic = TopicName::from(words.at(0)?);
        for (key, value) in words.rest() {
            let request = ClientRequest::AlterTopicConfig(topic.clone(), key, Some(value));
            let answer = self.administer(&request, &[ErrorCode::None])?;
            if !answer.is_empty() {
                return Ok(answer);
            }
        }
        Ok(Vec::new())
    }

    pub(super) fn delete_topic(&mut self, name: &str) -> Answer {
        let name = TopicName::from(name);
        self.topics.retain(|topic| *topic != name);
        self.world.oracle.history.delete_topic(&name, self.world.kernel.now);
        let done = [ErrorCode::None, ErrorCode::UnknownTopicOrPartition];
        self.administer(&ClientRequest::DeleteTopic(name), &done)
    }

    pub(super) fn producer(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let (name, node) = (words.at(0)?, self.node(words.at(1)?)?);
        match self.ask(node, ClientRequest::InitProducerId, LONG)? {
            Heard::Reply(ClientReply::ProducerId(Ok((id, epoch)))) => {
                self.producers.insert(name.to_owned(), Idempotent { id, epoch, next: 0 });
                Ok(Vec::new())
            }
            Heard::Reply(ClientReply::ProducerId(Err(code))) => Ok(vec![format!("refused: {code:?}")]),
            _ => Ok(vec!["no answer".to_owned()]),
        }
    }

    /// Sends a batch: the broker, the partition, options, the values.
    fn send_batch(&mut self, rest: &str) -> Result<(Asked, Micros), Failure> {
        let mut words = Words::new(rest);
        let (node, tp) = (self.node(words.at(0)?)?, topic_partition(words.at(1)?)?);
        let acks = match words.take("acks").unwrap_or("all") {
            "all" => -1,
            other => other.parse().map_err(|_| harness("acks=all, 1 or 0".to_owned()))?,
        };
        let timeout_ms = words.number("timeout-ms", 2_000)?;
        let producer = words.take("producer").map(str::to_owned);
        let sequence: Option<i32> = words.take("seq").and_then(|text| text.parse().ok());
        self.next += 1;
        // No two batches look alike: their times differ.
        let mut batch = BatchBuilder::new(EPOCH_WALL_MS + self.next as i64);
        let values: Vec<&str> = words.plain.drain(2..).collect();
        words.end()?;
        if values.is_empty() {
            return Err(harness("nothing to produce".to_owned()));
        }
        if let Some(name) = producer {
            let known = self.producers.get_mut(&name).ok_or_else(|| harness(format!("no producer {name}")))?;
            let first = sequence.unwrap_or(known.next);
            known.next = first + values.len() as i32;
            batch = batch.producer(ProducerId(known.id), ProducerEpoch(known.epoch), first);
        }
        values.iter().for_each(|value| batch.push(None, Some(value.as_bytes())));
        let batch = batch.build();
        let header = BatchHeader::decode(&batch).map_err(|error| harness(error.to_string()))?;
        let sent = self.world.oracle.history.send(Sent {
            client: SCRIPT,
            tp: tp.clone(),
            acks,
            first: self.next,
            count: values.len() as u32,
            print: print_of(&header),
            invoked: self.world.kernel.now,
            outcome: Outcome::Open,
            resolved: 0,
        });
        let request =
            self.send(node, ClientRequest::Produce { tp: tp.clone(), acks, timeout_ms, batch: batch.clone() });
        Ok((Asked { request, sent: Some(sent), batch, tp, acks }, timeout_ms * 1_000 + 1_000_000))
    }

    pub(super) fn produce(&mut self, rest: &str) -> Answer {
        let (asked, patience) = self.send_batch(rest)?;
        self.produced(&asked, patience)
    }

    fn produced(&mut self, asked: &Asked, patience: Micros) -> Answer {
        if asked.acks == 0 {
            self.run(100_000)?;
            return Ok(Vec::new());
        }
        let (text, outcome) = match self.hear(asked.request, patience)? {
            Heard::Reply(ClientReply::Produced { error: ErrorCode::None, base_offset }) => {
                (format!("acked at {base_offset}"), Outcome::Acked(Offset(base_offset)))
            }
            // It may have been written all the same.
            Heard::Reply(ClientReply::Produced { error, .. }) => (format!("refused: {error:?}"), Outcome::Unknown),
            Heard::Refused => ("nobody listens".to_owned(), Outcome::Unknown),
            _ => ("no answer".to_owned(), Outcome::Unknown),
        };
        let now = self.world.kernel.now;
        if let Some(sent) = asked.sent {
            let history = &mut self.world.oracle.history;
            let before = history.sent.get(sent).map(|sent| sent.outcome);
            if !matches!(before, Some(Outcome::Acked(_))) {
                history.resolve(sent, outcome, now);
            }
        }
        // The oracle hears of it with the next event.
        self.run(1_000)?;
        Ok(vec![text])
    }

    pub(super) fn start(&mut self, rest: &str) -> Answer {
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let rest = rest.strip_prefix("produce ").ok_or_else(|| harness("start NAME produce …".to_owned()))?;
        let (asked, _) = self.send_batch(rest)?;
        self.asked.insert(name.to_owned(), asked);
        Ok(Vec::new())
    }

    pub(super) fn result(&mut self, name: &str) -> Answer {
        let asked = self.asked.get(name).cloned().ok_or_else(|| harness(format!("{name} was not started")))?;
        self.produced(&asked, PATIENCE)
    }

    /// The same bytes once more, as a client that got no answer sends them.
    pub(super) fn again(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let (name, node) = (words.at(0)?, self.node(words.at(1)?)?);
        let mut asked = self.asked.get(name).cloned().ok_or_else(|| harness(format!("{name} was not started")))?;
        let (tp, batch) = (asked.tp.clone(), asked.batch.clone());
        asked.request = self.send(node, ClientRequest::Produce { tp, acks: asked.acks, timeout_ms: 2_000, batch });
        self.produced(&asked, PATIENCE)
    }

    pub(super) fn fetch(&mut self, rest: &str) -> Answer {
        let mut words = Words::new(rest);
        let (node, tp) = (self.node(words.at(0)?)?, topic_partition(words.at(1)?)?);
        let request = ClientRequest::Fetch {
            tp,
            current_leader_epoch: LeaderEpoch(words.number("epoch", -1)?),
            offset: Offset(words.number("from", 0)?),
            last_fetched_epoch: LeaderEpoch(words.number("last-epoch", -1)?),
            max_wait_ms: words.number("wait-ms", 0)?,
        };
        words.end()?;
        Ok(match self.ask(node, request, PATIENCE)? {
            Heard::Reply(ClientReply::Fetched(data)) => vec![self.fetched(&data)],
            Heard::Refused => vec!["nobody listens".to_owned()],
            _ => vec!["no answer".to_owned()],
        })
    }

    fn fetched(&self, data: &FetchedData) -> String {
        match (data.error, &data.diverging) {
            (ErrorCode::None, None) => format!("hw={}: {}", data.high_watermark, describe(&data.records)),
            (ErrorCode::None, Some(end)) => format!("diverges: epoch {} ends at {}", end.epoch, end.end_offset),
            (error, _) => format!("refused: {error:?}"),
        }
    }

    pub(super) fn list(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let (node, tp) = (self.node(words.at(0)?)?, topic_partition(words.at(1)?)?);
        let earliest = words.at(2)? == "earliest";
        Ok(match self.ask(node, ClientRequest::ListOffsets { tp, earliest }, PATIENCE)? {
            Heard::Reply(ClientReply::Offset(Ok(offset))) => vec![offset.to_string()],
            Heard::Reply(ClientReply::Offset(Err(error))) => vec![format!("refused: {error:?}")],
            _ => vec!["no answer".to_owned()],
        })
    }

    pub(super) fn committed(&self, word: &str) -> Result<survey::Surveyed, Failure> {
        let tp: TopicPartition = topic_partition(word)?;
        let mut all = survey::partitions(&self.world).into_iter();
        all.find(|partition| partition.tp == tp).ok_or_else(|| harness(format!("nobody knows {word}")))
    }
}
