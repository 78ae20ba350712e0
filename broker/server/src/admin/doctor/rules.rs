//! The rules, pure: facts in, findings out. Ordered from the network up to the partitions, because a cause explains
//! what stands below it.

use std::collections::BTreeSet;

use super::{Facts, Finding};
use crate::admin::status::{Peer, ProbeFailure, Status};

/// Clocks that differ by more make timestamps and retention misleading.
const MAX_CLOCK_OFFSET_MS: u64 = 1000;
/// Silence of a connected peer that is longer than this is worth a finding (several heartbeats).
const SILENCE_MS: u64 = 2000;
/// A proposal that waits longer than this is stuck.
const STUCK_MS: u64 = 2000;

/// Findings that an ordinary election or restart shows for a moment; reported only when a second look agrees.
pub(super) fn may_pass(id: &str) -> bool {
    !matches!(
        id,
        "peer_unregistered"
            | "dns_name_missing"
            | "clock_skew"
            | "disk_full"
            | "log_dir_offline"
            | "raft_failed"
            | "groups_not_loaded"
    )
}

/// Findings whose broker may be another one at the second look, because the cause moves from candidate to candidate.
pub(super) fn may_wander(id: &str) -> bool {
    matches!(id, "leader_not_broadcasting" | "voters_differ")
}

/// All findings; `before` are the facts of an earlier look, if there was one.
#[must_use]
pub fn diagnose(facts: &Facts, before: Option<&Facts>) -> Vec<Finding> {
    let mut findings = Vec::new();
    peers(facts, &mut findings);
    quorum(facts, &mut findings);
    voters(facts, &mut findings);
    broadcasting(facts, &mut findings);
    commit(facts, before, &mut findings);
    clocks(facts, &mut findings);
    disks(facts, &mut findings);
    groups(facts, &mut findings);
    registration(facts, &mut findings);
    partitions(facts, &mut findings);
    findings
}

impl Facts {
    /// Every status at hand, this broker's first.
    fn statuses(&self) -> impl Iterator<Item = &Status> {
        std::iter::once(&self.me).chain(self.answers.values().filter_map(|a| a.as_ref().ok()).map(|a| &a.status))
    }

    fn status_of(&self, node: i32) -> Option<&Status> {
        self.statuses().find(|s| s.node_id == node)
    }

    /// A broker other than `deaf` that hears `node` right now, by its own account.
    fn heard_by(&self, node: i32, deaf: i32) -> Option<i32> {
        self.statuses()
            .filter(|s| s.node_id != node && s.node_id != deaf)
            .find(|s| s.peers.iter().any(|p| p.node == node && hears(p)))
            .map(|s| s.node_id)
    }
}

fn hears(peer: &Peer) -> bool {
    peer.connected && peer.last_received_ms_ago.is_some_and(|ms| ms < SILENCE_MS)
}

fn finding(id: &str, node: i32, peer: Option<i32>, what: String, fix: impl Into<String>) -> Finding {
    Finding { id: id.to_owned(), node, peer, what, fix: fix.into() }
}

