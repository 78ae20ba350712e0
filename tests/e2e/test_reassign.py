"""Kafka's own tools move partitions and elect leaders under a producer; nothing acknowledged is lost, replicas are identical."""

import json
import os
import time
from types import SimpleNamespace

import pytest
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from harness import history, kafka, wait

REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
ELECT = "org.apache.kafka.tools.LeaderElectionCommand"
MB = 1_000_000
# What a throttle may be in debt for: it never cuts a batch.
BATCH = 1 << 20


@pytest.fixture
def four(cluster):
    """Three voters and a further broker, which hosts nothing yet."""
    cluster.add(4).start()
    cluster.wait_ready(4)
    return cluster


def plan(tmp_path, moves):
    """The file of a reassignment: {(topic, partition): replicas}."""
    partitions = [{"topic": t, "partition": p, "replicas": r} for (t, p), r in moves.items()]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"version": 1, "partitions": partitions}))
    return str(path)


def reassign(cluster, *args):
    return kafka.java(REASSIGN, "--bootstrap-server", cluster.bootstrap, *args)


def place(cluster, topic, replicas_of_partitions):
    """A topic whose partitions lie where the test wants them."""
    new = NewTopic(topic, num_partitions=len(replicas_of_partitions), replica_assignment=replicas_of_partitions)
    client = kafka.admin(cluster.bootstrap)
    client.create_topics([new], operation_timeout=30)[topic].result(90)
    wait_moved(cluster, {(topic, i): r for i, r in enumerate(replicas_of_partitions)})


def wait_moved(cluster, moves, timeout=240):
    def moved():
        for (topic, partition), replicas in moves.items():
            found = kafka.describe(cluster.bootstrap, topic)[partition]
            if found.replicas != replicas or sorted(found.isrs) != sorted(replicas):
                return False
        return True

    wait.until(moved, f"partitions at {moves}", timeout)


def verified(cluster, path):
    """What --verify says, once it finds nothing under way."""

    def said():
        text = reassign(cluster, "--verify", "--reassignment-json-file", path)
        return None if "still in progress" in text else text

    return wait.until(said, "the reassignment to be complete", 400, interval=0.5)


def directory(cluster, node, topic, partition):
    return cluster[node].data / "data" / f"{topic}-{partition}"


def bytes_of(path):
    return sum(f.stat().st_size for f in path.glob("*.log")) if path.exists() else 0


def check_identical(cluster, topic, placement):
    """Replicas on disk are the same bytes where they should be, and nowhere else. Stops all brokers."""
    def hosts(partition):
        return {n: b for n, b in cluster.brokers.items() if directory(cluster, n, topic, partition).exists()}

    # What was moved away is removed a moment after the move.
    placed = lambda: all(sorted(hosts(p)) == sorted(replicas) for p, replicas in placement.items())  # noqa: E731
    wait.until(placed, f"{topic} to lie on {placement} and nowhere else")
    for broker in cluster.running():
        assert broker.stop() == 0
    compared = 0
    for partition in placement:
        compared += history.check_replicas_identical(SimpleNamespace(brokers=hosts(partition)), topic, [partition])
    return compared


def configs(cluster, kind, name):
    """Settings of one resource that were set on it."""
    resource = ConfigResource(kind, name)
    client = kafka.admin(cluster.bootstrap)
    described = wait.until(lambda: client.describe_configs([resource])[resource].result(60), f"the settings of {name}")
    own = (1, 2, 3)  # topic, broker, cluster default
    return {e.name: e.value for e in described.values() if int(e.source) in own}


def throttles(cluster, topic):
    """Everything about throttling that is set anywhere."""
    found = {("topic", k): v for k, v in configs(cluster, ResourceType.TOPIC, topic).items() if "throttled" in k}
    for node in cluster.brokers:
        settings = configs(cluster, ResourceType.BROKER, str(node))
        found.update({(node, k): v for k, v in settings.items() if "throttled" in k})
    return found


def in_force(cluster, node, setting, value):
    """Waits until broker `node` itself says that it has the setting."""
    wait.until(lambda: configs(cluster, ResourceType.BROKER, str(node)).get(setting) == str(value), f"{setting} on {node}")


