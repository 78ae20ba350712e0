"""Operating a cluster through `chronik-broker control`: nobody without the secret, nothing lost, nothing half done."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from confluent_kafka.admin import ConfigResource
from harness import history, kafka, wait
from harness.cluster import BROKER, CLUSTER_ID, Cluster

SECRET = "e2e-secret"
# Exit codes of `control`: the broker does not answer; ask again.
NOT_NOW = (69, 75)


class Book(Cluster):
    """Brokers that share a secret and read one `cluster.yaml`, as an operator would write it."""

    def __init__(self, directory, brokers=3):
        self.retired = []
        self.founded = False
        self.defaults = {}
        self.secret = Path(directory) / "token"
        self.secret.write_text(SECRET)
        super().__init__(directory, brokers, **{"control.secret.file": str(self.secret)})

    def write_book(self):
        document = {
            "clusterId": CLUSTER_ID,
            "bootstrapVoters": self.bootstrap_voters,
            "join": self.founded,
            "retired": self.retired,
            "clusterDefaults": self.defaults,
            "peers": [{"id": b.id, "host": b.host, "ports": {"raft": b.raft_port}} for b in self.brokers.values()],
        }
        path = self.dir / "cluster.yaml"
        path.with_suffix(".new").write_text(yaml.safe_dump(document))
        path.with_suffix(".new").rename(path)
        return path

    def membership(self, broker):
        return {"cluster.file": str(self.write_book())}

    def ask(self, *words, via=None, secret=None, code=0):
        """One question to one broker: the answer, and the exit code must be `code`, or one of them."""
        broker = via or self.running()[0]
        command = [BROKER, "control", *map(str, words), "--address", f"{broker.host}:{broker.raft_port}"]
        command += ["--secret-file", str(secret or self.secret)]
        codes = code if isinstance(code, tuple) else (code,)

        def answered():
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
            return None if done.returncode in NOT_NOW and done.returncode not in codes else done

        done = wait.until(answered, f"an answer to {words}", 90, interval=0.5)
        assert done.returncode in codes, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout else done.stderr

    def cluster_view(self, **options):
        return self.ask("describe", **options)["cluster"]

    def broker_view(self, node, **options):
        return next((b for b in self.cluster_view(**options)["brokers"] if b["node_id"] == node), None)

    def wait_view(self, holds, what, **options):
        """Waits until the picture of the cluster `holds`; a broker's picture is as old as its last news."""
        return wait.until(lambda: (view := self.cluster_view(**options)) and holds(view) and view, what)

    def rebalance(self, *words, timeout=240):
        """Asks again and again until nothing remains; the moves that it was told of."""
        moves = []

        def balanced():
            progress = self.ask("rebalance", *words)["outcome"]["progress"]
            moves.extend(progress["moves"])
            return not (progress["in_flight"] or progress["remaining"] or progress["leaders_moved"])

        wait.until(balanced, "a balanced cluster", timeout, interval=0.2)
        return moves

    def wait_balanced(self, **expected):
        """Waits for the counts per broker. A broker that was taken for dead meanwhile gets its leaderships back by asking again."""

        def there():
            view = self.cluster_view()
            if all(counts(view, what) == numbers for what, numbers in expected.items()):
                return True
            self.rebalance()
            return False

        wait.until(there, f"{expected} per broker", interval=0.5)

    def join(self, node):
        self.founded = True
        broker = self.add(node)
        self.write_book()
        broker.start()
        self.wait_ready(node)
        return broker

    def vote(self, node):
        """Done as soon as it has caught up; repeating it does no harm."""

        def promoted():
            command = self.ask("describe")["cluster"]
            if node in command["voters"]:
                return True
            progress = {p["node_id"]: p for p in command["progress"]}
            if progress.get(node, {}).get("caught_up"):
                self.ask("promote", node)
            return False

        wait.until(promoted, f"broker {node} to vote")


@pytest.fixture
def book(tmp_path):
    with Book(tmp_path) as three:
        three.start().wait_ready()
        yield three


