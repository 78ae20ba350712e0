//! The Raft leader's view of who is alive.

use super::*;

struct Watch {
    cluster: Cluster,
    liveness: Liveness,
    now: u64,
}

impl Watch {
    fn of(cluster: Cluster) -> Self {
        let mut liveness = Liveness::new(LivenessConfig::default());
        liveness.become_leader(10_000, &cluster.state);
        Self { cluster, liveness, now: 10_000 }
    }

    fn beat_with(&mut self, node: i32, change: impl FnOnce(&mut Heartbeat)) -> HeartbeatReply {
        let mut heartbeat = Heartbeat {
            node: NodeId(node),
            broker_epoch: self.cluster.epoch(node),
            applied: self.cluster.state.applied(),
            wants_shutdown: false,
            offline_dirs: Vec::new(),
        };
        change(&mut heartbeat);
        self.liveness.on_heartbeat(self.now, &heartbeat, &self.cluster.state).unwrap()
    }

    fn beat(&mut self, node: i32) -> HeartbeatReply {
        self.beat_with(node, |_| ())
    }

    /// What is proposed now, by name and broker; nothing of it is committed.
    fn tick(&mut self) -> Vec<Command> {
        self.liveness.tick(self.now, &self.cluster.state)
    }

    /// Commits what is proposed now.
    fn settle(&mut self) -> Vec<&'static str> {
        let commands = self.tick();
        let names = commands.iter().map(Command::name).collect();
        for command in commands {
            self.cluster.accept(command);
        }
        names
    }
}

#[test]
fn a_new_leader_gives_every_broker_a_fresh_session() {
    // KAFKA-18138
    let mut watch = Watch::of(Cluster::of(3));
    watch.now += 2_999;
    assert_eq!(watch.tick(), []);
    watch.liveness.resign();
    watch.now += 60_000;
    assert_eq!(watch.tick(), [], "who does not lead proposes nothing");
    watch.liveness.become_leader(watch.now, &watch.cluster.state);
    assert_eq!(watch.tick(), []);
    assert_eq!(watch.liveness.next_deadline(watch.now, &watch.cluster.state), Some(watch.now + 3_000));
    watch.now += 3_000;
    assert_eq!(watch.settle(), ["FenceBroker"; 3]);
}

#[test]
fn a_silent_broker_is_fenced_when_its_session_ends_and_proposed_once() {
    let mut watch = Watch::of(Cluster::of(2));
    watch.now += 2_000;
    watch.beat(1);
    watch.now += 1_000;
    let commands = watch.tick();
    assert!(matches!(&commands[..], [Command::FenceBroker(fence)] if fence.node == NodeId(2)), "{commands:?}");
    assert_eq!(watch.tick(), [], "in flight");
    assert_eq!(watch.liveness.next_deadline(watch.now, &watch.cluster.state), Some(watch.now + 1_000));
    watch.liveness.on_proposal_failed(&commands[0]);
    assert_eq!(watch.tick(), commands, "failed, so again");
    watch.now += 1_000;
    watch.beat(1);
    assert_eq!(watch.settle(), ["FenceBroker"], "without effect for a second, so again");
    assert_eq!(watch.tick(), [], "done");
}

#[test]
fn a_refused_connection_fences_at_once_and_late_heartbeats_of_the_dead_do_not_count() {
    let mut watch = Watch::of(Cluster::of(2));
    watch.beat(2);
    watch.liveness.on_connection_refused(watch.now, NodeId(2), &watch.cluster.state);
    watch.now += 1;
    assert!(watch.beat(2).fenced);
    assert_eq!(watch.settle(), ["FenceBroker"]);
    watch.beat(2);
    assert_eq!(watch.tick(), []);
    watch.cluster.register(2, BrokerEpoch::NONE);
    watch.beat(2);
    assert_eq!(watch.settle(), ["UnfenceBroker"], "the new process is welcome at once");
}

#[test]
fn a_broker_is_unfenced_when_it_replayed_its_own_registration() {
    let mut watch = Watch::of(Cluster::of(1));
    watch.cluster.register(2, BrokerEpoch::NONE);
    assert_eq!(watch.tick(), [], "never heard of");
    let epoch = watch.cluster.epoch(2).0 as u64;
    assert!(watch.beat_with(2, |heartbeat| heartbeat.applied = RaftIndex(epoch - 1)).fenced);
    assert_eq!(watch.tick(), []);
    watch.beat(2);
    assert_eq!(watch.settle(), ["UnfenceBroker"]);
    assert!(!watch.beat(2).fenced);
}

