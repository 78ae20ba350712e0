//! What a seed decides beforehand: the cluster, its topics, the pace and hostility of its world, and what its users and its fate do when.

use std::fmt;

use chronik_operator::api::{
    ChronikClusterSpec, RackSpec, RetentionPolicy, RolloutPolicy, ScaleDownPolicy, UpgradePolicy,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::brokers::{Pace, Topic};
use crate::rng::Rng;

/// Something that a user or fate does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// `kubectl scale`.
    Scale(i32),
    /// Another value of a setting.
    Configure(u64),
    /// A setting with which brokers end at once.
    ConfigureBadly,
    /// Another image.
    Image(u64),
    /// An image that does not exist.
    ImageBadly,
    /// The last good settings and image again.
    Mend,
    /// A larger disk, in GiB.
    Grow(u64),
    /// `paused: true`.
    Pause,
    /// `paused: false`.
    Resume,
    /// `stopped: true`.
    Stop,
    /// `stopped: false`.
    Start,
    /// The ChronikCluster is deleted, and made again so many seconds later.
    Recreate(u64),
    /// A pod is deleted by somebody.
    DeletePod(i32),
    /// A process is killed.
    Kill(i32),
    /// A node is gone for so many seconds.
    NodeLost(i32, u64),
    /// The operator does not reach a broker for so many seconds.
    Unreachable(i32, u64),
    /// A disk is full.
    Fill(i32),
    /// Somebody annotates the bootstrap Service and the StatefulSet.
    Annotate,
    /// `kubectl rollout restart` of the StatefulSet.
    RolloutRestart,
    /// The operator's process is killed.
    KillOperator,
    /// The revision that waits is approved.
    Approve,
    /// A topic is created.
    Topic(Topic),
    /// `kubectl scale statefulset`.
    ScaleSet(i32),
    /// `kubectl delete statefulset`.
    DeleteSet,
    /// One of the other children is deleted: a Service, the ConfigMap, the Secret, ...
    DeleteChild(u64),
    /// One of them loses the label by which the operator finds it.
    Unlabel(u64),
    /// The bootstrap Service is pointed elsewhere.
    Redirect,
    /// `rack.topologyKey` is set, one of [`RACK_LABELS`], or taken away.
    Rack(Option<usize>),
    /// A node gets another zone, or loses its label.
    Label(usize, Option<u64>),
    /// `raft.voters`.
    Voters(Option<i32>),
}

/// Labels that nodes have.
pub const RACK_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "example.com/rack"];

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The first spec.
    pub spec: ChronikClusterSpec,
    /// Topics from the beginning.
    pub topics: Vec<Topic>,
    /// The brokers' pace.
    pub pace: Pace,
    /// Whether claims can grow.
    pub expandable: bool,
    /// Whether the operator may read storage classes.
    pub may_read_classes: bool,
    /// Whether it may read nodes.
    pub may_read_nodes: bool,
    /// The zone of each node; None = it has no label.
    pub zones: Vec<Option<u64>>,
    /// How long growing takes.
    pub resize_ms: u64,
    /// Oldest list that the operator is shown.
    pub stale_ms: u64,
    /// Calls of a thousand that fail before anything happened.
    pub errors: u64,
    /// Calls of a thousand whose answer is lost.
    pub lost_answers: u64,
    /// Writes to Kubernetes of a thousand that happen and are answered with 429 or 500 all the same.
    pub late_errors: u64,
    /// Writes to Kubernetes of a thousand that are answered with 409 although nobody changed anything, half of them after they happened.
    pub conflicts: u64,
    /// Changes that brokers are asked for, of a thousand, that they cannot do now, half of them done all the same.
    pub refusals: u64,
    /// Awaits of a thousand at which the operator is killed.
    pub kills: u64,
    /// Two operators are at work.
    pub two_operators: bool,
    /// What happens when, in order.
    pub actions: Vec<(u64, Action)>,
    /// Faults end then.
    pub calm_at: u64,
}

/// The part of the specification that asks for racks.
pub fn rack(label: Option<usize>) -> Option<RackSpec> {
    let label = RACK_LABELS.get(label?)?;
    Some(RackSpec { topology_key: (*label).to_owned() })
}

fn topic(name: &str, partitions: u64, replication: usize, min_isr: usize, internal: bool) -> Topic {
    let partitions = usize::try_from(partitions).unwrap_or(1);
    Topic { name: name.to_owned(), partitions, replication, min_isr, internal, created: false }
}