def counts(view, what):
    return sorted(broker[what] for broker in view["brokers"])


def test_nobody_is_answered_without_the_secret(book, tmp_path):
    assert book.ask("describe")["self"]["cluster_id"] == CLUSTER_ID
    wrong = tmp_path / "wrong"
    wrong.write_text(SECRET[:-1])
    for words in (["describe"], ["cordon", 1], ["rebalance"], ["move-leaders", 1], ["remove", 3], ["unregister", 3]):
        assert "the secret is wrong" in book.ask(*words, secret=wrong, code=77)
    bare = [BROKER, "control", "describe", "--address", f"{book[1].host}:{book[1].raft_port}"]
    done = subprocess.run(bare, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 77 and "needs the cluster's secret" in done.stderr, done.stderr
    # The secret is replaced without a restart: both are accepted while the file holds both.
    new = tmp_path / "new"
    new.write_text("another-secret")
    assert "the secret is wrong" in book.ask("describe", secret=new, code=77)
    old = tmp_path / "old"
    old.write_text(SECRET)
    book.secret.write_text(f"another-secret\n{SECRET}\n")
    book.ask("describe", secret=old), book.ask("describe", secret=new)
    book.secret.write_text("another-secret")
    wait.until(lambda: book.ask("describe", secret=new), "the new secret to count")
    assert "the secret is wrong" in book.ask("describe", secret=old, code=77)
    assert book.cluster_view()["voters"] == [1, 2, 3]
    assert not any(broker["cordoned"] for broker in book.cluster_view()["brokers"])


def test_a_broker_without_a_secret_answers_nobody_and_says_what_is_missing(tmp_path):
    with Book(tmp_path, brokers=1) as one:
        one.config = {}
        one.start().wait_ready()
        assert "control.secret.file is not set" in one.ask("describe", code=77)


def test_nobody_joins_the_quorum_without_the_secret(book):
    book.founded = True
    stranger = book.add(4)
    stranger.overrides = {"control.secret.file": None}
    book.write_book()
    stranger.start()
    waiting = lambda: [s["detail"] for s in stranger.status()["startup"]["steps"] if s["name"] == "join"]  # noqa: E731
    wait.until(lambda: any("secret" in detail for detail in waiting()), "the stranger to be refused")
    view = book.cluster_view()
    assert (view["voters"], view["learners"]) == ([1, 2, 3], [])
    stranger.kill()
    stranger.overrides = {}
    stranger.start()
    book.wait_ready(4)
    book.wait_view(lambda view: view["learners"] == [4], "a learner")


def test_a_cordoned_broker_gets_empty_under_load_and_nothing_is_lost(tmp_path):
    with Book(tmp_path, brokers=4) as book:
        book.start().wait_ready()
        kafka.create_topic(book.bootstrap, "t", partitions=12)
        load = history.Workload(book.bootstrap, "t")
        load.start()
        load.wait_acks(200)
        # Nine on average: new topics are spread by chance.
        book.wait_view(lambda view: sum(counts(view, "replicas")) == 36, "all replicas to be known")
        share = book.broker_view(4)["replicas"]
        assert share > 0
        book.ask("cordon", 4), book.ask("cordon", 4)
        wait.until(lambda: book.broker_view(4, via=book[2])["cordoned"], "broker 2 to hear of it")
        planned = book.ask("rebalance", "--dry-run")["outcome"]["progress"]
        assert planned["in_flight"] == 0 and planned["remaining"] >= share, planned
        assert book.broker_view(4)["replicas"] == share, "a dry run changes nothing"
        book.rebalance("--max-in-flight", 3)
        book.wait_balanced(replicas=[0, 12, 12, 12], leaders=[0, 4, 4, 4])
        assert book.cluster_view()["reassigning_partitions"] == 0
        load.wait_acks(200)
        acked = load.finish()
        assert load.failed == [], load.failed[:3]
        kafka.full_isr(book.bootstrap, "t")
        history.check_nothing_lost(acked, kafka.read_all(book.bootstrap, "t"))
        # No new topic lands on it, and it gets its share again when it may.
        kafka.create_topic(book.bootstrap, "u", partitions=4)
        assert book.broker_view(4)["replicas"] == 0
        book.ask("uncordon", 4)
        book.rebalance("--throttle", 100 << 20)
        replicas = counts(book.cluster_view(), "replicas")
        assert replicas[-1] - replicas[0] <= 1 and replicas[0] > 0, replicas
        resource = ConfigResource(ConfigResource.Type.BROKER, "1")
        client = kafka.admin(book.bootstrap)
        rate = lambda: client.describe_configs([resource])[resource].result(60)["reassignment.throttle.rate"].value  # noqa: E731
        wait.until(lambda: rate() == str(100 << 20), "the throttle's rate")
        history.check_nothing_lost(acked, kafka.read_all(book.bootstrap, "t"))


def test_what_cannot_leave_a_cordoned_broker_is_told_with_its_topic(book):
    kafka.create_topic(book.bootstrap, "wide", partitions=2)
    book.ask("cordon", 3)
    progress = book.ask("rebalance")["outcome"]["progress"]
    assert "ReplicationFactorTooHigh: topic wide has 3 replicas" in progress["blocked"]
    assert (progress["in_flight"], progress["remaining"]) == (0, 2)
    view = book.cluster_view()
    assert (view["max_replication_factor"], view["max_replication_factor_topic"]) == (3, "wide")


def test_a_cluster_grows_to_five_shrinks_to_four_and_takes_a_retired_disk_back_as_a_stranger(book):
    kafka.create_topic(book.bootstrap, "t", partitions=10)
    load = history.Workload(book.bootstrap, "t")
    load.start()
    load.wait_acks(100)
    for node in (4, 5):
        book.join(node)
        book.vote(node)
    book.wait_view(lambda view: view["voters"] == [1, 2, 3, 4, 5], "five voters")
    book.rebalance("--max-in-flight", 4)
    book.wait_balanced(replicas=[6] * 5, leaders=[2] * 5)
    load.wait_acks(100)

    # Broker 5 leaves for good, step by step.
    book.ask("cordon", 5)
    book.rebalance("--max-in-flight", 4)
    emptied = lambda: book.ask("move-leaders", 5)["outcome"]["left"] == {"moved": 0, "left": 0}  # noqa: E731
    wait.until(emptied, "broker 5 to lead nothing")
    assert book.broker_view(5)["replicas"] == 0
    if book.cluster_view()["leader_id"] == 5:
        book.ask("transfer", 1)
        wait.until(lambda: book.cluster_view()["leader_id"] not in (0, 5), "another leader of the quorum")
    book.ask("remove", 5), book.ask("remove", 5)
    book.wait_view(lambda view: view["voters"] == [1, 2, 3, 4], "four voters")
    directory = book.broker_view(5)["directory_id"]
    assert directory == book.ask("describe", via=book[5])["self"]["directory_id"]
    assert "alive" in book.ask("unregister", 5, code=1)["outcome"]["refused"]
    book[5].kill()
    wait.until(lambda: book.broker_view(5)["fenced"], "broker 5 to be fenced")
    book.ask("unregister", 5), book.ask("unregister", 5)
    assert book.broker_view(5) is None
    load.wait_acks(100)

    # Its disk comes back with what it remembers; the cluster has given it up.
    assert (book[5].data / "raft").exists()
    book.retired = [directory]
    book[5].start()
    book.wait_ready(5)
    book.wait_view(lambda view: (view["voters"], view["learners"]) == ([1, 2, 3, 4], [5]), "a fifth that does not vote")
    again = wait.until(lambda: book.broker_view(5), "broker 5 to be registered")
    assert again["directory_id"] not in ("", directory) and again["replicas"] == 0
    assert (book[5].data / f"retired-{directory}" / "raft").exists()
    assert not (book[5].data / "retiring").exists()
    book.rebalance("--max-in-flight", 4)
    book.wait_balanced(replicas=[6] * 5)
    # A later start of the new life is an ordinary restart.
    assert book[5].stop() == 0
    book[5].start()
    book.wait_ready(5)
    assert book.broker_view(5)["directory_id"] == again["directory_id"]

    load.wait_acks(100)
    acked = load.finish()
    kafka.full_isr(book.bootstrap, "t")
    history.check_nothing_lost(acked, kafka.read_all(book.bootstrap, "t"))


def test_a_voter_is_made_a_learner_and_a_voter_again_under_load_and_the_leader_is_not(book):
    kafka.create_topic(book.bootstrap, "t", partitions=3)
    load = history.Workload(book.bootstrap, "t")
    load.start()
    load.wait_acks(50)

    def demoted():
        """Whoever does not lead, after the leader was asked in vain. An election in between means: once more."""
        leader = book.cluster_view()["leader_id"]
        answer = book.ask("demote", leader, code=(0, 1, 75))["outcome"] if leader else {}
        if "done" in answer:
            book.vote(leader)
        if "transfer leadership first" not in answer.get("refused", ""):
            return None
        node = max({1, 2, 3} - {leader})
        return node if "done" in book.ask("demote", node, code=(0, 1, 75))["outcome"] else None

    node = wait.until(demoted, "a voter to be demoted")
    book.ask("demote", node)
    others = [id for id in (1, 2, 3) if id != node]
    for broker in book.running():
        followed = lambda: (lambda v: (v["voters"], v["learners"]))(book.cluster_view(via=broker)) == (others, [node])  # noqa: B023, E731
        wait.until(followed, f"broker {broker.id} to see one voter less")
    load.wait_acks(50)
    # Without a vote, but in service: it holds replicas, and its restart costs nobody a leader.
    assert book[node].stop() == 0
    load.wait_acks(50)
    book[node].start()
    book.wait_ready(node)
    book.wait_view(lambda view: (view["voters"], view["learners"]) == (others, [node]), "a restart that makes no voter")
    assert "not a member" in book.ask("demote", 9, code=1)["outcome"]["refused"]
    book.vote(node)
    book.wait_view(lambda view: view["voters"] == [1, 2, 3], "three voters")
    load.wait_acks(50)
    acked = load.finish()
    assert load.failed == [], load.failed[:3]
    kafka.full_isr(book.bootstrap, "t")
    history.check_nothing_lost(acked, kafka.read_all(book.bootstrap, "t"))


def everybody_caught_up(view):
    return {p["node_id"] for p in view["progress"] if p["caught_up"]} == {1, 2, 3} - {view["leader_id"]}


def test_every_broker_knows_how_far_the_members_are_and_who_may_not_stop(book):
    kafka.create_topic(book.bootstrap, "t", partitions=3)
    for broker in book.running():
        # How far the members are comes from a picture that the quorum renews some times per second.
        wait.until(lambda: everybody_caught_up(book.cluster_view(via=broker)), "the view to show two that caught up")  # noqa: B023
        agrees = lambda view: view["leader_id"] == book.raft_leader()  # noqa: E731
        book.wait_view(agrees, "the leader that the others know", via=broker)
        book.wait_view(lambda view: counts(view, "restart_blockers") == [0, 0, 0], "nobody to be needed", via=broker)
        me = book.ask("describe", via=broker)["self"]
        assert me["node_id"] == broker.id and me["ready"] and me["disk_total_bytes"] > me["disk_used_bytes"] > 0
    book[3].kill()
    blocked = lambda: [b["restart_blockers"] for b in book.cluster_view()["brokers"]] == [3, 3, 0]  # noqa: E731
    wait.until(blocked, "the two that are left to be needed")
    assert "t-0: in sync are" in book.broker_view(1)["restart_blocker_example"]
    book[3].start()
    book.wait_ready(3)
    wait.until(lambda: counts(book.cluster_view(), "restart_blockers") == [0, 0, 0], "everybody to be in sync")