def fill(cluster, topic, megabytes, partition=-1):
    """Records that no codec makes smaller."""
    values = [os.urandom(50_000) for _ in range(megabytes * 20)]
    return kafka.produce(cluster.bootstrap, topic, values, partition, **{"linger.ms": 20})


def test_kafka_reassign_partitions_moves_replicas_and_leaders_under_load(four, tmp_path):
    placed = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
    place(four, "moving", placed)
    load = history.Workload(four.bootstrap, "moving", **{"enable.idempotence": True})
    load.start()
    load.wait_acks(300)
    # A leader leaves, a follower leaves, the order alone changes.
    moves = {("moving", 0): [4, 2, 3], ("moving", 1): [2, 4, 1], ("moving", 2): [1, 3, 2]}
    path = plan(tmp_path, moves)
    said = reassign(four, "--execute", "--reassignment-json-file", path)
    assert "Successfully started partition reassignments for moving-0,moving-1,moving-2" in said, said
    said = verified(four, path)
    for partition in range(3):
        assert f"Reassignment of partition moving-{partition} is completed." in said, said
    wait_moved(four, moves)
    load.wait_acks(300)
    wait.until(lambda: "No partition reassignments found." in reassign(four, "--list"), "no reassignment in the list")
    # The same again is done already; taking back what is done is refused.
    reassign(four, "--execute", "--reassignment-json-file", path)
    acked = load.finish()
    assert not load.failed, load.failed[:3]
    records = kafka.read_all(four.bootstrap, "moving")
    history.check_nothing_lost(acked, records)
    history.check_no_duplicates(records)
    assert check_identical(four, "moving", {p: r for (_, p), r in moves.items()}) >= len(acked)


def test_a_throttled_move_is_slow_can_be_cancelled_and_verify_clears_the_throttle(four, tmp_path):
    place(four, "slow", [[1, 2, 3]])
    acked = fill(four, "slow", 16)
    moves = {("slow", 0): [1, 2, 4]}
    path = plan(tmp_path, moves)
    begun = time.monotonic()
    # 16 MB take more than two minutes: whatever follows here is meanwhile.
    rate = MB // 8
    said = reassign(four, "--execute", "--reassignment-json-file", path, "--throttle", str(rate))
    assert f"The inter-broker throttle limit was set to {rate} B/s" in said, said
    # The tool throttles both sides: those who send and who receives.
    expected = {(n, "leader.replication.throttled.rate"): str(rate) for n in (1, 2, 3)}
    expected[(4, "follower.replication.throttled.rate")] = str(rate)
    expected[("topic", "leader.replication.throttled.replicas")] = "0:1,0:2,0:3"
    expected[("topic", "follower.replication.throttled.replicas")] = "0:4"
    wait.until(lambda: expected.items() <= throttles(four, "slow").items(), f"{expected} to be set", 60)
    listed = lambda: "slow-0: replicas: 1,2,4,3. adding: 4. removing: 3." in reassign(four, "--list")  # noqa: E731
    wait.until(listed, "the reassignment to be listed", 60)
    # Those in sync are not held back by it: produces with acks=all go on while the copy is far from complete.
    acked.update(kafka.produce(four.bootstrap, "slow", [f"meanwhile-{i}" for i in range(50)]))
    copied, elapsed = bytes_of(directory(four, 4, "slow", 0)), time.monotonic() - begun
    assert copied <= (elapsed + 2) * rate + BATCH, f"{copied} bytes in {elapsed:.1f} s with {rate} B/s"
    assert 4 not in kafka.describe(four.bootstrap, "slow")[0].isrs, "16 MB cannot be copied yet"
    said = reassign(four, "--cancel", "--reassignment-json-file", path)
    assert "Successfully cancelled partition reassignment for: slow-0" in said, said
    wait_moved(four, {("slow", 0): [1, 2, 3]})
    wait.until(lambda: not directory(four, 4, "slow", 0).exists(), "the unfinished copy to be removed")
    wait.until(lambda: not throttles(four, "slow"), "the throttle to be cleared by the cancellation")
    # Again, and to the end, with the throttle raised on the way.
    reassign(four, "--execute", "--reassignment-json-file", path, "--throttle", str(MB))
    said = reassign(four, "--execute", "--additional", "--reassignment-json-file", path, "--throttle", str(500 * MB))
    assert "500000000 B/s" in said, said
    said = verified(four, path)
    assert "Reassignment of partition slow-0 is completed." in said, said
    assert "Clearing broker-level throttles on brokers 1,2,3,4" in said, said
    wait.until(lambda: not throttles(four, "slow"), "the throttle to be cleared in the end")
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "slow"))
    assert check_identical(four, "slow", {0: [1, 2, 4]}) == len(acked)


