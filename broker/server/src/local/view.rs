//! What `local` shows: a live summary on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::children::Children;
use crate::admin::client;
use crate::admin::status::Status;

const ASK_TIMEOUT: Duration = Duration::from_millis(900);
/// How often plain output repeats its summary line when nothing changed.
const PLAIN_SUMMARY: Duration = Duration::from_secs(30);
const EVENTS_SHOWN: usize = 6;
const TOPICS_SHOWN: usize = 12;

#[derive(Debug)]
struct Seen {
    status: Status,
    at: Instant,
    rate_in: f64,
    rate_out: f64,
    cpu: f64,
}

/// The summary of a local cluster.
#[derive(Debug)]
pub(super) struct View {
    live: bool,
    begun: Instant,
    brokers: Vec<(u16, String)>,
    bootstrap: String,
    seen: BTreeMap<u16, Seen>,
    ready: bool,
    ever_ready: bool,
    events: Vec<String>,
    lines_drawn: usize,
    last_plain: Instant,
    last_leader: Option<i32>,
}

impl View {
    pub fn new(children: &Children, live: bool) -> Self {
        Self {
            live,
            begun: Instant::now(),
            brokers: children.brokers.iter().map(|b| (b.id, b.admin.clone())).collect(),
            bootstrap: children.brokers.iter().map(|b| b.kafka.as_str()).collect::<Vec<_>>().join(","),
            seen: BTreeMap::new(),
            ready: false,
            ever_ready: false,
            events: Vec::new(),
            lines_drawn: 0,
            last_plain: Instant::now(),
            last_leader: None,
        }
    }

    /// Whether the cluster has been ready once.
    pub fn was_ready(&self) -> bool {
        self.ever_ready
    }

    /// The brokers were started.
    pub fn started(&mut self) {
        self.begun = Instant::now();
        self.say(&format!("{} brokers started, waiting for them to find each other", self.brokers.len()));
    }

    /// One event for the reader.
    pub fn say(&mut self, text: &str) {
        let line = format!("{:>8.3}s  {text}", self.begun.elapsed().as_secs_f64());
        if self.live {
            self.events.push(line);
            if self.events.len() > EVENTS_SHOWN {
                self.events.remove(0);
            }
            self.draw();
        } else {
            println!("{line}");
            let _ = std::io::stdout().flush();
        }
    }

    /// Asks all brokers and shows what they say.
    pub async fn refresh(&mut self) {
        let detail = self.live && self.ever_ready;
        let path = if detail { "/status?detail=true" } else { "/status" };
        let questions = self.brokers.iter().map(|(id, admin)| async move {
            let answer = client::get(admin, path, ASK_TIMEOUT).await.ok()?;
            Some((*id, serde_json::from_slice::<Status>(&answer.1).ok()?))
        });
        let answers: BTreeMap<u16, Status> = futures::future::join_all(questions).await.into_iter().flatten().collect();
        self.take(answers);
        let ready = self.seen.len() == self.brokers.len() && self.seen.values().all(|s| s.status.state == "ready");
        if ready && !self.ever_ready {
            self.ever_ready = true;
            self.say(&format!("ready  bootstrap {}", self.bootstrap));
        } else if ready != self.ready && self.ever_ready {
            self.say(if ready { "all brokers are ready again" } else { "not all brokers are ready" });
        }
        self.ready = ready;
        let leader = self.seen.values().find_map(|s| s.status.raft.leader);
        if leader != self.last_leader && leader.is_some() {
            let term = self.seen.values().map(|s| s.status.raft.term).max().unwrap_or(0);
            self.say(&format!("broker {} leads the quorum in term {term}", leader.unwrap_or(0)));
            self.last_leader = leader;
        }
        if self.live {
            self.draw();
        } else if self.ever_ready && self.last_plain.elapsed() > PLAIN_SUMMARY {
            self.last_plain = Instant::now();
            let line = self.plain_line();
            self.say(&line);
        }
    }

    fn take(&mut self, answers: BTreeMap<u16, Status>) {
        let mut seen = BTreeMap::new();
        for (id, status) in answers {
            let at = Instant::now();
            let (mut rate_in, mut rate_out, mut cpu) = (0.0, 0.0, 0.0);
            if let Some(before) = self.seen.get(&id)
                && before.status.incarnation == status.incarnation
            {
                let seconds = at.duration_since(before.at).as_secs_f64().max(0.001);
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                rate_in = rate(status.replication.bytes_in, before.status.replication.bytes_in);
                rate_out = rate(status.replication.bytes_out, before.status.replication.bytes_out);
                cpu = 100.0 * (status.process.cpu_seconds - before.status.process.cpu_seconds) / seconds;
            }
            seen.insert(id, Seen { status, at, rate_in, rate_out, cpu });
        }
        self.seen = seen;
    }

