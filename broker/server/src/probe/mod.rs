//! `chronik-broker probe`: writes records with `acks=all`, reads them back and compares, as any Kafka client would.
//!
//! Called by `main`, by `helm test` and by people who want to know whether a cluster works from where they stand. It makes a
//! topic of its own with one partition for each broker, so that every broker leads and is connected to at the address that
//! clients are told, and deletes the topic again, also when something failed. It never touches another topic.
//!
//! What may pass (no leader yet, a broker that restarts) is tried again until the deadline; a record that comes back
//! different is the end at once.

mod link;
mod plan;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chronik_model::ErrorCode;
use chronik_wire::messages as m;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use link::{Link, LinkError};
use plan::{Mismatch, batch, compare, values};

/// Exit code when the cluster cannot be reached or does not answer in time (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
const PAUSE: Duration = Duration::from_millis(250);
/// One request, its way there and back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Cleaning up after a failure does not take longer than this.
const CLEAN_UP: Duration = Duration::from_secs(5);
const METADATA: i16 = 12;
const CREATE_TOPICS: i16 = 6;
const DELETE_TOPICS: i16 = 5;
const PRODUCE: i16 = 11;
const FETCH: i16 = 12;

/// What the command line says.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Kafka addresses to begin with, joined by commas
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: String,
    /// Records to write to each partition
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub records: u32,
    /// Seconds until the cluster must have answered
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("no answer from {0}: {1}")]
    Link(String, LinkError),
    #[error("{what}: {code:?} ({})", code.text())]
    Refused { what: String, code: ErrorCode },
    #[error("{0}")]
    NotYet(String),
    #[error("partition {partition} gave back other records than were acknowledged: {mismatch}")]
    Different { partition: i32, mismatch: Mismatch },
}

impl ProbeError {
    /// Whether asking again may help.
    fn passes(&self) -> bool {
        !matches!(self, Self::Different { .. })
    }
}