fn peers(facts: &Facts, findings: &mut Vec<Finding>) {
    let me = facts.me.node_id;
    for (&node, answer) in &facts.answers {
        let Err(failure) = answer else { continue };
        findings.push(match failure {
            ProbeFailure::Unregistered => finding(
                "peer_unregistered",
                node,
                Some(me),
                format!("Broker {me} has no address for broker {node}, which is a member of the cluster."),
                format!("Add broker {node} to the peers of broker {me} (peers, cluster.yaml or the DNS name) and check its id."),
            ),
            ProbeFailure::Name { name, error } => finding(
                "dns_name_missing",
                node,
                Some(me),
                format!("The name {name} of broker {node} does not resolve on broker {me}: {error}."),
                "Check that the pod exists and that the headless Service publishes not-ready addresses.",
            ),
            ProbeFailure::Refused { address } => finding(
                "peer_unreachable",
                node,
                Some(me),
                format!("Broker {me} cannot reach broker {node}: {address} refuses connections."),
                format!("Check that broker {node} runs and that {address} is its raft.port."),
            ),
            ProbeFailure::Silent { address } => silent(facts, node, address),
            ProbeFailure::Other { address, error } => finding(
                "peer_refused",
                node,
                Some(me),
                format!("Broker {me} reached {address}, but it does not act as broker {node}: {error}."),
                "Check addresses, ids and cluster ids of both brokers.",
            ),
        });
    }
    // What a peer that answers says of third brokers, so that the doctor sees from anywhere what only one broker suffers.
    for status in facts.statuses().filter(|s| s.node_id != me) {
        for peer in status.peers.iter().filter(|p| p.node != me && p.node != status.node_id && !p.connected) {
            if let Some(witness) = facts.heard_by(peer.node, status.node_id) {
                findings.push(one_way(status.node_id, peer.node, witness));
            }
        }
    }
}

fn silent(facts: &Facts, node: i32, address: &str) -> Finding {
    let me = facts.me.node_id;
    if let Some(witness) = facts.heard_by(node, me) {
        return one_way(me, node, witness);
    }
    finding(
        "follower_silent",
        node,
        Some(me),
        format!("Broker {node} at {address} does not answer broker {me}, and no other broker hears it either."),
        format!("Look whether the process of broker {node} is frozen or its node is cut off; restart it if it is."),
    )
}

fn one_way(deaf: i32, node: i32, witness: i32) -> Finding {
    finding(
        "answers_not_arriving",
        deaf,
        Some(node),
        format!("Broker {node} is alive (broker {witness} hears it), but its answers do not arrive at broker {deaf}."),
        format!("Check network policies and firewalls between brokers {deaf} and {node}, in both directions."),
    )
}

fn quorum(facts: &Facts, findings: &mut Vec<Finding>) {
    let me = &facts.me;
    let voters = &me.raft.voters;
    if voters.is_empty() {
        return;
    }
    let alive = |node: &i32| *node == me.node_id || facts.answers.get(node).is_some_and(Result::is_ok);
    let missing: Vec<String> = voters.iter().filter(|v| !alive(v)).map(ToString::to_string).collect();
    let reached = voters.len() - missing.len();
    if reached <= voters.len() / 2 {
        findings.push(finding(
            "quorum_lost",
            me.node_id,
            None,
            format!(
                "The quorum is lost as seen from broker {}: it reaches {reached} of {} voters, brokers {} are missing.",
                me.node_id,
                voters.len(),
                missing.join(", "),
            ),
            format!(
                "Bring back enough of brokers {} for a majority, or repair the network to them.",
                missing.join(", ")
            ),
        ));
    }
}

fn voters(facts: &Facts, findings: &mut Vec<Finding>) {
    for status in facts.statuses().filter(|s| s.raft.voters.is_empty()) {
        findings.push(finding(
            "voters_empty",
            status.node_id,
            None,
            format!("Broker {} has no voters: it was not bootstrapped and no cluster has taken it in.", status.node_id),
            "If it should join, check that its peers point at a running cluster; if it should found one, set bootstrap.voters on empty storage.",
        ));
    }
    let set = |s: &Status| s.raft.voters.iter().copied().collect::<BTreeSet<_>>();
    // A lagging replica may still know older voters, so only replicas that follow nobody or another leader are compared.
    let mine = facts.statuses().find(|s| !s.raft.voters.is_empty() && s.raft.leader.is_some());
    let Some(reference) = mine else { return };
    for other in facts.statuses().filter(|s| !s.raft.voters.is_empty() && set(s) != set(reference)) {
        findings.push(finding(
            "voters_differ",
            other.node_id,
            Some(reference.node_id),
            format!(
                "Brokers {} and {} disagree on the voters: {:?} and {:?}.",
                other.node_id, reference.node_id, other.raft.voters, reference.raft.voters
            ),
            format!("Broker {} was bootstrapped with other voters: stop it, empty its data directory if it holds nothing of value, and let it join.", other.node_id),
        ));
    }
}