def test_the_brokers_own_throttle_needs_no_lists_and_is_followed_at_once(four, tmp_path):
    def rate(value):
        entry = ConfigEntry("reassignment.throttle.rate", value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.BROKER, "4", incremental_configs=[entry])
        client = kafka.admin(four.bootstrap)
        client.incremental_alter_configs([resource])[resource].result(60)

    place(four, "held", [[1, 2, 3]])
    acked = fill(four, "held", 12)
    slow = MB // 8
    rate(str(slow))
    in_force(four, 4, "reassignment.throttle.rate", slow)
    begun = time.monotonic()
    moves = {("held", 0): [1, 2, 4]}
    reassign(four, "--execute", "--reassignment-json-file", plan(tmp_path, moves))
    wait.until(lambda: bytes_of(directory(four, 4, "held", 0)) > 0, "the copy to begin")
    copied, elapsed = bytes_of(directory(four, 4, "held", 0)), time.monotonic() - begun
    assert copied <= (elapsed + 2) * slow + BATCH, f"{copied} bytes in {elapsed:.1f} s with {slow} B/s"
    assert 4 not in kafka.describe(four.bootstrap, "held")[0].isrs
    rate(str(500 * MB))
    wait_moved(four, moves)
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "held"))


def test_the_leaders_side_of_kafkas_throttle_holds_a_copy_back_by_itself(four, tmp_path):
    def alter(kind, name, settings):
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in settings.items()]
        resource = ConfigResource(kind, name, incremental_configs=entries)
        client = kafka.admin(four.bootstrap)
        client.incremental_alter_configs([resource])[resource].result(60)

    place(four, "sent", [[1, 2, 3], [2, 3, 1]])
    # The client by itself gives one of two partitions nearly everything at times, and what is small is copied at once.
    acked = fill(four, "sent", 16, 0)
    acked.update(fill(four, "sent", 16, 1))
    slow = MB // 8
    # Listed for one partition only, and only for who sends; the receiver has no limit of its own.
    alter(ResourceType.TOPIC, "sent", {"leader.replication.throttled.replicas": "0:1,0:2,0:3"})
    for node in (1, 2, 3):
        alter(ResourceType.BROKER, str(node), {"leader.replication.throttled.rate": str(slow)})
        in_force(four, node, "leader.replication.throttled.rate", slow)
    begun = time.monotonic()
    moves = {("sent", 0): [1, 2, 4], ("sent", 1): [2, 3, 4]}
    reassign(four, "--execute", "--reassignment-json-file", plan(tmp_path, moves))
    # The partition that no list names is not held back, and neither is who is in sync.
    wait_moved(four, {("sent", 1): [2, 3, 4]})
    acked.update(kafka.produce(four.bootstrap, "sent", [f"meanwhile-{i}" for i in range(50)]))
    copied, elapsed = bytes_of(directory(four, 4, "sent", 0)), time.monotonic() - begun
    whole = bytes_of(directory(four, 1, "sent", 0))
    assert copied <= (elapsed + 2) * slow + BATCH, f"{copied} bytes in {elapsed:.1f} s with {slow} B/s"
    assert copied < whole and 4 not in kafka.describe(four.bootstrap, "sent")[0].isrs, f"{copied} of {whole} bytes"
    for node in (1, 2, 3):
        alter(ResourceType.BROKER, str(node), {"leader.replication.throttled.rate": str(500 * MB)})
    wait_moved(four, moves)
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "sent"))
    assert check_identical(four, "sent", {0: [1, 2, 4], 1: [2, 3, 4]}) == len(acked)


