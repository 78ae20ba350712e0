"""Some minutes of the random runner (`soak`), and that it can be relied on: seeds replay, budgets hold, nothing stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import wait
from soak import plan

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
                assert not any(a.kind == "wipe" for a in round_.actions)
            if action.kind == "move":
                assert shape.named
        network = [a for a in round_.actions if a.kind in plan.NETWORK]
        assert all(a.at + a.seconds <= b.at + 0.02 for a, b in zip(network, network[1:])), "a heal would end both"
    assert drawn == set(plan.KINDS), f"never drawn: {set(plan.KINDS) - drawn}"
