"""Cables are cut, one way and both; addresses change; names come late. Everything runs in network namespaces of its own."""

import functools

import pytest
from harness import dns, history, kafka, netns, wait
from harness.cluster import Cluster

SERVICE = "chronik-headless.prod.svc.cluster.test"


def in_namespaces(test):
    """Runs a test inside the hub of a fresh `Network` of four hosts; the test gets it as `network`."""

    @functools.wraps(test)
    def wrapped(tmp_path):
        with netns.Network(4) as network:
            netns.inside(network.hub, test, tmp_path, network)

    del wrapped.__wrapped__
    return wrapped


class DnsCluster(Cluster):
    """Brokers that know nothing but the name of the headless service."""

    def membership(self, broker):
        joins = broker.id not in self.bootstrap_voters
        return {
            "discovery.service": SERVICE,
            "discovery.dns.server": f"{self.network.address(254)}:53",
            "bootstrap.voters": None if joins else self.bootstrap_voters,
            "join": joins,
            "advertised.host": broker.host,
        }


def publish(zone, cluster, nodes):
    for node in nodes:
        name = f"chronik-{node - 1}.{SERVICE}"
        zone.set_host(name, cluster[node].host)
    zone.set_service(SERVICE, [(f"chronik-{node - 1}.{SERVICE}", 9192) for node in nodes])


@in_namespaces
def test_an_isolated_leader_steps_down_and_loses_nothing(tmp_path, network):
    with Cluster(tmp_path, network=network) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=3)
        load = history.Workload(cluster.bootstrap, "t")
        load.start()
        load.wait_acks()
        leader = cluster.raft_leader()
        network.isolate(leader)
        others = [n for n in (1, 2, 3) if n != leader]
        wait.until(lambda: {cluster[n].status()["raft"]["leader"] for n in others} <= set(others), "a new leader")
        wait.until(lambda: cluster[leader].status()["raft"]["role"] != "leader", "the old leader to step down")
        load.wait_acks(100)
        network.heal()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "t")
        acked = load.finish()
        history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))
        for broker in cluster.running():
            broker.stop()
        history.check_replicas_identical(cluster, "t", range(3))


@in_namespaces
def test_a_one_way_partition_heals_without_loss(tmp_path, network):
    with Cluster(tmp_path, network=network) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=3)
        load = history.Workload(cluster.bootstrap, "t")
        load.start()
        load.wait_acks()
        leader = cluster.raft_leader()
        deaf = leader % 3 + 1
        network.cut(deaf, leader)
        load.wait_acks(100)
        network.heal()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "t")
        history.check_nothing_lost(load.finish(), kafka.read_all(cluster.bootstrap, "t"))


@in_namespaces
def test_brokers_find_each_other_by_a_service_name_that_appears_late(tmp_path, network):
    with dns.Server(network.address(254), 53) as server:
        with DnsCluster(tmp_path, network=network) as cluster:
            cluster.start()
            wait.until(lambda: server.zone.queries >= 3, "queries for a name that does not exist")
            publish(server.zone, cluster, [1, 2, 3])
            cluster.wait_ready()
            kafka.create_topic(cluster.bootstrap, "t")
            assert kafka.produce(cluster.bootstrap, "t", ["found"])


@in_namespaces
def test_a_peer_with_a_new_address_is_reached_again_without_restarting_the_others(tmp_path, network):
    with dns.Server(network.address(254), 53) as server:
        with DnsCluster(tmp_path, network=network) as cluster:
            publish(server.zone, cluster, [1, 2, 3])
            cluster.start().wait_ready()
            kafka.create_topic(cluster.bootstrap, "t")
            acked = kafka.produce(cluster.bootstrap, "t", ["before"])
            mover = cluster[2]
            mover.kill()
            network.change_address(2, 102)
            mover.host = network.address(102)
            publish(server.zone, cluster, [1, 2, 3])
            pids = [cluster[1].process.pid, cluster[3].process.pid]
            mover.start()
            cluster.wait_ready()
            kafka.full_isr(cluster.bootstrap, "t")
            assert pids == [cluster[1].process.pid, cluster[3].process.pid]
            acked |= kafka.produce(cluster.bootstrap, "t", ["after"])
            assert kafka.read_all(mover.kafka, "t") == acked


