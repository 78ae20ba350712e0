"""Further Kafka listeners: who asks through one is told the brokers' addresses for that one."""

import yaml
from confluent_kafka import Consumer, KafkaError
from harness import history, kafka, wait
from harness.cluster import CLUSTER_ID, Cluster, free_ports


def with_listeners(cluster, ports, name="outside"):
    for node, port in ports.items():
        listener = {"name": name, "port": port, "advertised.host": "127.0.0.1", "advertised.port": port}
        cluster[node].overrides["kafka.listeners"] = [listener]
    return cluster


def told(bootstrap):
    """Node -> port, as clients of this listener are told."""
    return {b.id: b.port for b in kafka.admin(bootstrap).list_topics(timeout=30).brokers.values()}


def test_clients_of_a_further_listener_stay_on_it(tmp_path):
    ports = dict(zip((1, 2, 3), free_ports(3)))
    with with_listeners(Cluster(tmp_path), ports) as cluster:
        cluster.start().wait_ready()
        inside = {n: b.kafka_port for n, b in cluster.brokers.items()}
        wait.until(lambda: told(cluster.bootstrap) == inside, "every broker's own address")
        outside = f"127.0.0.1:{ports[1]}"
        wait.until(lambda: told(outside) == ports, "every broker's address for the listener")
        client = kafka.admin(outside)
        described = lambda: {node.id: node.port for node in client.describe_cluster().result(60).nodes}  # noqa: E731
        wait.until(lambda: described() == ports, "the same from DescribeCluster")
        kafka.create_topic(outside, "through", partitions=6)
        acked = kafka.produce(outside, "through", [str(i) for i in range(600)])
        assert kafka.read_all(outside, "through") == acked
        # A group: its coordinator is found at its address for this listener.
        consumer = Consumer({"bootstrap.servers": outside, "group.id": "g", "auto.offset.reset": "earliest"})
        try:
            consumer.subscribe(["through"])
            seen = set()

            def all_seen():
                messages = [m for m in consumer.consume(500, 0.5) if not m.error()]
                seen.update((m.partition(), m.offset()) for m in messages)
                return len(seen) == len(acked)

            wait.until(all_seen, "all records through the group")
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()
        # A leader dies: the client learns of the next one by addresses of the same listener.
        load = history.Workload(outside, "through")
        load.start()
        load.wait_acks(50)
        cluster[2].kill()
        load.wait_acks(200)
        acked.update(load.finish())
        cluster[2].start()
        cluster.wait_ready(2)
        kafka.full_isr(outside, "through")
        history.check_nothing_lost(acked, kafka.read_all(outside, "through"))


def test_a_broker_that_lacks_the_listener_is_left_out_and_its_partitions_say_so(tmp_path):
    ports = dict(zip((1, 2), free_ports(2)))
    with with_listeners(Cluster(tmp_path), ports) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "partly", partitions=3)
        leaders = {i: p.leader for i, p in kafka.describe(cluster.bootstrap, "partly").items()}
        assert 3 in leaders.values(), leaders
        outside = f"127.0.0.1:{ports[1]}"
        wait.until(lambda: told(outside) == ports, "the brokers that have the listener")
        missing = (-1, KafkaError.LISTENER_NOT_FOUND)
        expected = {index: missing if leader == 3 else (leader, None) for index, leader in leaders.items()}

        def seen():
            found = kafka.describe(outside, "partly").items()
            return {index: (p.leader, p.error.code() if p.error else None) for index, p in found} == expected

        wait.until(seen, f"partitions with {expected}")


class Mounted(Cluster):
    """Brokers that read a mounted cluster.yaml, as the operator's ConfigMap gives it."""

    listeners = {}

    def write(self):
        def peer(broker):
            return {
                "id": broker.id, "host": broker.host, "ports": {"raft": broker.raft_port},
                "listeners": self.listeners.get(broker.id, []),
            }

        document = {
            "clusterId": CLUSTER_ID, "bootstrapVoters": self.bootstrap_voters, "join": False,
            "peers": [peer(b) for b in self.brokers.values()],
        }
        path = self.dir / "cluster.yaml"
        path.with_suffix(".new").write_text(yaml.safe_dump(document))
        path.with_suffix(".new").rename(path)
        return path

    def membership(self, broker):
        return {"cluster.file": str(self.write())}


def test_listeners_of_a_mounted_file_are_followed_without_a_restart(tmp_path):
    first, second = (dict(zip((1, 2, 3), free_ports(3))) for _ in range(2))

    def entries(ports, advertised):
        return {
            n: [{"name": "nodeport", "port": p, "advertisedHost": "127.0.0.1", "advertisedPort": advertised[n]}]
            for n, p in ports.items()
        }

    with Mounted(tmp_path) as cluster:
        cluster.start().wait_ready()
        processes = {n: b.process.pid for n, b in cluster.brokers.items()}
        cluster.listeners = entries(first, first)
        cluster.write()
        bootstrap = f"127.0.0.1:{first[1]}"
        wait.until(lambda: told(bootstrap) == first, "the listeners of the file")
        kafka.create_topic(bootstrap, "mounted", partitions=3)
        acked = kafka.produce(bootstrap, "mounted", [str(i) for i in range(100)])
        # Only what clients are told changes: the port goes on being served.
        cluster.listeners = entries(first, second)
        cluster.write()

        def ports_told():
            lines = kafka.kcat("-b", bootstrap, "-L", "-m", "10").splitlines()
            return {int(line.split()[1]): int(line.split(":")[-1].split()[0]) for line in lines if line.startswith("  broker ")}

        wait.until(lambda: ports_told() == second, "the changed addresses")
        # Other ports: the old ones are closed.
        cluster.listeners = entries(second, second)
        cluster.write()
        wait.until(lambda: told(f"127.0.0.1:{second[2]}") == second, "the other ports")
        history.check_nothing_lost(acked, kafka.read_all(f"127.0.0.1:{second[3]}", "mounted"))
        assert processes == {n: b.process.pid for n, b in cluster.brokers.items()}
        assert all(b.running for b in cluster.brokers.values())
