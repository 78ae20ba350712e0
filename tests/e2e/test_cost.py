"""A cluster that has nothing to do costs nothing: rules on made-up numbers, and real brokers after pauses."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from confluent_kafka import TopicPartition
from harness import cost, kafka, raw, wait

LIMITS = cost.Limits.of(brokers=3)
RULES = LIMITS._replace(threads=40)


def look(at=0.0, **changes):
    """An idle broker as it was seen, `at` seconds into its quiet."""
    idle = cost.Sample(
        node=2, pid=100, at=at, cpu=0.004 * at, rss=20 << 20, threads=12, files=20, files_on_disk=60, deleted=0, sockets=12,
        close_wait=0, term=3, leader=1, requests={"Fetch": 38 + 4 * at, "Metadata": 2}, raft=10 * at, applied=90, elections=1, connects=2,
    )
    return idle._replace(**changes)


def test_an_idle_broker_exceeds_nothing():
    assert cost.excess(look(), look(4.0), RULES) == []


def test_a_fetcher_that_asks_thousands_of_times_per_second_is_told_with_who_what_and_how_much():
    spinning = look(4.0, cpu=4.1, requests={"Fetch": 38 + 4 * 3200, "Metadata": 2})
    assert cost.excess(look(), spinning, RULES) == [
        "broker 2: 102 % of a core, at most 25 %", "broker 2: 3200.0 Fetch requests per second, at most 40",
    ]
    # Its own processor time alone betrays the one that asks.
    assert cost.excess(look(), look(4.0, cpu=4.1), RULES) == ["broker 2: 102 % of a core, at most 25 %"]


@pytest.mark.parametrize(("changes", "words"), [
    ({"requests": {"Fetch": 54, "Metadata": 402}}, "100.0 requests other than Fetch (most: Metadata) per second, at most 20"),
    ({"requests": {"Fetch": 54, "Metadata": 2, "OffsetForLeaderEpoch": 4000}}, "(most: OffsetForLeaderEpoch)"),
    ({"raft": 4000}, "1000.0 messages of the quorum per second, at most 200"),
    ({"applied": 190}, "25.0 changes of the metadata per second, at most 5"),
    ({"connects": 30}, "7.0 new connections to other brokers per second, at most 1"),
    ({"threads": 90}, "90 threads, at most 40"),
    ({"sockets": 400}, "400 sockets, at most 100"),
    ({"close_wait": 9}, "9 sockets in CLOSE_WAIT, at most 5"),
    ({"deleted": 90, "files": 110}, "90 deleted files still open, at most 64"),
    ({"files": 900}, "900 open files, at most 124"),
    ({"term": 4}, "term of the quorum went from 3 to 4"),
    ({"leader": 3}, "leader of the quorum went from 1 to 3"),
    ({"elections": 2}, "elections of the quorum went from 1 to 2"),
    ({"pid": 101}, "process 100 became 101"),
])
def test_every_rule_names_what_exceeds_it(changes, words):
    found = cost.excess(look(), look(4.0, **changes), RULES)
    assert len(found) == 1 and found[0].startswith("broker 2: ") and words in found[0], found


def test_with_clients_outside_requests_say_nothing_but_processor_time_does():
    busy = look(4.0, cpu=2.0, requests={"Fetch": 9000, "Metadata": 900}, sockets=300)
    assert cost.excess(look(), busy, LIMITS.with_clients()) == ["broker 2: 50 % of a core, at most 25 %"]


def test_what_grows_at_every_quiet_moment_of_one_process_is_told_and_what_levels_off_is_not():
    def reasons(**series):
        growth = cost.Growth()
        moments = zip(*([(what, value) for value in values] for what, values in series.items()))
        return [reason for moment in moments for reason in growth.note([look(**dict(moment))])]

    mb = 1 << 20
    assert reasons(rss=[20 * mb, 60 * mb, 100 * mb, 140 * mb])[0].startswith("broker 2: rss grew")
    assert reasons(sockets=[10, 20, 30, 40]) == ["broker 2: sockets grew from one quiet moment to the next: [10, 20, 30, 40]"]
    assert reasons(threads=[10, 13, 16, 19]) != []
    assert reasons(rss=[20 * mb, 300 * mb, 310 * mb, 290 * mb], threads=[10, 30, 12, 30], sockets=[10, 90, 90, 95]) == []
    # Another process begins anew.
    assert reasons(rss=[20 * mb, 60 * mb, 100 * mb, 140 * mb], pid=[1, 1, 2, 2]) == []


def test_a_process_that_burns_a_core_and_a_socket_that_is_not_closed_are_seen():
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        wait.until(lambda: cost.cpu_seconds(burner.pid) > 0.5, "half a second of processor time")
    finally:
        burner.kill()
        burner.wait()
    mine = lambda: cost.in_close_wait(os.getpid(), cost.descriptors(os.getpid()))  # noqa: E731
    before = mine()
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
        far.close()
        wait.until(lambda: mine() == before + 1, "a socket in CLOSE_WAIT")
        near.close()
        wait.until(lambda: mine() == before, "none")


def test_who_asks_a_real_broker_without_end_is_noticed_and_rest_is_too(cluster):
    cost.quiet(cluster.running(), LIMITS, within=120)
    over = threading.Event()

    def ask():
        connection = raw.Connection(cluster[2].host, cluster[2].kafka_port, 60)
        while not over.is_set():
            connection.metadata()
        connection.close()

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with pytest.raises(cost.Restless, match="broker 2: .* requests other than Fetch .most: Metadata. per second, at most 20"):
            cost.quiet(cluster.running(), LIMITS, within=0, window=3.0)
    finally:
        over.set()
        asker.join()
    cost.quiet(cluster.running(), LIMITS, within=120)


def delete_everything(bootstrap, topic):
    """Moves the log starts of all partitions to their ends."""
    client = kafka.admin(bootstrap)
    partitions = [TopicPartition(topic, index, -1) for index in kafka.describe(bootstrap, topic)]
    for answer in client.delete_records(partitions, request_timeout=60).values():
        answer.result(90)


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_after_pauses_of_a_broker_an_idle_cluster_comes_to_rest(cluster, role):
    kafka.create_topic(cluster.bootstrap, "idle", partitions=12)
    controller = cluster.raft_leader()
    # Every broker leads some partitions and follows others; the leader of the quorum has more to catch up with.
    victim = controller if role == "leader" else controller % 3 + 1
    others = ",".join(b.kafka for b in cluster.running() if b.id != victim)

    def passed_over():
        partitions = kafka.describe(others, "idle").values()
        return all(p.leader not in (-1, victim) and victim not in p.isrs for p in partitions)

    for turn in range(2):
        kafka.produce(cluster.bootstrap, "idle", [f"before-{turn}-{i}" for i in range(200)])
        kafka.full_isr(cluster.bootstrap, "idle")
        cluster[victim].pause()
        try:
            wait.until(passed_over, f"nobody to count on broker {victim}")
            # What it would ask for next is no longer there: it has to ask where the log begins, and then finds nothing.
            kafka.produce(others, "idle", [f"meanwhile-{turn}-{i}" for i in range(200)])
            wait.until(lambda: delete_everything(others, "idle") is None, "the records to be deleted")
        finally:
            cluster[victim].resume()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "idle")
    cost.quiet(cluster.running(), LIMITS, within=120, window=8.0)