@in_namespaces
def test_dns_failures_after_formation_disturb_nobody_and_a_restart_does_not_wait_for_dns(tmp_path, network):
    with dns.Server(network.address(254), 53) as server:
        with DnsCluster(tmp_path, network=network) as cluster:
            publish(server.zone, cluster, [1, 2, 3])
            cluster.start().wait_ready()
            kafka.create_topic(cluster.bootstrap, "t")
            for failure in ("SERVFAIL", "TIMEOUT"):
                server.zone.failure = failure
                kafka.produce(cluster.bootstrap, "t", [failure])
                cluster[3].kill()
                cluster[3].start()
                cluster.wait_ready()
            server.zone.failure = None
            server.zone.services.clear()
            server.zone.hosts.clear()
            cluster[1].kill()
            cluster[1].start()
            cluster.wait_ready()
            kafka.full_isr(cluster.bootstrap, "t")


@in_namespaces
def test_a_service_without_srv_records_is_found_by_the_names_of_its_pods(tmp_path, network):
    class Plain(DnsCluster):
        def membership(self, broker):
            return {**super().membership(broker), "discovery.pod.prefix": "chronik"}

    with dns.Server(network.address(254), 53) as server:
        with Plain(tmp_path, network=network) as cluster:
            cluster.add(4)
            for node in (1, 2, 3, 4):
                server.zone.set_host(f"chronik-{node - 1}.{SERVICE}", cluster[node].host)
            cluster.start().wait_ready()
            # The joiner knows no voter, only its own ordinal.
            wait.until(lambda: 4 in cluster[1].status()["raft"]["learners"], "the joiner among the learners")


@in_namespaces
def test_a_new_broker_joins_knowing_only_the_service_name(tmp_path, network):
    with dns.Server(network.address(254), 53) as server:
        with DnsCluster(tmp_path, network=network) as cluster:
            publish(server.zone, cluster, [1, 2, 3])
            cluster.start().wait_ready()
            cluster.add(4)
            publish(server.zone, cluster, [1, 2, 3, 4])
            cluster[4].start()
            cluster.wait_ready(4)
            wait.until(lambda: 4 in cluster[1].status()["raft"]["learners"], "the joiner among the learners")


@pytest.mark.parametrize("address", ["{host}:{port}", "http://{host}:{port}"])
def test_peer_addresses_are_accepted_in_every_usual_form(tmp_path, address):
    class Forms(Cluster):
        def membership(self, broker):
            peers = super().membership(broker)
            peers["peers"] = [
                {"id": b.id, "address": address.format(host="localhost" if b.id == 2 else b.host, port=b.raft_port)}
                for b in self.brokers.values()
            ]
            return peers

    with Forms(tmp_path) as cluster:
        cluster.start().wait_ready()


def test_ipv6_addresses_work(tmp_path):
    class Six(Cluster):
        def add(self, node):
            broker = super().add(node)
            broker.host = "::1"
            return broker

        def membership(self, broker):
            peers = super().membership(broker)
            peers["peers"] = [{"id": b.id, "address": f"[::1]:{b.raft_port}"} for b in self.brokers.values()]
            return peers

    with Six(tmp_path) as cluster:
        for broker in cluster.brokers.values():
            broker.__class__ = type("SixBroker", (broker.__class__,), {
                "kafka": property(lambda b: f"[::1]:{b.kafka_port}"), "admin": property(lambda b: f"[::1]:{b.admin_port}")})
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t")
        assert kafka.produce(cluster.bootstrap, "t", ["six"])
