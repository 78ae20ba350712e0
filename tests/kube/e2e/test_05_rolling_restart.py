"""Scenario 5: a changed setting restarts one broker at a time, the leader of the quorum last, each restart with its reason."""

from support import wait
from support.ask import ask
from support.measure import rolling_restart


def test_05_a_setting_changes_one_broker_at_a_time_the_leader_last(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    seen = rolling_restart(kube, cluster, load)
    print(f"    three brokers restarted in {seen.seconds:.1f} s")
    assert sorted(seen.deleted) == ["x-0", "x-1", "x-2"], f"each exactly once: {seen.deleted}"
    # A broker that the machine gave no time may lose the leadership meanwhile; then there is no order to be judged.
    if len(seen.leaders) == 1:
        leader = min(seen.leaders)
        assert seen.deleted[-1] == f"x-{leader - 1}", f"broker {leader} led; the order was {seen.deleted}"
    assert seen.most_missing == 1, "never two down"
    assert seen.verdict["failed"] == 0, "clients notice nothing but retries"
    for node in (1, 2, 3):

        def told(node=node):
            events = kube.events(cluster.namespace, kind="ChronikCluster", reason="RestartingBroker")
            return any(f"broker {node} has template" in e["message"] for e in events)

        wait.until(told, f"an event with the reason of the restart of broker {node}")
    for ordinal in range(3):
        assert int(kube.get("pod", f"x-{ordinal}", cluster.namespace)["status"]["containerStatuses"][0]["restartCount"]) == 0


def test_05_a_setting_that_the_rules_refuse_reaches_nobody(kube, cluster):
    cluster.apply()
    cluster.wait_settled(3)
    before = [p["metadata"]["uid"] for p in cluster.pods()]
    try:
        cluster.patch(config={"node.id": "7"})
    except AssertionError as error:
        assert "the operator sets this itself" in str(error)
    else:
        raise AssertionError("a reserved setting was accepted")
    cluster.wait_settled(3)
    assert [p["metadata"]["uid"] for p in cluster.pods()] == before


def test_05_a_manual_rollout_restarts_nobody_before_it_is_approved(kube, cluster):
    cluster.apply(rollout={"policy": "Manual"})
    cluster.wait_settled(3)
    before = [p["metadata"]["uid"] for p in cluster.pods()]
    cluster.patch(config={"log.retention.check.interval.ms": "60000"})
    pending = cluster.wait(lambda s: (s.get("template") or {}).get("pendingRevision"), "the pending revision")
    cluster.wait_blocked("ManualApproval")
    assert [p["metadata"]["uid"] for p in cluster.pods()] == before
    kube.kubectl("annotate", "ccl", "x", "-n", cluster.namespace, "--overwrite", f"chronik.io/approved-revision={pending}")
    cluster.wait_settled(3)
    assert not set(before) & {p["metadata"]["uid"] for p in cluster.pods()}
    wait.until(lambda: len(ask(kube, cluster.bootstrap(), "brokers")) == 3, "clients to see three brokers", interval=1)


def test_05_a_broker_that_is_started_again_in_its_pod_keeps_the_settings_of_its_pod(kube, cluster):
    cluster.apply(rollout={"policy": "Manual"})
    cluster.wait_settled(3)
    before = [p["metadata"]["uid"] for p in cluster.pods()]
    # No broker starts with this, so whoever found it before it is approved would be lost.
    cluster.patch(config={"raft.tick.ms": "never"})
    cluster.wait_blocked("ManualApproval")
    assert set(kube.get("configmap", "x-config", cluster.namespace)["data"]) == {"cluster.yaml"}, "what all share"
    settings = kube.get("pod", "x-1", cluster.namespace)["metadata"]["annotations"]["chronik.io/broker.yaml"]
    assert "kafka.port" in settings and "raft.tick.ms" not in settings
    kube.kill_container(cluster.namespace, "x-1")

    def restarted():
        return kube.get("pod", "x-1", cluster.namespace)["status"]["containerStatuses"][0]["restartCount"] > 0

    wait.until(restarted, "x-1 to be started again")
    kube.wait_ready(cluster.namespace, cluster.selector, 3)
    assert [p["metadata"]["uid"] for p in cluster.pods()] == before
    cluster.patch(config=None)
    cluster.wait(lambda s: not (s.get("template") or {}).get("pendingRevision"), "nothing to be approved")
    cluster.wait_settled(3)
    assert [p["metadata"]["uid"] for p in cluster.pods()] == before, "what was taken back restarts nobody"
