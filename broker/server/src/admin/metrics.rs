//! `/metrics`: the same facts as `/status`, as OpenMetrics. Counters are kept by their owners and summed at scrape time.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::status::Status;

/// What a scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The status.
    pub status: Status,
    /// Per Kafka API: name, requests answered.
    pub requests: Vec<(&'static str, u64)>,
}

/// Encodes a scrape.
#[must_use]
pub fn encode(sample: &Sample) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(sample.clone())));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode_text(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape(Sample);

/// Labels as name-value pairs.
#[derive(Clone, Debug)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel as _;
        for (name, value) in &self.0 {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn family(&mut self, kind: MetricType, name: &str, help: &str, values: Vec<(Labels, f64)>) -> fmt::Result {
        let is_counter = matches!(kind, MetricType::Counter);
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let mut one = family.encode_family(&labels)?;
            if is_counter {
                one.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            } else {
                one.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn one(name: &'static str, value: &impl ToString) -> Labels {
    Labels(vec![(name, value.to_string())])
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        raft(&mut out, &self.0.status)?;
        peers(&mut out, &self.0.status)?;
        data(&mut out, &self.0.status)?;
        let answered = self.0.requests.iter().map(|(api, n)| (one("api", api), *n as f64)).collect();
        out.family(MetricType::Counter, "chronik_kafka_requests", "Requests answered", answered)?;
        let process = &self.0.status.process;
        out.counter("chronik_process_cpu_seconds", "CPU time used", process.cpu_seconds)?;
        out.gauge("chronik_process_resident_memory_bytes", "Resident memory", process.rss_bytes as f64)?;
        out.gauge("chronik_process_open_fds", "Open file descriptors", process.open_fds as f64)
    }
}

fn raft(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let raft = &status.raft;
    let gauges: [(&str, &str, f64); 12] = [
        ("chronik_broker_ready", "Whether clients can be served", f64::from(u8::from(status.state == "ready"))),
        ("chronik_raft_is_leader", "Whether this broker leads the quorum", f64::from(u8::from(raft.role == "leader"))),
        ("chronik_raft_leader_id", "Leader this broker follows, 0 when none", f64::from(raft.leader.unwrap_or(0))),
        ("chronik_raft_failed", "Whether the replica has stopped", f64::from(u8::from(raft.failure.is_some()))),
        ("chronik_raft_term", "Current term", raft.term as f64),
        ("chronik_raft_commit_index", "Highest committed index", raft.commit as f64),
        ("chronik_raft_applied_index", "Highest applied index", raft.applied as f64),
        ("chronik_raft_last_index", "Last index in the log", raft.last_index as f64),
        ("chronik_raft_snapshot_index", "Index of the newest snapshot", raft.snapshot_index as f64),
        ("chronik_raft_unstable_entries", "Entries not yet on disk", raft.unstable_entries as f64),
        ("chronik_raft_pending_proposals", "Proposals waiting for their result", raft.pending_proposals as f64),
        ("chronik_raft_voters", "Voters", raft.voters.len() as f64),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help, value)?;
    }
    out.counter("chronik_raft_elections", "Campaigns this replica started", raft.elections as f64)?;
    out.counter("chronik_raft_leader_changes", "Leader changes seen", raft.leader_changes as f64)?;
    out.counter("chronik_raft_entries_applied", "Committed entries applied", raft.entries_applied as f64)?;
    for (direction, messages) in [("out", &raft.messages_out), ("in", &raft.messages_in)] {
        let values = messages.iter().map(|(kind, n)| (one("type", kind), *n as f64)).collect();
        let name = format!("chronik_raft_messages_{direction}");
        out.family(MetricType::Counter, &name, "Raft messages by type", values)?;
    }
    let matched = raft.progress.iter().map(|p| (one("peer", &p.node), p.matched as f64)).collect();
    out.family(MetricType::Gauge, "chronik_raft_progress_matched_index", "Highest index on the peer", matched)?;
    let active = raft.progress.iter().map(|p| (one("peer", &p.node), f64::from(u8::from(p.recent_active)))).collect();
    out.family(MetricType::Gauge, "chronik_raft_progress_recent_active", "Whether the peer answered lately", active)
}

fn peers(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let per_peer = |value: fn(&super::status::Peer) -> f64| {
        status.peers.iter().map(|p| (one("peer", &p.node), value(p))).collect::<Vec<_>>()
    };
    let up = per_peer(|p| f64::from(u8::from(p.connected)));
    out.family(MetricType::Gauge, "chronik_peer_connected", "Whether our stream to the peer is up", up)?;
    type Value = fn(&super::status::Peer) -> f64;
    let counters: [(&str, &str, Value); 4] = [
        ("chronik_peer_messages_sent", "Messages sent to the peer", |p| p.sent as f64),
        ("chronik_peer_messages_received", "Messages received from the peer", |p| p.received as f64),
        ("chronik_peer_messages_dropped", "Messages to the peer that were dropped", |p| p.dropped as f64),
        ("chronik_peer_connects", "Times the stream was made", |p| p.connects as f64),
    ];
    for (name, help, value) in counters {
        out.family(MetricType::Counter, name, help, per_peer(value))?;
    }
    Ok(())
}

fn data(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let numbers = &status.replication;
    let offline = f64::from(u8::from(status.log_dir.state == "offline"));
    let gauges: [(&str, &str, f64); 12] = [
        ("chronik_log_dir_offline", "Whether the log directory is offline", offline),
        ("chronik_log_dir_free_bytes", "Free bytes of the file system", status.log_dir.free_bytes as f64),
        ("chronik_cluster_topics", "Topics of the cluster", numbers.topics as f64),
        ("chronik_cluster_partitions", "Partitions of the cluster", numbers.partitions as f64),
        ("chronik_cluster_partitions_without_leader", "Partitions without a leader", numbers.leaderless as f64),
        (
            "chronik_cluster_under_replicated_partitions",
            "Partitions with an incomplete ISR",
            numbers.under_replicated as f64,
        ),
        (
            "chronik_cluster_under_min_isr_partitions",
            "Partitions below min.insync.replicas",
            numbers.under_min_isr as f64,
        ),
        ("chronik_partition_leader_count", "Partitions led by this broker", numbers.leading as f64),
        ("chronik_partition_follower_count", "Partitions followed by this broker", numbers.following as f64),
        ("chronik_replication_max_lag_records", "Largest lag of a follower of ours", numbers.max_lag as f64),
        ("chronik_group_count", "Groups coordinated by this broker", numbers.groups as f64),
        ("chronik_kafka_connections", "Open client connections", numbers.connections as f64),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help, value)?;
    }
    out.counter("chronik_produce_bytes", "Bytes of records produced", numbers.bytes_in as f64)?;
    out.counter("chronik_produce_records", "Records produced", numbers.records_in as f64)?;
    out.counter("chronik_fetch_bytes", "Bytes of records fetched by consumers", numbers.bytes_out as f64)?;
    out.counter("chronik_replication_bytes", "Bytes fetched from other brokers", numbers.replication_bytes_in as f64)
}

#[cfg(test)]
mod tests {
    use super::super::status::Peer;
    use super::*;

    #[test]
    fn a_scrape_is_open_metrics_with_labels_and_an_end_mark() {
        let mut status = Status { state: "ready".into(), ..Status::default() };
        status.raft.term = 7;
        status.peers.push(Peer { node: 2, dropped: 3, ..Peer::default() });
        let text = encode(&Sample { status, requests: vec![("Produce", 5)] });
        for line in [
            "chronik_raft_term 7",
            "chronik_broker_ready 1",
            "chronik_peer_messages_dropped_total{peer=\"2\"} 3",
            "chronik_kafka_requests_total{api=\"Produce\"} 5",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
