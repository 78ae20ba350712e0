"""Racks that brokers are told, as on Kubernetes, where only an operator knows the zone of a pod."""

from harness import kafka, wait
from test_control import Book

RACKS = {1: "a", 2: "a", 3: "b", 4: "b"}


def racks(book, via):
    """What a Kafka client is told by one broker (DescribeCluster)."""
    client = kafka.admin(via.kafka)
    nodes = client.describe_cluster(request_timeout=30).result(60).nodes
    return {node.id: node.rack for node in nodes}


def test_assigned_racks_are_seen_by_clients_spread_replicas_and_outlive_restarts(tmp_path):
    with Book(tmp_path, brokers=4) as book:
        book.start().wait_ready()
        for node, rack in RACKS.items():
            book.ask("assign-rack", node, rack), book.ask("assign-rack", node, rack)
        for via in book.running():
            wait.until(lambda via=via: racks(book, via) == RACKS, f"broker {via.id} to tell the racks")
        kafka.create_topic(book.bootstrap, "spread", partitions=12, replication=2)
        for partition in kafka.describe(book.bootstrap, "spread").values():
            assert {RACKS[node] for node in partition.replicas} == {"a", "b"}, partition.replicas
        assert "not registered" in book.ask("assign-rack", 9, "a", code=1)["outcome"]["refused"]
        # A restarted broker knows no rack; the cluster remembers.
        book[4].kill()
        book[4].start()
        book.wait_ready(4)
        wait.until(lambda: racks(book, book[4]) == RACKS, "the rack after the restart")
        # What a broker is configured with wins.
        book[3].kill()
        book[3].overrides = {"broker.rack": "own"}
        book[3].start()
        book.wait_ready(3)
        wait.until(lambda: racks(book, book[1]) == {**RACKS, 3: "own"}, "the rack of its own")
        assert "broker.rack" in book.ask("assign-rack", 3, "b", code=1)["outcome"]["refused"]
        book.ask("assign-rack", 1)
        wait.until(lambda: racks(book, book[2]) == {**RACKS, 1: None, 3: "own"}, "no rack any more")
