"""Fixtures: one Kubernetes per session, one operator in it, one namespace per test. Nothing survives the session."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent, HERE.parents[1] / "e2e"):
    sys.path.insert(0, str(folder))

from support import artefacts  # noqa: E402
from support.ccl import Cluster  # noqa: E402
from support.kube import TOP, Kube  # noqa: E402
from support.load import Load  # noqa: E402
from support.release import IMAGES, Operator  # noqa: E402

# Names are cut; the one before may still be on its way out.
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def kube():
    """KUBECONFIG's cluster, which has to have the images, or a local one that ends with the session without a trace."""
    if os.environ.get("KUBECONFIG"):
        yield Kube(os.environ["KUBECONFIG"])
        return
    from local import down, up

    run = up.start(f"t{os.getpid()}", owner=os.getpid(), images=IMAGES)
    try:
        yield Kube(run.kubeconfig, up.binaries(), run)
    finally:
        begin = time.monotonic()
        broken = (run.dir / "failed").read_text() if (run.dir / "failed").exists() else ""
        left = down.end(run)
        print(f"\nKubernetes ended in {time.monotonic() - begin:.1f} s")
        assert not left, "left on this machine: " + "; ".join(left)
        assert not broken, f"a component of Kubernetes died during the tests: {broken}"


@pytest.fixture
def namespace(kube, request):
    """A namespace of the test's own. Kubernetes takes a quarter of a minute to delete one; nobody waits for that."""
    name = f"t{next(NUMBERS)}-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:36].strip("-")
    kube.namespace(name)
    yield name
    kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


# All scenarios with an operator that may do nothing outside of one namespace: each test installs its own.
NAMESPACED = os.environ.get("CHRONIK_KUBE_NAMESPACED") == "1"


@pytest.fixture(scope="function" if NAMESPACED else "session")
def operator(kube, request):
    """The operator as a user installs it: the definitions, then the chart."""
    if not NAMESPACED:
        return Operator(kube).install()
    return Operator(kube, request.getfixturevalue("namespace"), **{"watch.namespaced": "true"}).install()


@pytest.fixture
def cluster(kube, operator, namespace):
    """An object that is not applied yet; deleted before its namespace so that waiting is about the operator."""
    del operator
    return Cluster(kube, namespace)


@pytest.fixture
def load(kube, tmp_path):
    """`load(cluster, topic=..., ...)`: a client that produces while the block runs and is judged at its end."""

    def start(cluster, topic="load", **settings):
        return Load(kube, tmp_path, cluster.bootstrap(), topic, **settings)

    return start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    kube = getattr(item, "funcargs", {}).get("kube")
    if report.failed and kube is not None and call.when in ("setup", "call"):
        report.sections.append(("kubernetes", artefacts.collect(kube, item.name)))
    return report


def pytest_collection_modifyitems(config, items):
    """In CI nothing may be skipped: what a test needs and the machine lacks is then an error."""
    del config, items
    if os.environ.get("CI") and not os.environ.get("KUBECONFIG"):
        for command in ("ip", "iptables", "containerd", "etcd", "runc"):
            assert shutil.which(command), f"CI needs {command}"
        assert subprocess.run(["test", "-d", str(TOP / "charts")], check=False).returncode == 0