/// Runs the probe and says what came out. Exit code 0 when all records came back, 1 when others did, 69 when the cluster did
/// not answer in time.
pub async fn run(options: &Options) -> ExitCode {
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs(options.timeout);
    let topic = format!("chronik-probe-{}", uuid::Uuid::new_v4().simple());
    let mut probe = Probe { bootstrap: &options.bootstrap, topic: &topic, created: false, last: None };
    let outcome = timeout_at(deadline, probe.until_done(options.records)).await;
    let (created, last) = (probe.created, probe.last.take());
    if created && let Err(error) = timeout(CLEAN_UP, probe.delete()).await.unwrap_or(Ok(())) {
        eprintln!("the topic {topic} could not be deleted: {error}");
    }
    match outcome {
        Ok(Ok(report)) => {
            print!("{report}");
            println!("ok after {} ms", begin.elapsed().as_millis());
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("chronik-broker: {error}");
            ExitCode::from(1)
        }
        Err(_) => {
            let reason = last.map_or_else(|| "no answer yet".to_owned(), |error| error.to_string());
            eprintln!("chronik-broker: not done after {} s: {reason}", options.timeout);
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

struct Probe<'a> {
    bootstrap: &'a str,
    topic: &'a str,
    created: bool,
    /// Why the latest attempt failed.
    last: Option<ProbeError>,
}

/// Where the cluster's brokers are, and who leads the topic's partitions.
struct Layout {
    brokers: Vec<(i32, String)>,
    leaders: Vec<i32>,
}

impl Layout {
    fn address(&self, broker: i32) -> Option<&str> {
        self.brokers.iter().find(|(id, _)| *id == broker).map(|(_, address)| address.as_str())
    }
}

impl Probe<'_> {
    async fn until_done(&mut self, records: u32) -> Result<String, ProbeError> {
        loop {
            match self.attempt(records).await {
                Err(error) if error.passes() => self.last = Some(error),
                done => return done,
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self, records: u32) -> Result<String, ProbeError> {
        let mut link = self.any_broker().await?;
        if !self.created {
            self.create(&mut link).await?;
        }
        let layout = self.layout(&mut link, true).await?;
        let mut report = String::new();
        for (partition, leader) in (0..).zip(&layout.leaders) {
            let address = layout.address(*leader).ok_or_else(|| {
                ProbeError::NotYet(format!("partition {partition} of {} has no leader yet", self.topic))
            })?;
            let begin = Instant::now();
            let offset = self.write_and_read(address, partition, records).await?;
            // Writing into a String cannot fail.
            let _ = writeln!(
                report,
                "broker {leader} at {address}: {records} records written with acks=all and read back from offset {offset}, {} ms",
                begin.elapsed().as_millis()
            );
        }
        Ok(report)
    }

    /// The first bootstrap address that answers.
    async fn any_broker(&self) -> Result<Link, ProbeError> {
        let mut failed = ProbeError::NotYet("no bootstrap address was given".to_owned());
        for address in self.bootstrap.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            match connect(address).await {
                Ok(link) => return Ok(link),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn create(&mut self, link: &mut Link) -> Result<(), ProbeError> {
        let brokers = self.layout(link, false).await?.brokers.len();
        let request = m::create_topics::CreateTopicsRequest {
            topics: vec![m::create_topics::CreatableTopic {
                name: self.topic.into(),
                num_partitions: i32::try_from(brokers.clamp(1, 100)).unwrap_or(1),
                replication_factor: -1,
                ..Default::default()
            }],
            timeout_ms: 5_000,
            ..Default::default()
        };
        // From here on it may exist, whatever is answered.
        self.created = true;
        let response = call(link, CREATE_TOPICS, &request).await?;
        let code = response.topics.first().map_or(ErrorCode::UnknownServerError, |t| code_of(t.error_code));
        if code != ErrorCode::None && code != ErrorCode::TopicAlreadyExists {
            self.created = false;
            return Err(ProbeError::Refused { what: format!("creating the topic {}", self.topic), code });
        }
        Ok(())
    }

    /// The brokers, and with `topic` the leaders of its partitions.
    async fn layout(&self, link: &mut Link, topic: bool) -> Result<Layout, ProbeError> {
        let asked = m::metadata::MetadataRequestTopic { name: Some(self.topic.into()), ..Default::default() };
        let request = m::metadata::MetadataRequest {
            topics: Some(if topic { vec![asked] } else { Vec::new() }),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = call(link, METADATA, &request).await?;
        let mut leaders = Vec::new();
        for found in &response.topics {
            let code = code_of(found.error_code);
            if code != ErrorCode::None {
                return Err(ProbeError::Refused { what: format!("looking up the topic {}", self.topic), code });
            }
            let mut partitions: Vec<_> = found.partitions.iter().collect();
            partitions.sort_by_key(|p| p.partition_index);
            leaders.extend(partitions.iter().map(|p| p.leader_id));
        }
        if topic && leaders.is_empty() {
            return Err(ProbeError::NotYet(format!("the topic {} has no partitions yet", self.topic)));
        }
        let brokers = response.brokers.iter().map(|b| (b.node_id, address_of(&b.host, b.port))).collect();
        Ok(Layout { brokers, leaders })
    }

    /// Answers the offset of the first record.
    async fn write_and_read(&self, address: &str, partition: i32, records: u32) -> Result<i64, ProbeError> {
        let mut link = connect(address).await?;
        let values = values(self.topic, partition, records);
        let request = m::produce::ProduceRequest {
            acks: -1,
            timeout_ms: 5_000,
            topic_data: vec![m::produce::TopicProduceData {
                name: self.topic.into(),
                partition_data: vec![m::produce::PartitionProduceData {
                    index: partition,
                    records: Some(batch(crate::replication::wall_ms(), &values)),
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = call(&mut link, PRODUCE, &request).await?;
        let answer = response.responses.first().and_then(|t| t.partition_responses.first());
        let code = answer.map_or(ErrorCode::UnknownServerError, |a| code_of(a.error_code));
        let (Some(answer), ErrorCode::None) = (answer, code) else {
            return Err(ProbeError::Refused { what: format!("writing to partition {partition} at {address}"), code });
        };
        let offset = answer.base_offset;
        let fetched = self.read(&mut link, address, partition, offset).await?;
        match compare(&fetched, offset, &values) {
            Ok(()) => Ok(offset),
            Err(mismatch) => Err(ProbeError::Different { partition, mismatch }),
        }
    }

    async fn read(
        &self,
        link: &mut Link,
        address: &str,
        partition: i32,
        offset: i64,
    ) -> Result<bytes::Bytes, ProbeError> {
        let request = m::fetch::FetchRequest {
            max_wait_ms: 2_000,
            min_bytes: 1,
            max_bytes: 16 << 20,
            topics: vec![m::fetch::FetchTopic {
                topic: self.topic.into(),
                partitions: vec![m::fetch::FetchPartition {
                    partition,
                    fetch_offset: offset,
                    partition_max_bytes: 16 << 20,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut response = call(link, FETCH, &request).await?;
        let what = || format!("reading partition {partition} at {address}");
        let whole = code_of(response.error_code);
        if whole != ErrorCode::None {
            return Err(ProbeError::Refused { what: what(), code: whole });
        }
        let data = response.responses.pop().and_then(|mut t| t.partitions.pop());
        let code = data.as_ref().map_or(ErrorCode::UnknownServerError, |d| code_of(d.error_code));
        match (data.and_then(|d| d.records), code) {
            (Some(records), ErrorCode::None) if !records.is_empty() => Ok(records),
            (_, ErrorCode::None) => Err(ProbeError::NotYet(format!("{}: no records yet", what()))),
            (_, code) => Err(ProbeError::Refused { what: what(), code }),
        }
    }

    async fn delete(&self) -> Result<(), ProbeError> {
        let mut link = self.any_broker().await?;
        let request = m::delete_topics::DeleteTopicsRequest {
            topic_names: vec![self.topic.into()],
            timeout_ms: 5_000,
            ..Default::default()
        };
        let response = call(&mut link, DELETE_TOPICS, &request).await?;
        match response.responses.first().map_or(ErrorCode::UnknownServerError, |t| code_of(t.error_code)) {
            ErrorCode::None | ErrorCode::UnknownTopicOrPartition => Ok(()),
            code => Err(ProbeError::Refused { what: format!("deleting the topic {}", self.topic), code }),
        }
    }
}

async fn connect(address: &str) -> Result<Link, ProbeError> {
    let connecting = timeout(PATIENCE, Link::connect(address));
    let link = connecting.await.unwrap_or_else(|_| Err(LinkError::Io(std::io::ErrorKind::TimedOut.into())));
    link.map_err(|error| ProbeError::Link(address.to_owned(), error))
}

async fn call<R: chronik_wire::Request>(link: &mut Link, version: i16, request: &R) -> Result<R::Response, ProbeError> {
    let answer = timeout(PATIENCE, link.call(version, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(LinkError::Io(std::io::ErrorKind::TimedOut.into())));
    answer.map_err(|error| ProbeError::Link(format!("{} ({})", link.address(), R::NAME), error))
}

fn code_of(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)
}

/// `host:port`, with brackets around an IPv6 address.
fn address_of(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
