//! Does what the balancer plans, a little at a time.
//!
//! Each call looks at the metadata as of now, so that calls may be repeated, lost and made at any broker: what the last
//! one began is under way or done, and a move that was planned from an older state is refused by its epoch.

use chronik_core::balance::{self, Cluster, Move, Plan};
use chronik_core::controller::throttle::REASSIGNMENT_RATE;
use chronik_core::controller::{
    AlterConfigs, AlterReassignments, Assignment, CommandResult, ConfigChange, ConfigOp, ConfigResource, ConfigSource,
    ElectLeaders, ElectionType, MetadataState, PartitionRef, Reassignment,
};
use chronik_model::ErrorCode;

use super::{ControlApi, Refusal, proto};

/// Most partitions under reassignment that a caller may ask for.
const MAX_IN_FLIGHT: i32 = 1_000;
/// Most partitions that one call gives another order, and most leaders that it elects.
const CHEAP_CHANGES: usize = 200;
/// Moves that are told.
const TOLD: usize = 10;
/// Reasons that are told.
const REASONS: usize = 3;

/// What one call came to.
#[derive(Default)]
struct Begun {
    /// Moves begun, of those planned.
    moves: usize,
    /// Partitions given another order.
    reorders: usize,
    /// Leaders elected.
    elected: usize,
    /// Why something was refused.
    problems: Vec<String>,
    told: Vec<String>,
}

impl ControlApi {
    pub(super) async fn rebalance_now(
        &self,
        request: proto::RebalanceRequest,
    ) -> Result<proto::RebalanceProgress, Refusal> {
        if !(1..=MAX_IN_FLIGHT).contains(&request.max_in_flight) {
            let given = request.max_in_flight;
            return Err(Refusal::Never(format!("max_in_flight is {given}, accepted: 1 to {MAX_IN_FLIGHT}")));
        }
        let _one_at_a_time = self.planning.lock().await;
        self.catch_up().await?;
        if request.throttle_bytes_per_second > 0 && !request.dry_run {
            self.throttle(request.throttle_bytes_per_second).await?;
        }
        let cluster = cluster_of(&self.shared().state.read(), &self.myself.sizes());
        let planning = tokio::task::spawn_blocking(move || balance::plan(&cluster));
        let plan = planning.await.map_err(|error| Refusal::NotNow(error.to_string()))?;
        let slots = usize::try_from(request.max_in_flight).unwrap_or(0).saturating_sub(plan.in_flight);
        let begun = if request.dry_run { pretend(&plan, slots) } else { self.begin(&plan, slots).await? };
        let bytes = self.bytes_remaining();
        Ok(report(&plan, begun, bytes))
    }

    /// Sets how fast each broker copies, if it is another rate now.
    async fn throttle(&self, rate: u64) -> Result<(), Refusal> {
        let rate = rate.min(i64::MAX.unsigned_abs()).to_string();
        let known = {
            let views = self.shared().state.read().describe_broker_configs(None);
            let view = views.into_iter().find(|view| view.def.broker_name == REASSIGNMENT_RATE);
            let layers = view.map(|view| view.synonyms).unwrap_or_default();
            layers.into_iter().find(|value| value.source == ConfigSource::ClusterDefault).and_then(|layer| layer.value)
        };
        if known.as_deref() == Some(rate.as_str()) {
            return Ok(());
        }
        let change = ConfigChange { name: REASSIGNMENT_RATE.to_owned(), op: ConfigOp::Set, value: Some(rate) };
        let changes = vec![change];
        self.run(AlterConfigs { resource: ConfigResource::ClusterDefault, changes, replace: false }).await.map(drop)
    }

    async fn begin(&self, plan: &Plan, slots: usize) -> Result<Begun, Refusal> {
        let mut begun = Begun::default();
        let moves: Vec<&Move> = plan.moves.iter().take(slots).collect();
        if !moves.is_empty() {
            begun.moves = self.reassign(&moves, &mut begun.problems).await?;
            begun.told = told(&moves);
        }
        if plan.moves.is_empty() && plan.in_flight == 0 && !plan.reorders.is_empty() {
            let reorders: Vec<&Move> = plan.reorders.iter().take(CHEAP_CHANGES).collect();
            begun.reorders = self.reassign(&reorders, &mut begun.problems).await?;
            begun.told = told(&reorders);
        }
        if plan.moves.is_empty() && plan.in_flight == 0 && plan.reorders.len() == begun.reorders {
            begun.elected = self.elect(plan).await?;
        }
        Ok(begun)
    }

