"""Ends a run: one process is killed, the kernel takes everything in its namespaces with it, and what remains is removed.

Called by tests/kube/down, by `up` for stale runs, and by the tests. Signals only the process that run.json names, and only
while its start time still matches.
"""

import os
import shutil
import signal
import subprocess

from . import trace
from .run import wait


def end(run, keep_logs=None):
    """Ends `run` and returns what it left behind, which is nothing."""
    if run.running():
        os.kill(run.facts["pid"], signal.SIGKILL)
        try:
            os.waitpid(run.facts["pid"], 0)
        except ChildProcessError:
            pass
    wait(lambda: not run.running(), "the run's first process to end", 120)
    wait(lambda: not run.processes(), "the run's processes to end", 180)
    if keep_logs:
        shutil.copytree(run.dir / "log", keep_logs, dirs_exist_ok=True)
    before = run.facts.get("before", {})
    link = run.facts.get("link")
    if link and subprocess.run(["ip", "link", "show", link], capture_output=True, check=False).returncode == 0:
        subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)

    def gone():
        trace.remove_cgroups(run)
        # Images of loop devices are freed a moment after their last mount; the folder goes last.
        rest = [item for item in trace.leftovers(run, before) if not item.startswith("folder")]
        return not rest

    try:
        wait(gone, "the machine to be as it was", 180, 0.1)
    except TimeoutError:
        pass
    shutil.rmtree(run.dir, ignore_errors=True)
    return trace.leftovers(run, before)

