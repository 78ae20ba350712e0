//! The `status` and `doctor` subcommands: what a running broker says, for people.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use super::client;
use super::status::Status;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Prints the status of the broker whose admin port is `address`. Exit code 1 when it is not ready, 69 when it cannot be
/// asked (`EX_UNAVAILABLE`).
pub async fn status(address: &str, json: bool) -> ExitCode {
    let body = match client::get(address, "/status?detail=true", TIMEOUT).await {
        Ok((code, body)) if code.is_success() => body,
        Ok((code, body)) => {
            println!("broker at {address}: {code}: {}", String::from_utf8_lossy(&body).trim());
            return ExitCode::from(69);
        }
        Err(error) => return unavailable(&error),
    };
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) => {
            let text = if json { String::from_utf8_lossy(&body).into_owned() } else { describe(&status) };
            println!("{}", text.trim_end());
            ExitCode::from(u8::from(status.state != "ready"))
        }
        Err(error) => unavailable(&format!("{address} does not answer like a Chronik broker: {error}")),
    }
}

/// Prints the doctor's report. Exit code 0 when healthy, 1 with findings, 69 when the broker cannot be asked.
pub async fn doctor(address: &str, json: bool) -> ExitCode {
    let path = if json { "/doctor?format=json" } else { "/doctor" };
    match client::get(address, path, TIMEOUT).await {
        Ok((code, body)) => {
            println!("{}", String::from_utf8_lossy(&body).trim_end());
            ExitCode::from(u8::from(!code.is_success()))
        }
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    eprintln!("Is the broker running, and is this its admin.port? (default 9392; --admin host:port)");
    ExitCode::from(69)
}

/// The status on one screen.
fn describe(status: &Status) -> String {
    let mut text = String::new();
    let raft = &status.raft;
    let name = |node: Option<i32>| node.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<13}{value}");
    };
    line(
        "broker",
        format!("{} of cluster {}", status.node_id, status.cluster_id.as_deref().unwrap_or("(not yet known)")),
    );
    let reason = status.not_ready_because.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    line("state", format!("{}{reason}, up {} s, version {}", status.state, status.uptime_ms / 1000, status.version));
    line("kafka", status.kafka_address.clone());
    line(
        "quorum",
        format!(
            "{} in term {}, leader {}, voters {:?}, learners {:?}",
            raft.role,
            raft.term,
            name(raft.leader),
            raft.voters,
            raft.learners
        ),
    );
    line(
        "raft log",
        format!(
            "committed {}, applied {}, last {}, snapshot {}",
            raft.commit, raft.applied, raft.last_index, raft.snapshot_index
        ),
    );
    let numbers = &status.replication;
    line(
        "partitions",
        format!(
            "{} in {} topics; here {} led, {} followed; {} under-replicated, {} without leader, {} below min ISR",
            numbers.partitions,
            numbers.topics,
            numbers.leading,
            numbers.following,
            numbers.under_replicated,
            numbers.leaderless,
            numbers.under_min_isr
        ),
    );
    let dir = &status.log_dir;
    line("disk", format!("{} {}, {} of {} MiB free", dir.path, dir.state, dir.free_bytes >> 20, dir.total_bytes >> 20));
    let process = &status.process;
    line(
        "process",
        format!(
            "pid {}, {} MiB resident, {:.1} s CPU, {} descriptors",
            process.pid,
            process.rss_bytes >> 20,
            process.cpu_seconds,
            process.open_fds
        ),
    );
    for peer in &status.peers {
        let state = match (&peer.address, peer.connected) {
            (None, _) => "no address registered".to_owned(),
            (Some(address), true) => format!("{address} connected"),
            (Some(address), false) => {
                format!("{address} not connected: {}", peer.last_error.as_deref().unwrap_or("not tried yet"))
            }
        };
        line(
            "peer",
            format!("{} {state}; sent {}, received {}, dropped {}", peer.node, peer.sent, peer.received, peer.dropped),
        );
    }
    for broker in &status.brokers {
        let fenced = if broker.fenced { "fenced" } else { "active" };
        line("registered", format!("{} {} {fenced}, epoch {}", broker.node, broker.kafka_address, broker.epoch));
    }
    let steps: Vec<String> = status
        .startup
        .steps
        .iter()
        .map(|s| format!("{} {}", s.name, s.ms.map_or_else(|| "...".to_owned(), |ms| format!("{ms} ms"))))
        .collect();
    line("start-up", steps.join(", "));
    text
}