#[test]
fn a_heartbeat_of_a_past_registration_is_told_so_and_does_not_count() {
    let mut watch = Watch::of(Cluster::of(1));
    let old = watch.cluster.epoch(1);
    watch.cluster.register(1, BrokerEpoch::NONE);
    assert!(watch.beat_with(1, |heartbeat| heartbeat.broker_epoch = old).stale_epoch);
    assert!(watch.beat_with(9, |_| ()).stale_epoch);
    assert_eq!(watch.tick(), []);
}

#[test]
fn a_broker_may_stop_when_all_others_know_who_leads_instead() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    let mut watch = Watch::of(cluster);
    watch.beat(2);
    watch.beat(3);
    let wants = |heartbeat: &mut Heartbeat| heartbeat.wants_shutdown = true;
    assert!(!watch.beat_with(1, wants).may_shut_down);
    assert_eq!(watch.settle(), ["BeginControlledShutdown"]);
    assert_eq!(watch.cluster.p().leader, Some(NodeId(2)));
    watch.beat(2);
    assert!(!watch.beat_with(1, wants).may_shut_down, "3 has not replayed it");
    watch.beat(3);
    assert!(watch.beat_with(1, wants).may_shut_down);
    assert_eq!(watch.settle(), ["FenceBroker"], "it goes now");
    watch.beat_with(1, wants);
    assert_eq!(watch.tick(), []);
}

#[test]
fn a_broker_whose_partition_nobody_can_take_over_may_stop_all_the_same() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1]]);
    let mut watch = Watch::of(cluster);
    watch.beat(2);
    let wants = |heartbeat: &mut Heartbeat| heartbeat.wants_shutdown = true;
    watch.beat_with(1, wants);
    watch.settle();
    watch.beat(2);
    assert!(watch.beat_with(1, wants).may_shut_down);
}

#[test]
fn a_broker_that_leads_alone_waits_for_a_live_follower_to_catch_up() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    let mut watch = Watch::of(cluster);
    let wants = |heartbeat: &mut Heartbeat| heartbeat.wants_shutdown = true;
    watch.beat_with(1, wants);
    watch.settle();
    watch.beat(2);
    assert!(!watch.beat_with(1, wants).may_shut_down);
    watch.cluster.set_isr(&[1, 2]);
    watch.beat(2);
    assert!(watch.beat_with(1, wants).may_shut_down);
}

#[test]
fn a_failed_disk_is_reported_once_and_keeps_the_broker_from_being_unfenced() {
    let mut watch = Watch::of(Cluster::of(1));
    let lost = |heartbeat: &mut Heartbeat| heartbeat.offline_dirs = vec![Uuid::from_u128(1001)];
    watch.beat_with(1, lost);
    assert_eq!(watch.settle(), ["OfflineDirs"]);
    watch.beat_with(1, lost);
    assert_eq!(watch.tick(), []);
    watch.cluster.fence(1);
    watch.beat_with(1, lost);
    assert_eq!(watch.tick(), []);
}

#[test]
fn preferred_leaders_are_elected_periodically_when_leadership_is_unbalanced() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2], &[2, 1]]);
    cluster.fence(1);
    cluster.restart(1);
    let mut watch = Watch::of(cluster);
    watch.now += 299_999;
    watch.beat(1);
    watch.beat(2);
    assert_eq!(watch.tick(), []);
    watch.now += 1;
    assert_eq!(watch.tick(), [], "1 is not in sync yet");
    watch.cluster.set_isr(&[2, 1]);
    watch.now += 300_000;
    watch.beat(1);
    watch.beat(2);
    assert_eq!(watch.settle(), ["ElectLeaders"]);
    assert_eq!(watch.cluster.p().leader, Some(NodeId(1)));
}

#[test]
fn a_leader_elected_again_forgets_what_it_knew_in_its_last_leadership() {
    let mut watch = Watch::of(Cluster::of(1));
    watch.liveness.on_connection_refused(watch.now, NodeId(1), &watch.cluster.state);
    watch.now += 5_000;
    watch.liveness.become_leader(watch.now, &watch.cluster.state);
    assert_eq!(watch.tick(), []);
}
