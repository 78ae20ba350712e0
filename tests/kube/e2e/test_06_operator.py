"""Scenario 6: the operator is killed at random moments while it scales and while it restarts brokers, and it is upgraded."""

import os
import random

import pytest
from support import wait
from support.ccl import Cluster
from support.killer import Killer
from support.load import Load
from support.measure import rolling_restart, said_version
from support.release import IMAGES
from support.upgrade import NEXT, next_broker, next_operator


@pytest.fixture
def chance():
    seed = int(os.environ.get("CHRONIK_KUBE_SEED") or random.randrange(1 << 32))
    print(f"    CHRONIK_KUBE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def killable(kube, cluster):
    if kube.run is None:
        pytest.skip("processes of a cluster of yours are not killed")
    cluster.apply()
    cluster.wait_settled(3)
    return cluster


def test_06_the_operator_is_killed_while_the_size_changes_to_five_and_back(killable, operator, chance, load):
    with load(killable, partitions=8) as producing:
        for size in (5, 3):
            with Killer(operator, chance):
                killable.scale(size)
                status = killable.wait_settled(size)
            assert sorted(status["quorum"]["voters"]) == list(range(1, size + 1)), "the voters follow"
            producing.wait_acks()
        assert [p["metadata"]["name"] for p in killable.pods()] == ["x-0", "x-1", "x-2"]


def test_06_the_operator_is_killed_during_a_rolling_restart(kube, killable, operator, chance, load):
    seen = rolling_restart(kube, killable, load, around=Killer(operator, chance))
    print(f"    three brokers restarted in {seen.seconds:.1f} s")
    assert sorted(seen.deleted) == ["x-0", "x-1", "x-2"], f"each exactly once, also when nobody remembers: {seen.deleted}"
    assert seen.most_missing == 1, "never two down"


@pytest.fixture
def upgrade(kube, operator, tmp_path):
    """`upgrade(...)`: `helm upgrade` to the other release; undone at the end. Returns the version that the operators then report."""
    if kube.run is None:
        pytest.skip("no images are made for a cluster of yours")
    version = next_operator(kube, IMAGES, tmp_path)

    def act(**values):
        operator.install(crds=False, **{"operator.image.tag": NEXT, **values})
        return version

    yield act
    operator.install(crds=False)


def uids(cluster):
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()}


def images(cluster):
    return {p["spec"]["containers"][0]["image"] for p in cluster.pods()}


def test_06_an_upgrade_of_the_operator_restarts_no_broker_that_names_its_image(kube, cluster, operator, upgrade, load):
    """`helm upgrade` to an operator with another image, another digest and another version in its log, as at a release; nobody restarts.

    The code of both is the same but for that number, so this shows how an upgrade goes about its work and not what a later release may
    compute differently; the next test has an operator that wants other pods.
    """
    cluster.apply()
    cluster.wait_settled(3)
    before, old = uids(cluster), {p["metadata"]["uid"] for p in operator.pods()}
    with load(cluster) as producing:
        version = upgrade()
        assert not old & {p["metadata"]["uid"] for p in operator.pods()}
        wait.until(lambda: {said_version(log) for log in operator.logs()} == {version}, f"operators that call themselves {version}")
        # The new one works: it does what is asked of it.
        cluster.scale(4)
        cluster.wait_settled(4, voters=3)
        cluster.scale(3)
        cluster.wait_settled(3)
        producing.wait_acks()
    assert uids(cluster) == before


def test_06_an_upgrade_that_brings_another_broker_rolls_it_out_or_waits_for_approval(kube, operator, namespace, upgrade, tmp_path):
    """A release brings a new default image of the brokers, so the upgraded operator computes another pod template for clusters that name none.

    With `upgradePolicy: Manual` nobody restarts until that revision is approved; the other cluster follows at once, one broker at a time.
    """
    held, following = Cluster(kube, namespace, "held"), Cluster(kube, namespace, "following")
    for cluster, policy in ((held, "Manual"), (following, "Auto")):
        cluster.apply(image=None, upgradePolicy=policy)
    for cluster in (held, following):
        cluster.wait_settled(3)
    before, old = uids(held), images(held)
    image = next_broker(kube, IMAGES, tmp_path)
    assert old == images(following) and image not in old
    with Load(kube, tmp_path, held.bootstrap(), "held") as one, Load(kube, tmp_path, following.bootstrap(), "following") as two:
        upgrade(**{"broker.image.tag": NEXT})
        wait.until(lambda: images(following) == {image}, "the new brokers")
        following.wait_settled(3)
        held.wait_blocked("ManualApproval")
        pending = held.wait(lambda s: (s.get("template") or {}).get("pendingRevision"), "the pending revision")
        one.wait_acks()
        two.wait_acks()
        assert uids(held) == before and images(held) == old, "nobody restarts by surprise"
        kube.kubectl("annotate", "ccl", "held", "-n", namespace, "--overwrite", f"chronik.io/approved-revision={pending}")
        wait.until(lambda: images(held) == {image}, "the approved brokers")
        held.wait_settled(3)
        one.wait_acks()
        assert two.finish()["failed"] == 0
        assert one.finish()["failed"] == 0
