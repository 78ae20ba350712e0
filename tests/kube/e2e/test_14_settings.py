"""Settings of the whole cluster are in force at once: no broker is restarted for them, nor for another number of brokers."""

from support import wait
from support.ask import ask


def settings(kube, cluster):
    """What a Kafka client is told that all brokers were given."""
    return ask(kube, cluster.bootstrap(), "settings")


def restarts(kube, cluster):
    """Events of restarts by the operator."""
    return kube.events(cluster.namespace, kind="ChronikCluster", reason="RestartingBroker")


def test_14_more_brokers_mean_more_replicas_of_new_topics_and_restart_nobody(kube, cluster):
    cluster.apply(replicas=1)
    cluster.wait_settled(1)
    first = cluster.pods()[0]["metadata"]["uid"]
    wait.until(lambda: settings(kube, cluster) == {"default.replication.factor": "1"}, "topics of one replica")
    ask(kube, cluster.bootstrap(), "create", "alone", 1, -1)
    cluster.scale(3)
    cluster.wait_settled(3)
    wait.until(lambda: settings(kube, cluster) == {"default.replication.factor": "3"}, "topics of three replicas")
    ask(kube, cluster.bootstrap(), "create", "together", 1, -1)
    replicas = [len(ask(kube, cluster.bootstrap(), "describe", topic)["0"]["replicas"]) for topic in ("alone", "together")]
    assert replicas == [1, 3], "a topic that exists keeps its own"
    assert cluster.pods()[0]["metadata"]["uid"] == first
    assert not restarts(kube, cluster)


def test_14_a_setting_is_in_force_without_a_restart_and_goes_when_it_leaves_the_specification(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    before = [p["metadata"]["uid"] for p in cluster.pods()]
    with load(cluster) as producing:
        # One that the brokers refuse is told, and keeps the other from nothing.
        cluster.patch(config={"log.retention.ms": 3600000, "num.partitions": "many"}, minInsyncReplicas=2)
        wanted = {"default.replication.factor": "3", "log.retention.ms": "3600000", "min.insync.replicas": "2"}
        wait.until(lambda: settings(kube, cluster) == wanted, f"{wanted} in force", 300)
        cluster.wait_blocked("SpecInvalid")
        for kind in ("SettingsApplied", "SpecValid"):
            condition = wait.until(lambda kind=kind: (c := cluster.condition(kind)).get("status") == "False" and c, f"{kind} False")
            assert "num.partitions = 'many' is not accepted: it takes a number from 1" in condition["message"], condition
        cluster.patch(config={"log.retention.ms": None, "num.partitions": "4"}, minInsyncReplicas=None)
        cluster.wait_settled(3)
        wait.until(lambda: settings(kube, cluster) == {"default.replication.factor": "3", "num.partitions": "4"}, "the new settings", 300)
        cluster.wait(lambda _: cluster.condition("SettingsApplied").get("status") == "True", "SettingsApplied")
        producing.wait_acks()
    assert [p["metadata"]["uid"] for p in cluster.pods()] == before
    assert not restarts(kube, cluster)
    told = [e["message"] for e in kube.events(cluster.namespace, kind="ChronikCluster", reason="ChangedSetting")]
    assert any("log.retention.ms is 3600000" in message for message in told), told
