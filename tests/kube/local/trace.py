"""What a run could leave behind on this machine, and the proof that it did not.

`up` records `snapshot` before it starts anything; `down` compares when it is done and reports every difference. Things that
other programs may change meanwhile (their own mounts, namespaces, links) are looked at only where they carry the run's name.
"""

import subprocess
from pathlib import Path

SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
           "kernel/keys/root_maxbytes", "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/route_localnet",
           "net/netfilter/nf_conntrack_max")
FOLDERS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/flannel", "/opt/cni", "/etc/cni",
           "/usr/libexec/kubernetes")


def snapshot():
    """Settings and folders of the machine that Kubernetes components like to write to."""
    facts = {"sysctl": {}, "folders": {}, "rules": _kube_rules()}
    for name in SYSCTLS:
        path = Path("/proc/sys", name)
        if path.exists():
            facts["sysctl"][name] = path.read_text().strip()
    for folder in FOLDERS:
        path = Path(folder)
        facts["folders"][folder] = sorted(str(p.relative_to(path)) for p in path.rglob("*"))[:1000] if path.is_dir() else None
    return facts


def _kube_rules():
    """Rules of kube-proxy, kubelet and CNI plugins in the machine's own tables; there must never be one more."""
    found = []
    for command in ("iptables-save", "ip6tables-save"):
        try:
            text = subprocess.run([command], capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            continue
        found += [line for line in text.splitlines() if "KUBE-" in line or "CNI-" in line]
    return found


def leftovers(run, before):
    """Everything of `run` that is still there, one sentence each; empty means gone without a trace."""
    found = []
    marks = (run.cgroup, str(run.dir))
    # Namespaces and control groups make a process part of the run: a shell that has its name on the command line is not.
    found += [f"process {pid} is in the run's PID namespace" for pid in run.processes()]
    for entry in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"/{run.cgroup}/" in entry.read_text():
                found.append(f"process {entry.parent.name} is in the run's control group")
        except OSError:
            continue
    found += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if any(m in line for m in marks)]
    loops = subprocess.run(["losetup", "-n", "-O", "NAME,BACK-FILE"], capture_output=True, text=True, check=False).stdout
    found += [f"loop device {line}" for line in loops.splitlines() if str(run.dir) in line]
    found += [f"control group {path}" for path in _cgroups(run)]
    links = subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True, check=False).stdout
    found += [f"network link {run.facts['link']}" for line in links.splitlines() if f" {run.facts.get('link')}@" in line or f" {run.facts.get('link')}:" in line]
    if run.dir.exists():
        found.append(f"folder {run.dir}")
    after = snapshot()
    for name, value in before.get("sysctl", {}).items():
        if after["sysctl"].get(name) != value:
            found.append(f"sysctl {name} was {value} and is {after['sysctl'].get(name)}")
    for folder, content in before.get("folders", {}).items():
        new = sorted(set(after["folders"][folder] or []) - set(content or []))
        if new or (content is None) != (after["folders"][folder] is None):
            found.append(f"{folder} has changed: {new[:5]}")
    new_rules = [rule for rule in after["rules"] if rule not in before.get("rules", [])]
    if new_rules:
        found.append(f"{len(new_rules)} packet filter rules, the first: {new_rules[0]}")
    return found


def _cgroups(run):
    root = Path("/sys/fs/cgroup")
    candidates = [root / run.cgroup, *(p / run.cgroup for p in root.iterdir() if p.is_dir())]
    return [path for path in candidates if path.is_dir()]


def remove_cgroups(run):
    """Removes the run's control groups, deepest first; a group with a process in it stays and is reported."""
    for top in _cgroups(run):
        folders = sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True)
        for folder in [*folders, top]:
            try:
                folder.rmdir()
            except OSError:
                pass
