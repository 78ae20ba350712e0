//! What the operator counts, in the OpenMetrics text format on /metrics.
//!
//! The controller writes after each pass, `kube_io` at each write, the elector's role through `main`. Series of a
//! cluster disappear with it ([`Metrics::forget`]). Labels are bounded: clusters, closed sets of gates, outcomes, verbs
//! and kinds; nothing a user writes freely.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A ChronikCluster, as a label set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct ClusterLabels {
    pub namespace: String,
    pub cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GateLabels {
    namespace: String,
    cluster: String,
    gate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do, nothing written.
    Steady,
    /// Something was done.
    Acted,
    /// Something has to happen elsewhere first.
    Waiting,
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Acted => "acted",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// What a pass left behind.
#[derive(Debug, Clone)]
pub struct Pass {
    pub outcome: Outcome,
    pub took: Duration,
    pub writes: u64,
    /// As the cluster is meant to be, with nothing under way.
    pub steady: bool,
    /// Gate -> since when, in seconds since 1970.
    pub blocked: BTreeMap<String, i64>,
}

pub struct Metrics {
    registry: Registry,
    durations: Histogram,
    passes: Family<OutcomeLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    pass_writes: Family<ClusterLabels, Gauge>,
    steady: Family<ClusterLabels, Gauge>,
    blocked_since: Family<GateLabels, Gauge>,
    gates: Mutex<HashMap<ClusterLabels, HashSet<String>>>,
    leader: Gauge,
    clusters: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut root = Registry::default();
        let registry = root.sub_registry_with_prefix("chronik_operator");
        let durations = Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let (passes, errors, writes) = (Family::default(), Family::default(), Family::default());
        let (pass_writes, steady, blocked_since) = (Family::default(), Family::default(), Family::default());
        let (leader, clusters) = (Gauge::default(), Gauge::default());
        registry.register_with_unit(
            "reconcile_duration",
            "How long a pass over one cluster took",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("passes", "Passes over clusters, by how they ended", Family::clone(&passes));
        registry.register("errors", "Errors that ended a pass, by kind", Family::clone(&errors));
        registry.register("writes", "Writes to the API server, by verb and kind", Family::clone(&writes));
        registry.register(
            "last_pass_writes",
            "Writes of the last pass over a cluster; 0 when it is as wanted",
            Family::clone(&pass_writes),
        );
        registry.register("steady", "Whether a cluster is as wanted, with nothing under way", Family::clone(&steady));
        registry.register(
            "blocked_since_timestamp",
            "Since when a gate holds back an operation, in seconds since 1970; absent when nothing does",
            Family::clone(&blocked_since),
        );
        registry.register("leader", "Whether this replica is the one that works", leader.clone());
        registry.register("clusters", "ChronikClusters that this replica looks after", clusters.clone());
        // Under the names that every process has for them.
        root.register_collector(Box::new(Process));
        Self {
            registry: root,
            durations,
            passes,
            errors,
            writes,
            pass_writes,
            steady,
            blocked_since,
            gates: Mutex::default(),
            leader,
            clusters,
        }
    }

    pub fn passed(&self, cluster: &ClusterLabels, pass: &Pass) {
        self.durations.observe(pass.took.as_secs_f64());
        self.passes.get_or_create(&OutcomeLabels { outcome: pass.outcome.name() }).inc();
        self.pass_writes.get_or_create(cluster).set(i64::try_from(pass.writes).unwrap_or(i64::MAX));
        // A pass that failed knows nothing of the cluster: what was known stays.
        if pass.outcome == Outcome::Failed {
            return;
        }
        self.steady.get_or_create(cluster).set(i64::from(pass.steady));
        let mut all = self.gates.lock();
        let shown = all.entry(cluster.clone()).or_default();
        shown.retain(|gate| {
            let stays = pass.blocked.contains_key(gate);
            if !stays {
                self.blocked_since.remove(&gate_labels(cluster, gate));
            }
            stays
        });
        for (gate, since) in &pass.blocked {
            self.blocked_since.get_or_create(&gate_labels(cluster, gate)).set(*since);
            shown.insert(gate.clone());
        }
    }

    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    pub fn wrote(&self, verb: &'static str, kind: &'static str) {
        self.writes.get_or_create(&WriteLabels { verb, kind }).inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn clusters(&self, count: usize) {
        self.clusters.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterLabels) {
        self.pass_writes.remove(cluster);
        self.steady.remove(cluster);
        for gate in self.gates.lock().remove(cluster).unwrap_or_default() {
            self.blocked_since.remove(&gate_labels(cluster, &gate));
        }
    }

    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn gate_labels(cluster: &ClusterLabels, gate: &str) -> GateLabels {
    GateLabels { namespace: cluster.namespace.clone(), cluster: cluster.cluster.clone(), gate: gate.to_owned() }
}

/// Memory and CPU time of this process, read when asked.
#[derive(Debug)]
struct Process;

/// Ticks of /proc/self/stat per second: a constant of the Linux ABI on every architecture that we build for.
const USER_HZ: f64 = 100.0;
/// In /proc/self/status, which says kB and means KiB.
const RSS: &str = "VmRSS:";

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(bytes) =
            std::fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status))
        {
            let gauge = ConstGauge::new(bytes);
            let metric = encoder.encode_descriptor(
                "process_resident_memory",
                "Resident memory",
                Some(&Unit::Bytes),
                gauge.metric_type(),
            )?;
            gauge.encode(metric)?;
        }
        if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
            let counter: ConstCounter<f64> = ConstCounter::new(seconds);
            let metric =
                encoder.encode_descriptor("process_cpu", "CPU time", Some(&Unit::Seconds), counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(RSS))?;
    line.split_whitespace().next()?.parse::<i64>().ok()?.checked_mul(1024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The command name is in parentheses and may hold anything: fields are counted from behind it.
    let fields = stat.rsplit_once(')')?.1;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((f64::from(user) + f64::from(system)) / USER_HZ)
}

/// How many writes one pass made.
pub type PassWrites = std::sync::Arc<AtomicU64>;

#[cfg(test)]
mod tests {
    use super::*;

    fn x() -> ClusterLabels {
        ClusterLabels { namespace: "n".into(), cluster: "x".into() }
    }

    fn pass(outcome: Outcome, blocked: &[(&str, i64)]) -> Pass {
        Pass {
            outcome,
            took: Duration::from_millis(3),
            writes: 2,
            steady: outcome == Outcome::Steady,
            blocked: blocked.iter().map(|(gate, since)| ((*gate).to_owned(), *since)).collect(),
        }
    }

    #[test]
    fn a_gate_is_shown_from_when_it_blocks_until_it_no_longer_does() {
        let metrics = Metrics::new();
        metrics.passed(&x(), &pass(Outcome::Waiting, &[("QuorumNotCaughtUp", 1_700_000_000)]));
        let text = metrics.text().unwrap();
        assert!(
            text.contains(r#"chronik_operator_blocked_since_timestamp{namespace="n",cluster="x",gate="QuorumNotCaughtUp"} 1700000000"#),
            "{text}"
        );
        // A failed pass does not know better.
        metrics.passed(&x(), &pass(Outcome::Failed, &[]));
        assert!(metrics.text().unwrap().contains("QuorumNotCaughtUp"));
        metrics.passed(&x(), &pass(Outcome::Steady, &[]));
        let text = metrics.text().unwrap();
        assert!(!text.contains("QuorumNotCaughtUp"), "{text}");
        assert!(text.contains(r#"chronik_operator_steady{namespace="n",cluster="x"} 1"#), "{text}");
    }

    #[test]
    fn a_deleted_cluster_leaves_no_series() {
        let metrics = Metrics::new();
        metrics.passed(&x(), &pass(Outcome::Waiting, &[("InsufficientDisk", 1)]));
        metrics.forget(&x());
        assert!(!metrics.text().unwrap().contains(r#"cluster="x""#));
    }

    #[test]
    fn passes_errors_and_writes_are_counted() {
        let metrics = Metrics::new();
        metrics.passed(&x(), &pass(Outcome::Acted, &[]));
        metrics.failed("api");
        metrics.wrote("apply", "StatefulSet");
        metrics.leads(true);
        let text = metrics.text().unwrap();
        for line in [
            r#"chronik_operator_passes_total{outcome="acted"} 1"#,
            r#"chronik_operator_errors_total{kind="api"} 1"#,
            r#"chronik_operator_writes_total{verb="apply",kind="StatefulSet"} 1"#,
            r#"chronik_operator_last_pass_writes{namespace="n",cluster="x"} 2"#,
            "chronik_operator_leader 1",
            "chronik_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn the_process_shows_its_memory_and_cpu_time() {
        let text = Metrics::new().text().unwrap();
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert_eq!(resident_bytes("VmPeak:\t9 kB\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(cpu_seconds("1 (a ) b) S 1 1 1 0 -1 4194304 100 0 0 0 150 50 0 0 20"), Some(2.0));
        assert_eq!(cpu_seconds("garbage"), None);
    }
}