fn broadcasting(facts: &Facts, findings: &mut Vec<Finding>) {
    for leader in facts.statuses().filter(|s| s.raft.role == "leader") {
        let deaf: Vec<i32> = leader
            .raft
            .voters
            .iter()
            .filter_map(|v| facts.status_of(*v))
            .filter(|s| s.node_id != leader.node_id && s.raft.leader != Some(leader.node_id))
            .map(|s| s.node_id)
            .collect();
        if !deaf.is_empty() && deaf.len() + 1 > leader.raft.voters.len() / 2 {
            findings.push(finding(
                "leader_not_broadcasting",
                leader.node_id,
                deaf.first().copied(),
                format!(
                    "Broker {} was elected leader in term {}, but its messages do not reach brokers {deaf:?}.",
                    leader.node_id, leader.raft.term
                ),
                format!("Check what broker {} sends (/status: messages_out, peers.dropped) and the way from it to the others.", leader.node_id),
            ));
        }
    }
    // The same cause when nobody stays leader for long: votes arrive, appends and heartbeats never do.
    let elected = |s: &&Status| s.raft.elections > 0;
    let never = |s: &Status| !["MsgAppend", "MsgHeartbeat"].iter().any(|m| s.raft.messages_in.contains_key(*m));
    let statuses: Vec<&Status> = facts.statuses().collect();
    let found_already = findings.iter().any(|f| f.id == "leader_not_broadcasting");
    if !found_already
        && statuses.len() > 1
        && statuses.iter().all(|s| never(s))
        && let Some(candidate) = statuses.iter().copied().find(elected)
    {
        findings.push(finding(
            "leader_not_broadcasting",
            candidate.node_id,
            None,
            format!(
                "Elections are won (broker {} is at term {}), but no broker ever received a leader's append or heartbeat.",
                candidate.node_id, candidate.raft.term
            ),
            "Check the way between the brokers' raft ports: small messages pass, the leader's do not.",
        ));
    }
}

fn commit(facts: &Facts, before: Option<&Facts>, findings: &mut Vec<Finding>) {
    for leader in facts.statuses().filter(|s| s.raft.role == "leader") {
        let stood_still = before
            .and_then(|b| b.status_of(leader.node_id))
            .is_none_or(|earlier| earlier.raft.commit == leader.raft.commit);
        if leader.raft.oldest_proposal_ms > STUCK_MS && stood_still {
            let behind: Vec<i32> =
                leader.raft.progress.iter().filter(|p| p.matched < leader.raft.last_index).map(|p| p.node).collect();
            findings.push(finding(
                "commit_stuck",
                leader.node_id,
                behind.first().copied(),
                format!(
                    "Nothing commits on leader {}: commit index {} of {}, the oldest proposal waits for {} ms, brokers {behind:?} are behind.",
                    leader.node_id, leader.raft.commit, leader.raft.last_index, leader.raft.oldest_proposal_ms
                ),
                "Bring the brokers that are behind back; look at their disks and at raft.failure in their /status.",
            ));
        }
    }
    for status in facts.statuses() {
        if let Some(failure) = &status.raft.failure {
            findings.push(finding(
                "raft_failed",
                status.node_id,
                None,
                format!("The metadata replica of broker {} has stopped: {failure}.", status.node_id),
                format!("Repair the disk of broker {} and restart it.", status.node_id),
            ));
        }
    }
}

fn clocks(facts: &Facts, findings: &mut Vec<Finding>) {
    for (&node, answer) in &facts.answers {
        let Ok(answer) = answer else { continue };
        if answer.clock_offset_ms.unsigned_abs() > MAX_CLOCK_OFFSET_MS {
            let direction = if answer.clock_offset_ms > 0 { "ahead of" } else { "behind" };
            findings.push(finding(
                "clock_skew",
                node,
                Some(facts.me.node_id),
                format!(
                    "The clock of broker {node} is {:.1} s {direction} that of broker {}.",
                    answer.clock_offset_ms.unsigned_abs() as f64 / 1000.0,
                    facts.me.node_id
                ),
                "Run a time service (chrony, systemd-timesyncd) on both nodes: timestamps and retention depend on it.",
            ));
        }
    }
}