    fn plain_line(&self) -> String {
        let term = self.seen.values().map(|s| s.status.raft.term).max().unwrap_or(0);
        let any = self.seen.values().next().map(|s| s.status.replication.clone()).unwrap_or_default();
        let up = self.seen.values().filter(|s| s.status.state == "ready").count();
        let input: f64 = self.seen.values().map(|s| s.rate_in).sum();
        format!(
            "{up}/{} ready, leader {}, term {term}, {} topics, {} partitions ({} under-replicated), in {}/s",
            self.brokers.len(),
            self.last_leader.unwrap_or(0),
            any.topics,
            any.partitions,
            any.under_replicated,
            bytes(input),
        )
    }

    fn draw(&mut self) {
        let text = self.screen();
        let mut out = String::new();
        if self.lines_drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.lines_drawn);
        }
        for line in text.lines() {
            let _ = writeln!(out, "\r{line}\x1b[K");
        }
        out.push_str("\x1b[J");
        self.lines_drawn = text.lines().count();
        print!("{out}");
        let _ = std::io::stdout().flush();
    }

    fn screen(&self) -> String {
        let mut text = String::new();
        let up = self.begun.elapsed().as_secs();
        let state = match (self.ready, self.ever_ready) {
            (true, _) => "\x1b[32mready\x1b[0m",
            (false, true) => "\x1b[33mdegraded\x1b[0m",
            (false, false) => "\x1b[33mforming\x1b[0m",
        };
        let _ = writeln!(
            text,
            "\x1b[1mChronik\x1b[0m  {state}  bootstrap {}  up {}:{:02}:{:02}",
            self.bootstrap,
            up / 3600,
            up / 60 % 60,
            up % 60
        );
        let _ = writeln!(text);
        let _ = writeln!(
            text,
            "\x1b[2m broker  state      quorum     term  leads  follows     in/s    out/s    lag   cpu%      rss   disk free\x1b[0m"
        );
        for (id, admin) in &self.brokers {
            match self.seen.get(id) {
                Some(seen) => {
                    let (s, r) = (&seen.status, &seen.status.replication);
                    let _ = writeln!(
                        text,
                        " {id:<6}  {:<9}  {:<9} {:>5}  {:>5}  {:>7}  {:>7}  {:>7}  {:>5}  {:>5.1}  {:>7}  {:>10}",
                        s.state,
                        s.raft.role,
                        s.raft.term,
                        r.leading,
                        r.following,
                        bytes(seen.rate_in),
                        bytes(seen.rate_out),
                        r.max_lag,
                        seen.cpu,
                        bytes(s.process.rss_bytes as f64),
                        bytes(s.log_dir.free_bytes as f64)
                    );
                }
                None => {
                    let _ = writeln!(text, " {id:<6}  \x1b[31mno answer\x1b[0m  ({admin})");
                }
            }
        }
        self.topics(&mut text);
        if !self.events.is_empty() {
            let _ = writeln!(text);
            for event in self.events.iter().flat_map(|e| e.lines()) {
                let _ = writeln!(text, "{event}");
            }
        }
        let _ = writeln!(text, "\x1b[2mCtrl-C stops the cluster; its data stays\x1b[0m");
        text
    }

    /// Topics as their leaders see them.
    fn topics(&self, text: &mut String) {
        let mut topics: BTreeMap<&str, (u64, i64, u64, usize)> = BTreeMap::new();
        for partition in self.seen.values().flat_map(|s| &s.status.partitions).filter(|p| p.role == "leader") {
            let entry = topics.entry(&partition.topic).or_default();
            entry.0 += 1;
            entry.1 += partition.high_watermark - partition.log_start;
            entry.2 += partition.bytes;
            entry.3 += usize::from(partition.isr.len() < partition.replicas.len());
        }
        if topics.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n\x1b[2m topic                                     partitions      records       size  under-replicated\x1b[0m"
        );
        for (name, (partitions, records, size, under)) in topics.iter().take(TOPICS_SHOWN) {
            let _ = writeln!(
                text,
                " {name:<40.40}  {partitions:>10}  {records:>11}  {:>9}  {under:>16}",
                bytes(*size as f64)
            );
        }
        if topics.len() > TOPICS_SHOWN {
            let _ = writeln!(text, " and {} more", topics.len() - TOPICS_SHOWN);
        }
    }
}

/// A number of bytes, short.
fn bytes(value: f64) -> String {
    let (mut value, mut unit) = (value, "B");
    for next in ["K", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_short_and_readable() {
        for (value, text) in [(0.0, "0B"), (999.0, "999B"), (1536.0, "1.5K"), (3e9, "2.8G"), (500e6, "477M")] {
            assert_eq!(super::bytes(value), text);
        }
    }
}
