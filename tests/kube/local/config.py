"""The configuration files of the components and their command lines. Written by `up`, read by `init`; no I/O but writing."""

import json
from pathlib import Path

from .run import SERVICES

PODS = {1: "10.244.0.0/24", 2: "10.244.1.0/24"}
ALL_PODS = "10.244.0.0/16"
PAUSE = "local.test/pause:1"


def write(run):
    conf = run.dir / "conf"
    for node in (1, 2):
        run.node_dir(node).mkdir()
        (run.node_dir(node) / "cni").mkdir()
        (run.node_dir(node) / "cni" / "10-pods.conflist").write_text(json.dumps(_cni(run, node)))
        (conf / f"containerd-{node}.toml").write_text(_containerd(run, node))
        (conf / f"kubelet-{node}.json").write_text(json.dumps(_kubelet(run, node)))
        (conf / f"kube-proxy-{node}.json").write_text(json.dumps(_kube_proxy(run, node)))
    (conf / "audit.json").write_text(json.dumps(_audit()))
    (conf / "Corefile").write_text(_corefile(run))
    (conf / "resolv.conf").write_text("options ndots:1\n")
    # What a client beside the pods uses to find them by name.
    (conf / "client-resolv.conf").write_text(f"nameserver {run.address(1)}\nsearch svc.cluster.local cluster.local\noptions ndots:5\n")


def _cni(run, node):
    # Point-to-point links and no bridge: pods reach each other by routing, so that Services work without br_netfilter.
    ranges = [[{"subnet": PODS[node]}]]
    ipam = {"type": "host-local", "dataDir": str(run.node_dir(node) / "ipam"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}


def _containerd(run, node):
    here = run.node_dir(node)
    return f"""
version = 2
root = "{here}/containerd"
state = "/run/containerd-{node}"
disabled_plugins = ["io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{run.socket(node)}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{here}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{here}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _kubelet(run, node):
    pki = run.dir / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(pki / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"kubelet-server-{node}.crt"),
        "tlsPrivateKeyFile": str(pki / f"kubelet-server-{node}.key"),
        "containerRuntimeEndpoint": f"unix://{run.socket(node)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{run.cgroup}/node-{node}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [run.address(1)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(run.dir / "conf" / "resolv.conf"),
        "podLogsDir": str(run.node_dir(node) / "pod-logs"),
        "volumePluginDir": str(run.node_dir(node) / "plugins"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        # Images are imported, nobody could pull one again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # A container that ended is started again after a second each time: tests kill the same one over and over.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "maxPods": 60,
        "nodeStatusUpdateFrequency": "4s",
        "serializeImagePulls": False,
        "syncFrequency": "10s",
    }


def _kube_proxy(run, node):
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(run.dir / "pki" / "kube-proxy.kubeconfig")},
        "hostnameOverride": f"node-{node}",
        "clusterCIDR": ALL_PODS,
        "mode": "iptables",
        "iptables": {"minSyncPeriod": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _audit():
    """Every write of everybody, so that a test can count those of one service account; reads are not recorded."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            {"level": "None"},
        ],
    }


def _corefile(run):
    return f"""
.:53 {{
    bind {run.address(1)}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {run.dir}/pki/coredns.kubeconfig {run.cgroup}
        pods insecure
        ttl 1
    }}
}}
"""


def commands(run, binaries):
    """Command lines of what runs beside the kubelets: {name: [program, argument...]}."""
    pki, conf, b = run.dir / "pki", run.dir / "conf", Path(binaries)
    kubeconfigs = lambda who: [f"--{flag}kubeconfig={pki}/{who}.kubeconfig" for flag in ("", "authentication-", "authorization-")]  # noqa: E731
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return {
        "etcd": ["etcd", "--name=one", f"--data-dir={run.dir}/etcd/data", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                 f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}", "--unsafe-no-fsync",
                 "--logger=zap", "--log-level=warn"],
        "kube-apiserver": [
            b / "kube-apiserver", f"--etcd-servers={client}", "--secure-port=6443", "--bind-address=0.0.0.0", f"--advertise-address={run.address(1)}",
            f"--service-cluster-ip-range={SERVICES}", f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key", f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet.key", f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", f"--requestheader-client-ca-file={pki}/ca.crt",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--profiling=false", "--event-ttl=2h",
            f"--audit-policy-file={conf}/audit.json", f"--audit-log-path={run.dir}/audit.log", "--audit-log-mode=blocking",
        ],
        "kube-controller-manager": [
            b / "kube-controller-manager", *kubeconfigs("controller-manager"), "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt", f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key", "--leader-elect=false", "--bind-address=127.0.0.1", f"--cluster-cidr={ALL_PODS}",
            f"--service-cluster-ip-range={SERVICES}", "--node-monitor-grace-period=20s", "--node-monitor-period=2s",
            f"--flex-volume-plugin-dir={run.dir}/plugins",
        ],
        "kube-scheduler": [b / "kube-scheduler", *kubeconfigs("scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1"],
        "coredns": [b / "coredns", "-conf", conf / "Corefile"],
    }


def node_commands(run, binaries, node):
    """Command lines of one node's components."""
    b, pki, conf, here = Path(binaries), run.dir / "pki", run.dir / "conf", run.node_dir(node)
    zone = {1: "a", 2: "b"}[node]
    return {
        f"containerd-{node}": ["containerd", "--config", conf / f"containerd-{node}.toml"],
        f"kubelet-{node}": [
            b / "kubelet", f"--config={conf}/kubelet-{node}.json", f"--kubeconfig={pki}/kubelet-{node}.kubeconfig", f"--hostname-override=node-{node}",
            f"--node-ip={run.address(node)}", f"--root-dir={here}/kubelet", f"--cert-dir={here}/kubelet-pki", "--v=1",
            f"--node-labels=topology.kubernetes.io/zone={zone},topology.kubernetes.io/region=test",
        ],
        f"kube-proxy-{node}": [b / "kube-proxy", f"--config={conf}/kube-proxy-{node}.json"],
    }
