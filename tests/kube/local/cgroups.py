"""Control groups of the two kubelets: each has its own root below the run's, in version 1 and in version 2."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "perf_event", "systemd",
               "cpu,cpuacct", "net_cls,net_prio")


def create(run):
    paths = [Path(run.cgroup) / f"node-{node}" for node in (1, 2)]
    if (ROOT / "cgroup.controllers").exists():
        _delegate(ROOT)
        for path in paths:
            (ROOT / path).mkdir(parents=True)
            _delegate(ROOT / run.cgroup)
            _delegate(ROOT / path)
        return
    for hierarchy in {(ROOT / name).resolve() for name in CONTROLLERS if (ROOT / name).is_dir()}:
        for path in paths:
            (hierarchy / path).mkdir(parents=True)
            # An empty cpuset takes no process.
            for folder in (hierarchy / run.cgroup, hierarchy / path):
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (folder / name).exists():
                        (folder / name).write_text((folder.parent / name).read_text())


def _delegate(folder):
    for controller in (folder / "cgroup.controllers").read_text().split():
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue
