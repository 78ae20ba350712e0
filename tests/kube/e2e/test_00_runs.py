"""The promise of the local Kubernetes: runs do not meet, and whatever happens to one, nothing of it stays."""

import os
import signal
import subprocess
import sys

import pytest
from local import down, trace, up
from local.run import Run


@pytest.fixture
def second(kube):
    if kube.run is None:
        pytest.skip("KUBECONFIG is set: nothing local is started")
    run = up.start(f"s{os.getpid()}", owner=os.getpid())
    yield run
    if run.dir.exists():
        assert down.end(run) == []


def test_a_second_run_has_its_own_everything_and_leaves_nothing(kube, second):
    assert second.address(1) != kube.address(1)
    uids = [subprocess.run([kube.programs / "kubectl", f"--kubeconfig={run.kubeconfig}", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"],
                           capture_output=True, text=True, check=True).stdout for run in (kube.run, second)]
    assert uids[0] != uids[1]
    assert down.end(second) == []
    assert len(kube.get("nodes")) == 2, "the first one has not noticed"


def test_a_killed_run_is_stale_and_the_next_start_cleans_it(kube, second):
    os.kill(second.facts["pid"], signal.SIGKILL)
    os.waitpid(second.facts["pid"], 0)
    assert second.stale() and not kube.run.stale()
    said = []
    up.clean_stale(said.append)
    assert said == [f"cleaning the stale run {second.name}"]
    assert not second.dir.exists() and trace.leftovers(second, second.facts["before"]) == []


def test_a_run_ends_with_the_test_that_owned_it(kube):
    if kube.run is None:
        pytest.skip("KUBECONFIG is set: nothing local is started")
    name = f"o{os.getpid()}"
    code = f"import os, sys; sys.path.insert(0, {str(up.HERE)!r}); from local import up; up.start({name!r}, owner=os.getpid()); os._exit(0)"
    subprocess.run([sys.executable, "-B", "-c", code], check=True, stdout=subprocess.DEVNULL)
    run = next(run for run in Run.all() if run.name == name)
    assert run.stale() and run.running(), "its owner is gone, it still runs"
    up.clean_stale(lambda _: None)
    assert not run.dir.exists() and run.processes() == []


def test_the_check_for_leftovers_does_find_some(second):
    before = second.facts["before"]
    found = trace.leftovers(second, before)
    for what in ("process", "control group", "network link", "folder"):
        assert any(item.startswith(what) for item in found), f"{what} in {found}"
    assert down.end(second) == []
    changed = {**before, "sysctl": {**before["sysctl"], "kernel/panic": "77"}}
    assert trace.leftovers(second, changed) == [f"sysctl kernel/panic was 77 and is {before['sysctl']['kernel/panic']}"]
