"""What a person wants to see of a test that failed, collected into one folder and shown shortly."""

import json
import os
import re
import shutil
from pathlib import Path

from .kube import Refused

ROOT = Path(os.environ.get("CHRONIK_KUBE_ARTEFACTS", "/tmp/chronik-kube-artefacts"))


def collect(kube, test):
    """Writes everything about the cluster's state into a folder and returns the few lines that most often tell the reason."""
    folder = ROOT / re.sub(r"[^A-Za-z0-9_.-]+", "-", test)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def save(name, *command):
        try:
            text = kube.kubectl(*command)
        except Refused as error:
            text = str(error)
        (folder / name).write_text(text)
        return text

    shown = [f"artefacts: {folder}"]
    shown.append(save("pods.txt", "get", "pods", "-A", "-o", "wide"))
    shown.append(save("clusters.txt", "get", "ccl", "-A", "-o", "wide"))
    save("clusters.yaml", "get", "ccl", "-A", "-o", "yaml")
    save("describe.txt", "describe", "ccl,statefulset,pods,pvc", "-A")
    events = save("events.txt", "get", "events", "-A", "--sort-by=.metadata.creationTimestamp")
    shown.append("\n".join(events.splitlines()[-25:]))
    for pod in _all_pods(kube):
        meta = pod["metadata"]
        for previous in (False, True):
            text = kube.logs(meta["namespace"], meta["name"], previous)
            if text and not text.startswith("(no log"):
                (folder / f"{meta['namespace']}-{meta['name']}{'-previous' if previous else ''}.log").write_text(text)
                if "operator" in meta["name"] and not previous:
                    shown.append("operator:\n" + "\n".join(text.splitlines()[-40:]))
    if kube.run:
        shutil.copytree(kube.run.dir / "log", folder / "kubernetes", dirs_exist_ok=True)
    return "\n".join(shown)


def _all_pods(kube):
    try:
        return json.loads(kube.kubectl("get", "pods", "-A", "-o", "json"))["items"]
    except Refused:
        return []