impl Plan {
    /// The plan of a seed; every fourth has others who meddle.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        if Rng::new(seed, 6).chance(250) { Self::among_strangers(seed) } else { Self::among_friends(seed) }
    }

    fn among_friends(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let rng = &mut rng;
        let replicas = *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5]).unwrap_or(&3);
        let mut spec = ChronikClusterSpec { replicas, ..ChronikClusterSpec::default() };
        let whichever =
            |rng: &mut Rng, odds| if rng.chance(odds) { RetentionPolicy::Delete } else { RetentionPolicy::Retain };
        spec.storage.retention.when_scaled = whichever(rng, 300);
        spec.storage.retention.when_deleted = whichever(rng, 300);
        if rng.chance(200) {
            spec.raft.voters = Some(*rng.pick(&[1, 3, 5]).unwrap_or(&3));
        }
        if rng.chance(100) {
            spec.rollout.policy = RolloutPolicy::Manual;
        }
        let hostile = rng.chance(700);
        let some = |rng: &mut Rng, most: u64| if hostile && rng.chance(600) { rng.between(1, most) } else { 0 };
        let calm_at = rng.between(150, 420) * 1000;
        let mut plan = Self {
            seed,
            topics: Self::topics(rng, replicas),
            pace: Pace {
                boot_ms: (500, rng.between(1_000, 8_000)),
                stop_ms: (200, rng.between(500, 5_000)),
                // Every removal copies what was produced since: copying must be well ahead of ten records per second to come to an end.
                copy_per_s: rng.between(20, 800).max(60),
                view_lag_ms: *rng.pick(&[0, 500, 3_000]).unwrap_or(&0),
            },
            expandable: rng.chance(800),
            may_read_classes: rng.chance(700),
            may_read_nodes: true,
            zones: Vec::new(),
            resize_ms: rng.between(500, 20_000),
            stale_ms: *rng.pick(&[0, 0, 1_000, 5_000]).unwrap_or(&0),
            errors: some(rng, 60),
            lost_answers: some(rng, 40),
            late_errors: 0,
            conflicts: 0,
            refusals: 0,
            kills: some(rng, 40),
            two_operators: hostile && rng.chance(150),
            actions: Vec::new(),
            calm_at,
            spec,
        };
        plan.draw_actions(rng);
        plan.draw_racks_and_voters(&mut Rng::new(seed, 4));
        plan.draw_faults(&mut Rng::new(seed, 5), hostile);
        plan.actions.sort_by_key(|(at, _)| *at);
        plan
    }

    /// The plan of a seed, and others who meddle with what is the operator's, whatever the seed says.
    #[must_use]
    pub fn among_strangers(seed: u64) -> Self {
        let mut plan = Self::among_friends(seed);
        plan.draw_strangers(&mut Rng::new(seed, 3));
        plan
    }

    fn topics(rng: &mut Rng, replicas: i32) -> Vec<Topic> {
        let brokers = usize::try_from(replicas).unwrap_or(1);
        let mut topics =
            vec![topic("__consumer_offsets", 3, brokers.min(3), brokers.min(3).saturating_sub(1).max(1), true)];
        for at in 0..rng.between(1, 3) {
            let most = if rng.chance(600) { 3.min(brokers) } else { brokers.min(2) };
            let replication = usize::try_from(rng.between(1, most as u64)).unwrap_or(1);
            let min_isr =
                if replication > 1 && rng.chance(150) { replication } else { replication.saturating_sub(1).max(1) };
            topics.push(topic(&format!("t{at}"), rng.between(1, 6), replication, min_isr, false));
        }
        topics
    }

    fn draw_actions(&mut self, rng: &mut Rng) {
        let count = rng.between(2, 9);
        let mut size = 10;
        for _ in 0..count {
            let at = rng.between(20_000, self.calm_at.saturating_sub(20_000));
            let broker = i32::try_from(rng.below(u64::try_from(self.spec.replicas).unwrap_or(1) + 2)).unwrap_or(0);
            let action = match rng.below(100) {
                0..=7 => self.wave(rng, at),
                8..=29 => {
                    let to = *rng.pick(&[1, 2, 3, 3, 4, 5, 5, 6]).unwrap_or(&3);
                    if rng.chance(400) {
                        // Taken back, perhaps in the middle of a drain.
                        let back = *rng.pick(&[3, 5, self.spec.replicas]).unwrap_or(&3);
                        self.actions.push((at + rng.between(1_000, 60_000), Action::Scale(back)));
                    }
                    Action::Scale(to)
                }
                30..=41 => Action::Configure(rng.below(1000)),
                42..=43 => Action::Image(rng.below(1000)),
                44..=47 => {
                    self.actions.push((at + rng.between(5_000, 60_000), Action::Mend));
                    if rng.chance(500) { Action::ImageBadly } else { Action::ConfigureBadly }
                }
                48..=53 => {
                    size += rng.between(1, 10);
                    Action::Grow(size)
                }
                54..=57 => {
                    self.actions.push((at + rng.between(1_000, 60_000), Action::Resume));
                    Action::Pause
                }
                58..=60 => {
                    if rng.chance(800) {
                        self.actions.push((at + rng.between(10_000, 60_000), Action::Start));
                    }
                    Action::Stop
                }
                61..=62 => Action::Recreate(rng.between(0, 20)),
                63..=69 => Action::DeletePod(broker),
                70..=76 => Action::Kill(broker),
                77..=81 => Action::NodeLost(broker, rng.between(5, 120)),
                82..=86 => Action::Unreachable(broker, rng.between(5, 120)),
                87..=89 => {
                    size += 10;
                    self.actions.push((at + rng.between(1_000, 30_000), Action::Grow(size)));
                    Action::Fill(broker)
                }
                90..=91 => Action::Annotate,
                92 => Action::RolloutRestart,
                93..=94 => Action::KillOperator,
                95..=96 => Action::Approve,
                _ => {
                    let replication = usize::try_from(rng.between(1, 3)).unwrap_or(1);
                    Action::Topic(topic(
                        &format!("late{at}"),
                        rng.between(1, 4),
                        replication,
                        replication.saturating_sub(1).max(1),
                        false,
                    ))
                }
            };
            self.actions.push((at, action));
        }
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// Nodes with and without labels, and users who ask for racks and for another number of voters.
    fn draw_racks_and_voters(&mut self, rng: &mut Rng) {
        let zones = rng.between(1, 4);
        let unlabelled = if rng.chance(300) { 250 } else { 0 };
        let zone = |rng: &mut Rng| (!rng.chance(unlabelled)).then(|| rng.below(zones));
        self.zones = (0..7).map(|_| zone(rng)).collect();
        self.may_read_nodes = rng.chance(800);
        if rng.chance(300) {
            self.spec.rack = rack(Some(0));
        }
        let latest = self.calm_at.saturating_sub(20_000);
        if rng.chance(400) {
            for _ in 0..rng.between(1, 4) {
                let at = rng.between(20_000, latest);
                let action = if rng.chance(500) {
                    Action::Rack(*rng.pick(&[Some(0), Some(0), Some(1), None]).unwrap_or(&None))
                } else {
                    Action::Label(usize::try_from(rng.below(7)).unwrap_or(0), zone(rng))
                };
                self.actions.push((at, action));
            }
        }
        if rng.chance(300) {
            for _ in 0..rng.between(1, 3) {
                let voters = *rng.pick(&[Some(1), Some(3), Some(5), Some(7), None]).unwrap_or(&None);
                self.actions.push((rng.between(20_000, latest), Action::Voters(voters)));
            }
        }
    }

    /// Answers that say something else than what happened.
    fn draw_faults(&mut self, rng: &mut Rng, hostile: bool) {
        let mut some = |most| if hostile && rng.chance(400) { rng.between(1, most) } else { 0 };
        (self.late_errors, self.conflicts, self.refusals) = (some(80), some(80), some(200));
    }

    /// What others do to what is the operator's, and policies with which it must not go ahead.
    fn draw_strangers(&mut self, rng: &mut Rng) {
        if rng.chance(50) {
            self.spec.upgrade_policy = UpgradePolicy::Manual;
        }
        if rng.chance(50) {
            self.spec.scale_down.policy = ScaleDownPolicy::Block;
        }
        for _ in 0..rng.between(1, 3) {
            let at = rng.between(20_000, self.calm_at.saturating_sub(10_000));
            let action = match rng.below(100) {
                0..=29 => Action::ScaleSet(i32::try_from(rng.below(7)).unwrap_or(3)),
                30..=39 => Action::DeleteSet,
                40..=69 => Action::DeleteChild(rng.below(100)),
                70..=89 => Action::Unlabel(rng.below(100)),
                _ => Action::Redirect,
            };
            self.actions.push((at, action));
        }
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// Up, down, and up again in the middle of the drain.
    fn wave(&mut self, rng: &mut Rng, at: u64) -> Action {
        let down = at + rng.between(15_000, 60_000);
        self.actions.push((down, Action::Scale(3)));
        self.actions.push((down + rng.between(1_000, 12_000), Action::Scale(5)));
        Action::Scale(5)
    }

    /// The size of a disk as the spec has it.
    #[must_use]
    pub fn size(gib: u64) -> Quantity {
        Quantity(format!("{gib}Gi"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        let spec = serde_yaml::to_string(&self.spec).unwrap_or_default();
        spec.lines().try_for_each(|line| writeln!(f, "spec    {line}"))?;
        for topic in &self.topics {
            let (partitions, replicas) = (topic.partitions, topic.replication);
            writeln!(f, "topic   {} with {partitions} x {replicas}, {} in sync", topic.name, topic.min_isr)?;
        }
        writeln!(f, "pace    {:?}", self.pace)?;
        writeln!(f, "world   disks grow: {} in {} ms", self.expandable, self.resize_ms)?;
        writeln!(f, "world   reads classes: {}, nodes: {}", self.may_read_classes, self.may_read_nodes)?;
        writeln!(f, "world   zones of nodes: {:?}", self.zones)?;
        let (lost, late, conflicts) = (self.lost_answers, self.late_errors, self.conflicts);
        writeln!(f, "faults  errors {}, lost answers {lost}, late errors {late}, conflicts {conflicts}", self.errors)?;
        writeln!(f, "faults  refusals {}, kills {} (of 1000 each)", self.refusals, self.kills)?;
        writeln!(f, "faults  lists {} ms old, two operators: {}", self.stale_ms, self.two_operators)?;
        for (at, action) in &self.actions {
            writeln!(f, "{:>7} {action:?}", format!("{}.{}", at / 1000, at % 1000 / 100))?;
        }
        write!(f, "{:>7} faults end", self.calm_at / 1000)
    }
}