def test_a_replica_that_is_moved_away_while_its_broker_is_down_is_removed_when_it_returns(four, tmp_path):
    place(four, "away", [[1, 2, 3]])
    acked = kafka.produce(four.bootstrap, "away", [str(i) for i in range(200)])
    four[3].kill()
    moves = {("away", 0): [1, 2, 4]}
    alive = ",".join(four[n].kafka for n in (1, 2, 4))
    kafka.java(REASSIGN, "--bootstrap-server", alive, "--execute", "--reassignment-json-file", plan(tmp_path, moves))
    wait_moved(four, moves)
    assert directory(four, 3, "away", 0).exists()
    four[3].start()
    four.wait_ready(3)
    wait.until(lambda: not directory(four, 3, "away", 0).exists(), "the replica of broker 3 to be removed")
    # And back again: it begins with nothing.
    back = {("away", 0): [3, 1, 2]}
    reassign(four, "--execute", "--reassignment-json-file", plan(tmp_path, back))
    wait_moved(four, back)
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "away"))
    assert check_identical(four, "away", {0: [3, 1, 2]}) == len(acked)


def test_the_target_of_a_move_is_killed_while_it_copies_and_the_move_ends_all_the_same(four, tmp_path):
    place(four, "crash", [[1, 2, 3]])
    acked = fill(four, "crash", 8)
    load = history.Workload(four.bootstrap, "crash")
    load.start()
    load.wait_acks(100)
    moves = {("crash", 0): [4, 1, 2]}
    path = plan(tmp_path, moves)
    reassign(four, "--execute", "--reassignment-json-file", path, "--throttle", str(MB // 4))
    wait.until(lambda: bytes_of(directory(four, 4, "crash", 0)) > 0, "the copy to begin")
    four[4].kill()
    load.wait_acks(100)
    four[4].start()
    four.wait_ready(4)
    reassign(four, "--execute", "--additional", "--reassignment-json-file", path, "--throttle", str(500 * MB))
    assert "is completed" in verified(four, path)
    load.wait_acks(100)
    acked.update(load.finish())
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "crash"))
    assert check_identical(four, "crash", {0: [4, 1, 2]}) >= len(acked)


def test_the_replication_factor_is_raised_and_lowered_and_kept_when_that_is_asked_for(four, tmp_path):
    place(four, "factor", [[1, 2, 3]])
    acked = kafka.produce(four.bootstrap, "factor", [str(i) for i in range(100)])
    for replicas in ([1, 2, 3, 4], [4, 2]):
        moves = {("factor", 0): replicas}
        reassign(four, "--execute", "--reassignment-json-file", plan(tmp_path, moves))
        wait_moved(four, moves)
    path = plan(tmp_path, {("factor", 0): [1, 2, 4]})
    with pytest.raises(AssertionError, match="replicas"):
        reassign(four, "--execute", "--disallow-replication-factor-change", "--reassignment-json-file", path)
    with pytest.raises(AssertionError, match="9"):
        reassign(four, "--execute", "--reassignment-json-file", plan(tmp_path, {("factor", 0): [1, 9]}))
    wait_moved(four, {("factor", 0): [4, 2]})
    history.check_nothing_lost(acked, kafka.read_all(four.bootstrap, "factor"))


def test_kafka_leader_election_gives_the_preferred_leader_back_and_says_when_none_is_needed(cluster):
    place(cluster, "elect", [[1, 2, 3], [2, 3, 1]])
    elect = (ELECT, "--bootstrap-server", cluster.bootstrap)
    one = ("--election-type", "preferred", "--topic", "elect", "--partition", "0")
    assert "Valid replica already elected for partitions elect-0" in kafka.java(*elect, *one)
    acked = kafka.produce(cluster.bootstrap, "elect", [str(i) for i in range(100)])
    cluster[1].kill()
    leader = lambda: kafka.describe(cluster.bootstrap, "elect")[0].leader  # noqa: E731
    wait.until(lambda: leader() in (2, 3), "another leader")
    with pytest.raises(AssertionError, match="(?i)preferred"):
        kafka.java(*elect, *one)
    cluster[1].start()
    cluster.wait_ready(1)
    kafka.full_isr(cluster.bootstrap, "elect")
    said = kafka.java(*elect, "--election-type", "preferred", "--all-topic-partitions")
    assert "Successfully completed leader election (PREFERRED) for partitions" in said and "elect-0" in said, said
    wait.until(lambda: leader() == 1, "the preferred leader to lead")
    # Nobody has to be elected uncleanly while there is a leader.
    assert "Valid replica already elected" in kafka.java(
        *elect, "--election-type", "unclean", "--topic", "elect", "--partition", "0"
    )
    history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "elect"))