fn disks(facts: &Facts, findings: &mut Vec<Finding>) {
    for status in facts.statuses() {
        let dir = &status.log_dir;
        let reason = dir.reason.as_deref().unwrap_or("no reason given");
        let full = reason.contains("No space") || reason.contains("ENOSPC") || reason.contains("os error 28");
        let nearly = dir.total_bytes > 0 && dir.free_bytes < dir.total_bytes / 100;
        if dir.state == "offline" && !full {
            findings.push(finding(
                "log_dir_offline",
                status.node_id,
                None,
                format!("The log directory {} of broker {} is offline: {reason}.", dir.path, status.node_id),
                format!("Replace or repair the disk, then restart broker {}.", status.node_id),
            ));
        } else if dir.state == "offline" || nearly {
            findings.push(finding(
                "disk_full",
                status.node_id,
                None,
                format!(
                    "The disk of broker {} is full: {} has {} MiB free and is {}.",
                    status.node_id,
                    dir.path,
                    dir.free_bytes >> 20,
                    dir.state
                ),
                format!("Free space or grow the disk (storage.size), then restart broker {}.", status.node_id),
            ));
        }
    }
}

fn groups(facts: &Facts, findings: &mut Vec<Finding>) {
    for status in facts.statuses() {
        let node = status.node_id;
        for lost in &status.replication.unloaded_groups {
            findings.push(finding(
                "groups_not_loaded",
                node,
                None,
                format!(
                    "Broker {node} leads __consumer_offsets-{} and cannot load the consumer groups in it, which wait: {}.",
                    lost.partition, lost.reason
                ),
                format!(
                    "Stop broker {node}, so that a replica with a whole copy leads; then check its disk, and start it on an empty data directory when the partition has another in-sync replica."
                ),
            ));
        }
    }
}

fn registration(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(source) = facts.statuses().find(|s| s.raft.leader == Some(s.node_id)).or_else(|| facts.statuses().next())
    else {
        return;
    };
    for broker in source.brokers.iter().filter(|b| b.fenced) {
        if facts.status_of(broker.node).is_some_and(|s| s.raft.failure.is_none()) {
            findings.push(finding(
                "broker_fenced",
                broker.node,
                None,
                format!(
                    "Broker {} answers but is fenced: its heartbeats do not reach the leader, or it has not caught up.",
                    broker.node
                ),
                format!("Look at startup, raft.leader and not_ready_because in the /status of broker {}.", broker.node),
            ));
        }
    }
}

fn partitions(facts: &Facts, findings: &mut Vec<Finding>) {
    let numbers = &facts.me.replication;
    if numbers.leaderless > 0 {
        let mut what = format!("{} of {} partitions have no leader.", numbers.leaderless, numbers.partitions);
        if !numbers.awaited.is_empty() {
            what.push_str(&format!(
                " They wait for brokers {:?}, which may hold acknowledged records that nobody else has.",
                numbers.awaited
            ));
        }
        findings.push(finding(
            "partitions_without_leader",
            facts.me.node_id,
            None,
            what,
            "Bring back the brokers that hold their in-sync replicas; `kafka-topics --describe --unavailable-partitions` lists them.",
        ));
    }
    if numbers.under_min_isr > 0 {
        findings.push(finding(
            "partitions_below_min_isr",
            facts.me.node_id,
            None,
            format!(
                "{} partitions refuse acks=all: fewer in-sync replicas than min.insync.replicas.",
                numbers.under_min_isr
            ),
            "Bring back their replicas; `kafka-topics --describe --under-min-isr-partitions` lists them.",
        ));
    }
}