    /// How many of the moves are under way or done.
    async fn reassign(&self, moves: &[&Move], problems: &mut Vec<String>) -> Result<usize, Refusal> {
        let wanted = moves.iter().map(|change| Reassignment {
            topic_id: change.topic_id,
            partition: change.partition,
            target: Some(Assignment { replicas: change.to.clone() }),
            partition_epoch: Some(change.epoch),
        });
        let command = AlterReassignments { reassignments: wanted.collect(), keep_replication_factor: false };
        let CommandResult::Reassignments(outcomes) = self.run(command).await? else {
            return Err(Refusal::NotNow("the controller answered something else".into()));
        };
        let mut begun = 0;
        for (change, outcome) in moves.iter().zip(outcomes) {
            match outcome.code {
                ErrorCode::None => begun += 1,
                // The partition has changed meanwhile: the next call looks at it as it is.
                ErrorCode::InvalidUpdateVersion | ErrorCode::UnknownTopicId => {}
                _ => problems.push(format!("{change}: {}", outcome.message)),
            }
        }
        Ok(begun)
    }

    /// Elects preferred leaders, those of partitions that were just given another order too.
    async fn elect(&self, plan: &Plan) -> Result<usize, Refusal> {
        let partition = |topic: &chronik_model::TopicName, partition| PartitionRef { topic: topic.clone(), partition };
        let asked = plan.elections.iter().map(|election| partition(&election.topic, election.partition));
        let ordered = plan.reorders.iter().map(|change| partition(&change.topic, change.partition));
        let partitions: Vec<PartitionRef> = ordered.chain(asked).take(CHEAP_CHANGES).collect();
        if partitions.is_empty() {
            return Ok(0);
        }
        let command = ElectLeaders { election: ElectionType::Preferred, partitions };
        match self.run(command).await? {
            CommandResult::Elections(outcomes) => {
                Ok(outcomes.iter().filter(|outcome| outcome.code == ErrorCode::None).count())
            }
            _ => Err(Refusal::NotNow("the controller answered something else".into())),
        }
    }

    /// What replicas being added still have to copy, of the partitions whose size this broker knows. They may have part
    /// of it already.
    fn bytes_remaining(&self) -> u64 {
        let state = self.shared().state.read();
        let me = self.shared().node;
        let left = self.myself.sizes().into_iter().filter_map(|(topic, index, bytes)| {
            let partition = state.topic(&topic)?.partition(index.into())?;
            let missing = partition.adding.iter().filter(|node| !partition.isr.contains(node)).count();
            (partition.leader == Some(me)).then(|| bytes.saturating_mul(missing as u64))
        });
        left.fold(0, u64::saturating_add)
    }
}

fn told(moves: &[&Move]) -> Vec<String> {
    moves.iter().take(TOLD).map(ToString::to_string).collect()
}

/// What a dry run tells.
fn pretend(plan: &Plan, slots: usize) -> Begun {
    let next: Vec<&Move> = plan.moves.iter().take(slots).chain(&plan.reorders).collect();
    Begun { told: told(&next), ..Begun::default() }
}

fn report(plan: &Plan, begun: Begun, bytes_remaining: u64) -> proto::RebalanceProgress {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let left = (plan.moves.len() - begun.moves.min(plan.moves.len()))
        + (plan.reorders.len() - begun.reorders.min(plan.reorders.len()))
        + plan.stuck;
    let reasons = plan.blocked.iter().map(ToString::to_string).chain(begun.problems);
    proto::RebalanceProgress {
        in_flight: count(plan.in_flight + begun.moves),
        remaining: count(left),
        bytes_remaining,
        leaders_moved: count(begun.elected),
        blocked: reasons.take(REASONS).collect::<Vec<_>>().join("; "),
        moves: begun.told,
    }
}

/// The metadata as the balancer looks at it, with the sizes of the partitions that are here.
fn cluster_of(state: &MetadataState, sizes: &[(String, i32, u64)]) -> Cluster {
    let mut sizes: Vec<(&str, i32, u64)> = sizes.iter().map(|(topic, index, size)| (&**topic, *index, *size)).collect();
    sizes.sort_unstable();
    let size = |topic: &str, index: i32| {
        let found = sizes.binary_search_by(|(t, i, _)| (*t, *i).cmp(&(topic, index))).ok()?;
        sizes.get(found).map(|(_, _, bytes)| *bytes)
    };
    Cluster {
        brokers: state
            .brokers()
            .map(|broker| balance::Broker {
                node: broker.node,
                rack: broker.rack.clone(),
                live: broker.is_active(),
                cordoned: broker.cordoned,
            })
            .collect(),
        partitions: state
            .partitions()
            .map(|(topic, index, partition)| balance::Partition {
                topic: topic.name.clone(),
                topic_id: topic.id,
                partition: index,
                epoch: partition.partition_epoch,
                replicas: partition.replicas.clone(),
                isr: partition.isr.clone(),
                leader: partition.leader,
                adding: partition.adding.clone(),
                removing: partition.removing.clone(),
                bytes: size(topic.name.as_str(), index.0),
            })
            .collect(),
    }
}
