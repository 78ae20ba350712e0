"""The doctor names each cause by its own finding: what is wrong, on which broker, and what to do."""

import subprocess

import yaml
from harness import dns, wait
from harness.cluster import BROKER, Cluster
from test_network import DnsCluster, in_namespaces, publish


def finding(broker, identifier, node=None, timeout=120):
    """Waits until the doctor of `broker` reports `identifier` (about `node`) and returns the finding."""

    def found():
        for entry in broker.doctor():
            if entry["id"] == identifier and (node is None or entry["node"] == node):
                assert entry["what"] and entry["fix"], entry
                return entry
        return None

    return wait.until(found, f"finding {identifier} about {node} on broker {broker.id}", timeout, interval=0.3)


def ask(command, broker):
    """What the command says of a running broker."""
    return subprocess.run([BROKER, command, "--admin", broker.admin], capture_output=True, text=True, timeout=120, check=False)


def test_a_healthy_cluster_has_no_findings(cluster):
    for broker in cluster.running():
        wait.until(lambda b=broker: b.doctor() == [], f"no findings on {broker.id}")
    wait.until(lambda: ask("doctor", cluster[1]).returncode == 0, "the doctor's command to find nothing")
    done = ask("status", cluster[1])
    assert done.returncode == 0 and "leader" in done.stdout.lower(), done.stdout + done.stderr


def test_a_peer_with_a_wrong_port_is_named(tmp_path):
    class Wrong(Cluster):
        def membership(self, broker):
            keys = super().membership(broker)
            if broker.id == 1:
                keys["peers"][1] = {**keys["peers"][1], "raft.port": 1}
            return keys

    with Wrong(tmp_path) as cluster:
        # Broker 1 or 2 may not get ready, depending on which of them leads: nothing gets from 1 to 2.
        cluster.start().wait_ready(3)
        entry = finding(cluster[1], "peer_unreachable", 2)
        assert ":1" in entry["what"], entry


def test_a_member_without_an_address_is_named(tmp_path):
    class Mounted(Cluster):
        """Brokers that read a mounted cluster.yaml, as the operator's ConfigMap gives it; it forgets broker 3."""

        def membership(self, broker):
            path = broker.dir / "cluster.yaml"
            path.write_text(yaml.safe_dump({
                "clusterId": "e2e-cluster",
                "bootstrapVoters": self.bootstrap_voters,
                "join": False,
                "peers": [{"id": b.id, "host": b.host, "raftPort": b.raft_port} for b in self.brokers.values() if b.id != 3],
            }))
            return {"cluster.file": str(path), "first.boot.wait.ms": 1000}

    with Mounted(tmp_path) as cluster:
        cluster[1].start()
        cluster[2].start()
        cluster.wait_ready(1, 2)
        finding(cluster[1], "peer_unregistered", 3)
        assert sorted(cluster[1].status()["raft"]["voters"]) == [1, 2, 3]


@in_namespaces
def test_a_missing_dns_name_is_named(tmp_path, network):
    with dns.Server(network.address(254), 53) as server:
        with DnsCluster(tmp_path, network=network, **{"first.boot.wait.ms": 3000}) as cluster:
            publish(server.zone, cluster, [1, 2])
            cluster[1].start()
            cluster[2].start()
            cluster.wait_ready(1, 2)
            entry = finding(cluster[1], "dns_name_missing", 3)
            assert "chronik-2" in entry["what"] or "broker 3" in entry["what"], entry


def test_different_voters_on_two_brokers_are_named(tmp_path):
    class Different(Cluster):
        def membership(self, broker):
            keys = super().membership(broker)
            if broker.id == 3:
                keys["bootstrap.voters"] = [3]
            return keys

    with Different(tmp_path) as cluster:
        cluster[1].start()
        cluster[2].start()
        cluster[3].start()
        cluster.wait_ready(1, 2)
        finding(cluster[1], "voters_differ", 3)


def test_a_broker_without_voters_is_named(tmp_path):
    with Cluster(tmp_path) as cluster:
        lonely = cluster.add(4)
        lonely.start()
        finding(lonely, "voters_empty", 4)


def test_a_lost_quorum_and_dead_followers_are_named(cluster):
    cluster[2].kill()
    finding(cluster[1], "peer_unreachable", 2)
    cluster[3].kill()
    finding(cluster[1], "quorum_lost")
    wait.until(lambda: cluster[1].http("/readyz")[0] == 503, "unreadiness")
    done = ask("doctor", cluster[1])
    assert done.returncode == 1 and "quorum" in done.stdout.lower(), done.stdout + done.stderr


def test_a_follower_that_does_not_answer_is_named(cluster):
    leader = cluster.raft_leader()
    frozen = cluster[leader % 3 + 1]
    frozen.pause()
    try:
        finding(cluster[leader], "follower_silent", frozen.id)
    finally:
        frozen.resume()


@in_namespaces
def test_a_one_way_partition_is_told_from_a_dead_peer(tmp_path, network):
    with Cluster(tmp_path, network=network) as cluster:
        cluster.start().wait_ready()
        leader = cluster.raft_leader()
        follower = leader % 3 + 1
        # The leader no longer hears the follower; the other way stays open.
        network.cut(leader, follower)
        wait.until(lambda: any(
            entry["id"] == "answers_not_arriving" and follower in (entry["node"], entry.get("peer"))
            for broker in cluster.running() for entry in broker.doctor()), "the one-way partition")


@in_namespaces
def test_a_broker_that_is_cut_off_knows_it(tmp_path, network):
    with Cluster(tmp_path, network=network) as cluster:
        cluster.start().wait_ready()
        network.isolate(2)
        finding(cluster[2], "quorum_lost")


def test_a_leader_that_wins_elections_but_says_nothing_is_named(tmp_path):
    with Cluster(tmp_path) as cluster:
        for broker in cluster.brokers.values():
            broker.environment = {"CHRONIK_TEST_DROP_RAFT": "MsgAppend,MsgHeartbeat"}
        cluster.start()
        wait.until(lambda: cluster[1].http("/healthz")[0] == 200, "liveness")
        finding(cluster[1], "leader_not_broadcasting")


def test_a_commit_that_is_stuck_although_everybody_talks_is_named(tmp_path):
    with Cluster(tmp_path) as cluster:
        for broker in cluster.brokers.values():
            broker.environment = {"CHRONIK_TEST_DROP_RAFT": "MsgAppendResponse"}
        cluster.start()
        wait.until(lambda: cluster[1].http("/healthz")[0] == 200, "liveness")
        entry = finding(cluster[1], "commit_stuck")
        assert "commit index" in entry["what"], entry


def test_clock_skew_over_a_second_is_named(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster[3].environment = {"CHRONIK_TEST_CLOCK_OFFSET_MS": "5000"}
        cluster.start().wait_ready()
        entry = finding(cluster[1], "clock_skew", 3)
        assert "clock" in entry["what"], entry
