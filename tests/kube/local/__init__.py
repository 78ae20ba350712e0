"""A Kubernetes of the tests' own on one machine: two nodes, real etcd, API server, kubelets and containers.

`up` starts one process in new PID, mount and network namespaces (`init`), which starts everything else in there. Whatever a
kubelet or containerd mounts, writes below /run or /var/lib, or changes in iptables exists only within these namespaces and
ends with them, so that stopping one process is enough to leave no trace. `down` does that and proves it.
"""
