"""Some minutes of the random runner (`soak`), and that it can be relied on: seeds replay, budgets hold, nothing stays behind."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import wait
from soak import plan, rot
from soak.nemesis import Nemesis

MINUTES = float(os.environ.get("CHRONIK_SOAK_MINUTES", "10"))


def start(directory, minutes, *args):
    command = [sys.executable, "-m", "soak", str(minutes), *args, "--directory", str(directory)]
    return subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def place(tmp_path):
    """A directory for runs; what a failed test leaves of them is removed."""
    yield tmp_path
    clean = start(tmp_path / "run", 0, "--clean")
    clean.communicate(timeout=180)


def traces(directory):
    """What a run that is over must not have left: mounts, namespaces and processes of its own."""
    left = [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in path.read_bytes():
                left.append(path.read_text().replace("\0", " "))
        except OSError:
            pass
    prefix = directory / "run" / "prefix"
    if prefix.exists():
        left += [str(p) for p in Path("/run/netns").glob(f"{prefix.read_text()}[hn]*")]
    return left


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_random_faults_on_real_processes_break_no_promise(place):
    run = start(place, MINUTES)
    output = []
    for line in run.stdout:
        output.append(line)
        print(line, end="", flush=True)
    assert run.wait() == 0, "".join(output[-60:])
    assert traces(place) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_soak_that_is_interrupted_leaves_nothing_behind(place, number):
    run = start(place, 10, "7")
    try:
        wait.until(lambda: list(place.glob("run/g1/broker-*/disk/data/raft*")), "brokers that run")
        run.send_signal(number)
        assert run.wait(400) != 0
    finally:
        if run.poll() is None:
            run.kill()
        run.stdout.close()
    wait.until(lambda: not traces(place), f"no traces, but there are {traces(place)}")


def test_a_killed_soak_is_cleaned_up_by_the_next_command(place):
    run = start(place, 10, "8")
    wait.until(lambda: list(place.glob("run/g1/broker-*/disk/data/raft*")), "brokers that run")
    run.kill()
    run.communicate()
    assert traces(place), "the test tests nothing"
    clean = start(place / "run", 0, "--clean")
    assert clean.wait(180) == 0, clean.stdout.read()
    clean.stdout.close()
    wait.until(lambda: not traces(place), "no traces")


def test_a_seed_always_draws_the_same_actions():
    for seed in range(50):
        first, second = ([plan.actions(seed, n, plan.shape(seed, 1)) for n in range(5)] for _ in range(2))
        assert first == second
    assert plan.actions(1, 1, plan.shape(1, 1)) != plan.actions(2, 1, plan.shape(1, 1))


def test_disks_are_lost_on_one_victim_at_a_time_or_on_all_with_durable_acknowledgements():
    drawn = set()
    for seed in range(400):
        shape = plan.shape(seed, 1)
        round_ = plan.actions(seed, 1, shape)
        for action in round_.actions:
            drawn.add(action.kind)
            if action.kind in plan.DISK_LOSS:
                assert action.nodes == (round_.victim,)
            if action.kind == "power-all":
                assert shape.durable
                assert not any(a.kind in ("wipe", "rot") for a in round_.actions)
            if action.kind == "move":
                assert shape.named
        network = [a for a in round_.actions if a.kind in plan.NETWORK]
        assert all(a.at + a.seconds <= b.at + 0.02 for a, b in zip(network, network[1:])), "a heal would end both"
    assert drawn == set(plan.KINDS), f"never drawn: {set(plan.KINDS) - drawn}"


def some_disk(data):
    """Files as a broker has them; the log holds three batches."""
    batch = lambda base: struct.pack(">qiibI", base, 188, 5, 2, 7) + bytes(range(179))  # noqa: E731
    files = {
        "data/t-0/00000000000000000000.log": batch(0) + batch(1) + batch(2), "data/t-0/00000000000000000000.index": b"i" * 40,
        "data/t-0/00000000000000000003.snapshot": b"s" * 40, "data/t-0/leader-epoch-checkpoint": b"e" * 40, "data/t-0/log-start": b"l" * 20,
        "data/t-0/partition.metadata": b"p" * 70, "raft/log-0000000000000001.seg": b"r" * 2000, "meta.properties": b"m" * 90,
        "recovery-point-offset-checkpoint": b"c" * 50, "clean-shutdown": b"x" * 18,
    }
    shutil.rmtree(data, ignore_errors=True)
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    return files


@pytest.mark.parametrize("target", sorted(rot.TARGETS))
@pytest.mark.parametrize("how", rot.HOW)
def test_rot_damages_one_file_of_the_kind_and_the_same_with_the_same_seed(tmp_path, target, how):
    found = set()
    for seed in range(30):
        what, disks = [], []
        for _ in range(2):
            files = some_disk(tmp_path / "data")
            what.append(rot.damage(tmp_path / "data", target, how, seed))
            disks.append({name: (tmp_path / "data" / name).read_bytes() for name in files if (tmp_path / "data" / name).exists()})
        assert what[0] == what[1] and disks[0] == disks[1]
        assert what[0]["how"] == how and what[0]["left"] <= what[0]["bytes"]
        changed = {name for name, content in files.items() if disks[0].get(name) != content}
        gone = set(rot.VOUCHERS) if target == "segment" else set()
        assert changed == {what[0]["file"]} | gone
        if target == "segment" and how == "flip":
            assert what[0]["at"] % 200 not in range(12, 16), "no checksum covers the epoch of a batch"
        found.add(what[0]["at"])
    assert how == "empty" or len(found) > 1 or target != "segment"


def test_rot_of_what_is_not_there_is_none(tmp_path):
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft/spare.seg").touch()
    assert rot.damage(tmp_path, "quorum", "flip", 1) is None


class DeadBroker:
    """One that does not run and does not start."""

    id, running, process, environment = 1, False, None, {}

    def __init__(self):
        self.starts = 0

    def start(self):
        self.starts += 1

    @staticmethod
    def log():
        return ""


def brokers(broker):
    """A cluster of one."""
    return type("Brokers", (SimpleNamespace,), {"__getitem__": lambda self, node: self.brokers[node]})(brokers={1: broker}, running=list)


def test_a_summary_counts_what_was_done_and_not_what_was_drawn():
    events = []
    broker = DeadBroker()
    cluster = brokers(broker)
    world = SimpleNamespace(cluster=cluster, network=None, record=lambda op, **fields: events.append((op, fields)), limits={})
    nemesis = Nemesis(world, threading.Event())
    kinds = ("kill", "term", "rolling", "pause", "fds", "memory", "rot")
    nemesis.stop.set()
    for kind in kinds:
        nemesis._step(0, "begin", plan.Action(0.0, kind, (1,), 0.0, {"spare": 0}))
    assert not nemesis.done and set(nemesis.undone) == set(kinds)
    nemesis._step(0, "begin", plan.Action(0.0, "clock", (1,), 0.0, {"offset_ms": 5}))
    assert not nemesis.done, "its clock differs when it starts"
    nemesis._step(0, "end", plan.Action(0.0, "clock", (1,), 0.0, {"offset_ms": 5}))
    assert nemesis.done == {"clock": 1} and broker.starts == 2, "one by the rolling restart, which stopped nobody"
    assert [fields["kind"] for op, fields in events if op == "fault" and fields["phase"] == "nothing"] == list(kinds)


def test_a_broker_that_refuses_a_rotten_disk_is_wiped_if_it_says_of_which_file():
    for said, failures in (("error: data/meta.properties: checksum mismatch", 0), ("error: something", 1)):
        broker = DeadBroker()
        broker.process, broker.environment = SimpleNamespace(returncode=65), {}
        broker.log = lambda said=said: said
        cluster = brokers(broker)
        nemesis = Nemesis(SimpleNamespace(cluster=cluster, network=None, record=lambda *_, **__: None), threading.Event())
        nemesis.rotten[1] = {"file": "meta.properties"}
        nemesis.watch()
        assert broker.environment == {"WIPED": "1"} and len(nemesis.failures) == failures
    broker.process.returncode, broker.environment = 75, {}
    nemesis = Nemesis(SimpleNamespace(cluster=cluster, network=None, record=lambda *_, **__: None), threading.Event())
    nemesis.rotten[1] = {"file": "meta.properties"}
    nemesis.watch()
    assert nemesis.failures and not broker.environment, "a restart would not cure it"
