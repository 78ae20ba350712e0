"""Disks fill up, lose power, belong to somebody else."""

import shutil

import pytest
from harness import history, kafka, wait
from harness.cluster import Cluster
from harness.disk import Image


def cluster_on(tmp_path, image, **config):
    cluster = Cluster(tmp_path, **config)
    cluster[3].data = image.mount / "data"
    return cluster


def test_a_full_disk_takes_one_broker_out_and_space_and_a_restart_bring_it_back(tmp_path):
    with Image(tmp_path, 96) as image, cluster_on(tmp_path, image) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=3)
        load = history.Workload(cluster.bootstrap, "t")
        load.start()
        load.wait_acks()
        ballast = image.fill()
        wait.until(lambda: cluster[3].status()["log_dir"]["state"] == "offline" or
                   kafka.produce(cluster.bootstrap, "t", ["x" * 100_000] * 20) and False, "the directory to go offline", 240)
        load.wait_acks(100)
        wait.until(lambda: any(f["id"] == "disk_full" and f["node"] == 3 for f in cluster[1].doctor()), "the doctor to name it")
        assert cluster[3].http("/healthz")[0] == 200, "the process lives on"
        wait.until(lambda: cluster[3].http("/readyz")[0] == 503, "unreadiness")
        ballast.unlink()
        assert cluster[3].stop() == 75, "a stop that could not sync its logs is no clean one"
        cluster[3].start()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "t")
        history.check_nothing_lost(load.finish(), kafka.read_all(cluster.bootstrap, "t"))


def test_a_disk_without_power_takes_and_gives_back_nothing_until_it_returns(tmp_path):
    with Image(tmp_path, 16) as image:
        assert image.reserve().exists()
        image.power_cut()
        assert image.reserve() is None
        image.release()
        image.power_on()
        assert not (image.mount / "ballast").exists()


def test_power_cuts_of_one_broker_lose_no_acknowledged_record(tmp_path):
    with Image(tmp_path, 256) as image, cluster_on(tmp_path, image) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=3)
        load = history.Workload(cluster.bootstrap, "t")
        load.start()
        for _ in range(3):
            load.wait_acks(200)
            image.power_cut()
            cluster[3].kill()
            image.power_on()
            load.wait_acks()
            cluster[3].start()
            cluster.wait_ready(3)
            kafka.full_isr(cluster.bootstrap, "t")
        acked = load.finish()
        history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))
        for broker in cluster.running():
            broker.stop()
        history.check_replicas_identical(cluster, "t", range(3))


def test_durable_mode_survives_the_power_cut_of_a_single_broker(tmp_path):
    with Image(tmp_path, 256) as image:
        cluster = Cluster(tmp_path, brokers=1, flush="every-ack")
        cluster[1].data = image.mount / "data"
        with cluster:
            cluster.start().wait_ready()
            kafka.create_topic(cluster.bootstrap, "t", partitions=8, replication=1)
            load = history.Workload(cluster.bootstrap, "t", rate=2000)
            load.start()
            for _ in range(3):
                load.wait_acks(300)
                image.power_cut()
                cluster[1].kill()
                image.power_on()
                cluster[1].start()
                cluster.wait_ready()
            load.wait_acks()
            acked = load.finish()
            history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))


def test_in_durable_mode_every_partition_of_a_killed_broker_is_replicated_to_again(tmp_path):
    with Cluster(tmp_path, flush="every-ack") as cluster:
        cluster.start().wait_ready()
        topics = [f"t{i}" for i in range(4)]
        for topic in topics:
            kafka.create_topic(cluster.bootstrap, topic, partitions=10)
        for turn in range(5):
            for topic in topics:
                kafka.produce(cluster.bootstrap, topic, [f"{turn}-{i}" * 50 for i in range(100)])
            victim = cluster[turn % 3 + 1]
            victim.kill()
            victim.start()
            cluster.wait_ready(victim.id)
            for topic in topics:
                kafka.full_isr(cluster.bootstrap, topic)


def test_the_data_of_another_cluster_or_node_is_refused_and_left_alone(tmp_path):
    with Cluster(tmp_path, brokers=1) as cluster:
        broker = cluster[1]
        broker.start()
        cluster.wait_ready()
        broker.stop()
        before = sorted(p.relative_to(broker.data) for p in broker.data.rglob("*"))
        for overrides, word in (({"cluster.id": "another"}, "another"),
                                ({"node.id": 2, "bootstrap.voters": [2], "peers": [{"id": 2, "host": "127.0.0.1", "raft.port": broker.raft_port}]}, "node")):
            broker.overrides = overrides
            broker.start()
            assert broker.process.wait(120) == 65
            assert word in broker.log() and "e2e-cluster" in broker.log()
        assert sorted(p.relative_to(broker.data) for p in broker.data.rglob("*")) == before
        broker.overrides = {}
        broker.start()
        cluster.wait_ready()


def test_two_brokers_with_one_id_the_second_is_refused_with_both_addresses(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.start().wait_ready()
        twin = cluster.add(9)
        twin.id = 2
        cluster.brokers.pop(9)
        try:
            twin.start()
            assert twin.process.wait(120) != 0
            assert str(twin.kafka_port) in twin.log() and str(cluster[2].kafka_port) in twin.log(), twin.log()[-2000:]
            wait.until(cluster[2].ready, "the first of them to serve on")
        finally:
            if twin.running:
                twin.kill()


def test_a_joiner_pointed_at_the_wrong_cluster_is_refused(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.start().wait_ready()
        stranger = cluster.add(4)
        stranger.overrides = {"cluster.id": "not-this-one"}
        stranger.start()
        both = lambda: "not-this-one" in stranger.log() and "e2e-cluster" in stranger.log()  # noqa: E731
        wait.until(both, "a refusal that names both clusters")
        assert 4 not in cluster[1].status()["raft"]["learners"]


def test_a_copied_data_directory_cannot_be_opened_twice(tmp_path):
    with Cluster(tmp_path, brokers=1) as cluster:
        cluster.start().wait_ready()
        twin = cluster.add(9)
        cluster.brokers.pop(9)
        twin.id = 1
        twin.data = cluster[1].data
        twin.start()
        assert twin.process.wait(120) != 0
        assert "lock" in twin.log().lower(), twin.log()[-1000:]
        shutil.rmtree(twin.dir)
