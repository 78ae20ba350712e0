"""Starts a run: stale runs away, folder, certificates, configuration, namespaces, the link to the host, and then `init`.

Called by tests/kube/up and by the tests. Prints what took how long. When anything fails, everything is taken down again and
the reason is told with the end of the log that knows more.
"""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from . import certs, cgroups, config, down, trace
from .run import BASE, PREFIX, Run, start_time, wait

HERE = Path(__file__).resolve().parent.parent
TOOLS = HERE.parent / "tools"


class Failed(Exception):
    pass


def binaries():
    """The folder of the built components; builds them the first time, which takes minutes and says so."""
    return Path(subprocess.run([TOOLS / "kube-build.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1])


def clean_stale(say=print):
    """Ends what an interrupted run left. Runs of living owners and runs by hand are somebody's: they stay."""
    for run in Run.all():
        if run.stale():
            say(f"cleaning the stale run {run.name}")
            left = down.end(run)
            if left:
                raise Failed(f"the stale run {run.name} left: " + "; ".join(left))


def start(name, owner=None, images=(), say=print):
    """A running Kubernetes called `name`, with `images` (archives) on both nodes."""
    begin = time.monotonic()
    programs = binaries()
    BASE.mkdir(parents=True, exist_ok=True)
    with open(BASE / f".{PREFIX}lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clean_stale(say)
        if (BASE / (PREFIX + name)).exists():
            raise Failed(f"a run called {name} exists: end it with tests/kube/down {name}")
        before = trace.snapshot()
        run = Run.create(name, owner)
        run.facts["before"] = before
        run.save()
        try:
            _start_process(run, programs)
        except BaseException:
            down.end(run)
            raise
    try:
        _follow(run, say)
        load(run, [programs.parent / "pause.tar", *images], say)
    except BaseException as error:
        logs = _last_words(run)
        left = down.end(run)
        if isinstance(error, Failed | TimeoutError):
            raise Failed("\n".join([str(error), logs, *(f"left behind: {item}" for item in left)])) from error
        raise
    say(f"{'Kubernetes is up':<44} {time.monotonic() - begin:6.2f} s")
    return run


def _start_process(run, programs):
    certs.create(run)
    config.write(run)
    cgroups.create(run)
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(run.dir)}
    environment.pop("KUBECONFIG", None)
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "slave", "--net",
               sys.executable, "-m", "local.init", str(run.dir), str(programs)]
    with open(run.dir / "log" / "init.log", "ab") as log:
        outer = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=environment, cwd=run.dir)
    run.facts |= {"pid": outer.pid, "started": start_time(outer.pid)}
    run.save()
    wait(lambda: run.running() and run.init_pid(), "the first process", 60)
    link, pid = run.facts["link"], str(run.init_pid())
    run.facts["pid_namespace"] = os.readlink(f"/proc/{pid}/ns/pid")
    run.save()
    for arguments in (
        ["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid],
        ["addr", "add", f"{run.address(0)}/30", "dev", link],
        ["link", "set", link, "up"],
        # Node 2 is behind node 1; its NodePorts are part of what clients outside use.
        ["route", "add", f"{run.inner_gateway.rpartition('.')[0]}.4/30", "via", run.address(1), "dev", link],
    ):
        subprocess.run(["ip", *arguments], check=True)


def _follow(run, say):
    """Shows the log of `init` while it starts."""
    shown = 0

    def ready():
        nonlocal shown
        lines = (run.dir / "log" / "init.log").read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            say(line)
        shown = len(lines)
        if (run.dir / "failed").exists():
            raise Failed((run.dir / "failed").read_text())
        if not run.running():
            raise Failed("the first process ended")
        return (run.dir / "ready").exists()

    wait(ready, "the cluster to start", 600)


def load(run, archives, say=print):
    """Imports image archives into both nodes' containerd; an image of the same name is replaced."""
    for archive in archives:
        begin = time.monotonic()
        for node in (1, 2):
            done = subprocess.run(["ctr", "-a", run.socket(node), "-n", "k8s.io", "images", "import", archive], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failed(f"import of {archive}: {done.stderr}")
        say(f"{'image ' + Path(archive).name:<44} {time.monotonic() - begin:6.2f} s")


def _last_words(run):
    words = []
    for log in sorted((run.dir / "log").glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-6:]
        words.append(f"---- {log.name}\n" + "\n".join(line[:300] for line in lines))
    return "\n".join(words)
