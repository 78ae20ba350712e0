//! The broker processes of a local cluster: configuration, start, supervision, stop.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Options;
use crate::admin::client;
use crate::admin::status::Status;

/// Longest wait for a broker to stop before the next signal or the end.
const STOP_PATIENCE: Duration = Duration::from_secs(40);
/// First pause before a dead broker is started again; doubled up to the maximum while it dies young.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A broker that lived this long has proven itself.
const GROWN_UP: Duration = Duration::from_secs(30);

/// Something the supervisor has to say.
#[derive(Debug)]
pub(super) struct Event {
    pub text: String,
    pub fatal: bool,
}

/// One broker.
#[derive(Debug)]
pub(super) struct Broker {
    pub id: u16,
    pub kafka: String,
    pub admin: String,
    directory: PathBuf,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    restart_at: Option<Instant>,
}

impl Broker {
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

/// All brokers.
#[derive(Debug)]
pub(super) struct Children {
    pub brokers: Vec<Broker>,
    restart: bool,
}

impl Children {
    /// Checks ports and writes configurations; starts nothing yet.
    pub fn prepare(options: &Options) -> Result<Self, String> {
        let cluster_id = cluster_id(&options.data_dir)?;
        let ports_of = |i: u16| -> Result<[u16; 4], String> {
            let bases = [options.kafka_port, options.raft_port, options.replication_port, options.admin_port];
            let mut ports = [0; 4];
            for (port, base) in ports.iter_mut().zip(bases) {
                *port = base
                    .checked_add(i)
                    .filter(|p| *p > 0)
                    .ok_or(format!("port {base} leaves no room for {} brokers", options.brokers))?;
            }
            Ok(ports)
        };
        let all: Vec<[u16; 4]> = (0..options.brokers).map(ports_of).collect::<Result<_, _>>()?;
        let mut flat: Vec<u16> = all.iter().flatten().copied().collect();
        flat.sort_unstable();
        if let Some(pair) = flat.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "port {} would be used twice: choose port bases at least {} apart",
                pair[0], options.brokers
            ));
        }
        for port in flat {
            TcpListener::bind((options.host, port)).map_err(|error| {
                format!("port {port} on {} cannot be used ({error}); is a cluster running already? --kafka-port, --raft-port, --replication-port and --admin-port choose others", options.host)
            })?;
        }
        let mut brokers = Vec::new();
        for (i, ports) in all.iter().enumerate() {
            let id = i as u16 + 1;
            let directory = options.data_dir.join(format!("broker-{id}"));
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(&directory)?;
                let text = serde_json::to_string_pretty(&configuration(options, &cluster_id, id, &all))?;
                // JSON is YAML, and no emitter leaves anything unquoted that a reader could misread.
                fs::write(directory.join("broker.yaml"), text + "\n")
            };
            write().map_err(|error| format!("cannot write to {}: {error}", directory.display()))?;
            brokers.push(Broker {
                id,
                kafka: host_port(options, ports[0]),
                admin: host_port(options, ports[3]),
                directory,
                child: None,
                started: Instant::now(),
                pause: FIRST_PAUSE,
                restart_at: None,
            });
        }
        Ok(Self { brokers, restart: !options.no_restart })
    }

    /// Starts every broker.
    pub fn start_all(&mut self) -> Result<(), String> {
        self.brokers.iter_mut().try_for_each(start)
    }

    /// Notices dead brokers and starts them again after a pause.
    pub fn supervise(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut say = |text: String, fatal: bool| events.push(Event { text, fatal });
        for broker in &mut self.brokers {
            if let Some(child) = &mut broker.child
                && let Ok(Some(status)) = child.try_wait()
            {
                broker.child = None;
                let _ = fs::remove_file(broker.directory.join("broker.pid"));
                let how = how_it_ended(status);
                let log = broker.directory.join("broker.log");
                // Mistakes in the configuration or a foreign data directory do not go away by trying again.
                if let Some(64..=66) = status.code() {
                    say(format!("broker {} {how}:\n{}", broker.id, last_lines(&log)), true);
                    continue;
                }
                if broker.started.elapsed() > GROWN_UP {
                    broker.pause = FIRST_PAUSE;
                }
                if self.restart {
                    say(
                        format!(
                            "broker {} {how}, starting it again in {:?} (log: {})",
                            broker.id,
                            broker.pause,
                            log.display()
                        ),
                        false,
                    );
                    broker.restart_at = Some(Instant::now() + broker.pause);
                    broker.pause = (broker.pause * 2).min(LONGEST_PAUSE);
                } else {
                    say(format!("broker {} {how} (log: {})", broker.id, log.display()), false);
                }
            }
            if broker.restart_at.is_some_and(|at| at <= Instant::now()) {
                broker.restart_at = None;
                match start(broker) {
                    Ok(()) => {
                        say(format!("broker {} started again, pid {}", broker.id, broker.pid().unwrap_or(0)), false)
                    }
                    Err(problem) => {
                        say(problem, false);
                        broker.restart_at = Some(Instant::now() + broker.pause);
                    }
                }
            }
        }
        events
    }

    /// Stops the brokers one after the other, the Raft leader last; whether all of them ended cleanly.
    pub async fn stop(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.brokers.len()).collect();
        let leader = self.raft_leader().await;
        order.sort_by_key(|i| Some(i32::from(self.brokers[*i].id)) == leader);
        let mut clean = true;
        for i in order {
            let broker = &mut self.brokers[i];
            broker.restart_at = None;
            if let Some(mut child) = broker.child.take() {
                clean &= stop_one(&mut child).await;
                let _ = fs::remove_file(broker.directory.join("broker.pid"));
            }
        }
        clean
    }

    async fn raft_leader(&self) -> Option<i32> {
        for broker in &self.brokers {
            if let Ok((_, body)) = client::get(&broker.admin, "/status", Duration::from_secs(1)).await
                && let Ok(status) = serde_json::from_slice::<Status>(&body)
                && status.raft.leader.is_some()
            {
                return status.raft.leader;
            }
        }
        None
    }
}

async fn stop_one(child: &mut Child) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |which| pid.is_some_and(|pid| kill_process(pid, which).is_ok());
    signal(Signal::TERM);
    let deadline = Instant::now() + STOP_PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => break,
        }
    }
    signal(Signal::KILL);
    let _ = child.wait();
    false
}

fn start(broker: &mut Broker) -> Result<(), String> {
    let fail = |what: &str, error: std::io::Error| format!("cannot {what} broker {}: {error}", broker.id);
    let binary = std::env::current_exe().map_err(|e| fail("find the binary of", e))?;
    let path = broker.directory.join("broker.log");
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| fail("open the log of", e))?;
    let errors = log.try_clone().map_err(|e| fail("open the log of", e))?;
    let child = Command::new(binary)
        .arg("run")
        .arg("--config")
        .arg(broker.directory.join("broker.yaml"))
        // A killed supervisor must not leave brokers behind.
        .arg("--die-with-parent")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| fail("start", e))?;
    fs::write(broker.directory.join("broker.pid"), format!("{}\n", child.id()))
        .map_err(|e| fail("write the pid file of", e))?;
    broker.child = Some(child);
    broker.started = Instant::now();
    Ok(())
}

fn host_port(options: &Options, port: u16) -> String {
    std::net::SocketAddr::from((options.host, port)).to_string()
}

/// The id of the cluster in `directory`, drawn and written down when there is none yet.
fn cluster_id(directory: &Path) -> Result<String, String> {
    let path = directory.join("cluster.id");
    if let Ok(text) = fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let id = chronik_model::Uuid(*uuid::Uuid::new_v4().as_bytes()).to_string();
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(directory)?;
        let file = directory.join("cluster.id.new");
        fs::write(&file, format!("{id}\n"))?;
        File::open(&file)?.sync_all()?;
        fs::rename(&file, &path)
    };
    write().map_err(|error| format!("cannot write to {}: {error}", directory.display()))?;
    Ok(id)
}

fn configuration(options: &Options, cluster_id: &str, id: u16, all: &[[u16; 4]]) -> Value {
    let own = &all[usize::from(id) - 1];
    let peers: Vec<Value> = all
        .iter()
        .enumerate()
        .map(|(i, ports)| json!({ "id": i + 1, "host": options.host.to_string(), "raft.port": ports[1] }))
        .collect();
    let mut config = json!({
        "cluster.id": cluster_id,
        "node.id": id,
        "data.dir": options.data_dir.join(format!("broker-{id}")).join("data"),
        "bind.address": options.host.to_string(),
        "advertised.host": options.host.to_string(),
        "kafka.port": own[0],
        "raft.port": own[1],
        "replication.port": own[2],
        "admin.port": own[3],
        "peers": peers,
        "bootstrap.voters": (1..=all.len()).collect::<Vec<_>>(),
        // Nobody waits for a fleet of consumers on one machine.
        "group.initial.rebalance.delay.ms": 0,
    });
    for pair in &options.set {
        if let (Some((key, value)), Some(map)) = (pair.split_once('='), config.as_object_mut()) {
            let value = serde_yaml::from_str::<Value>(value).unwrap_or_else(|_| json!(value));
            map.insert(key.trim().to_owned(), value);
        }
    }
    config
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
