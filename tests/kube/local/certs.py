"""The certificates and kubeconfigs of a run: one authority, one client certificate per component."""

import json
import subprocess


def _openssl(*arguments, stdin=None):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, input=stdin)


def _issue(pki, name, subject, usage, names=()):
    key, request, extensions = pki / f"{name}.key", pki / f"{name}.csr", pki / f"{name}.ext"
    _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-subj", subject, "-out", request)
    lines = ["basicConstraints=CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment", f"extendedKeyUsage={usage}"]
    if names:
        lines.append("subjectAltName=" + ",".join(names))
    extensions.write_text("\n".join(lines))
    _openssl("x509", "-req", "-in", request, "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial", "-days", 365, "-extfile", extensions, "-out", pki / f"{name}.crt")
    request.unlink()
    extensions.unlink()


def create(run):
    """Everything below pki/, and the kubeconfigs beside it."""
    pki, server = run.dir / "pki", run.address(1)
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pki / "ca.key", "-subj", "/CN=chronik-kube-ca",
             "-days", 365, "-out", pki / "ca.crt", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
    api_names = [f"DNS:{n}" for n in ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost")]
    _issue(pki, "apiserver", "/CN=kube-apiserver", "serverAuth", [*api_names, "IP:127.0.0.1", "IP:10.96.0.1", f"IP:{server}"])
    _issue(pki, "apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet", "clientAuth")
    identities = {
        "admin": "/O=system:masters/CN=admin",
        "volumes": "/O=system:masters/CN=volumes",
        "coredns": "/O=system:masters/CN=coredns",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "kube-proxy": "/CN=system:kube-proxy",
    }
    for node in (1, 2):
        identities[f"kubelet-{node}"] = f"/O=system:nodes/CN=system:node:node-{node}"
        _issue(pki, f"kubelet-server-{node}", f"/CN=node-{node}", "serverAuth", [f"DNS:node-{node}", f"IP:{run.address(node)}"])
    for name, subject in identities.items():
        _issue(pki, name, subject, "clientAuth")
        (pki / f"{name}.kubeconfig").write_text(_kubeconfig(run, name))
    (run.kubeconfig).write_text(_kubeconfig(run, "admin"))
    run.kubeconfig.chmod(0o600)
    _openssl("genrsa", "-out", pki / "sa.key", 2048)
    _openssl("rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")


def _kubeconfig(run, name):
    pki = run.dir / "pki"
    label = run.cgroup
    return json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": label, "cluster": {"server": f"https://{run.address(1)}:6443", "certificate-authority": str(pki / "ca.crt")}}],
        "users": [{"name": name, "user": {"client-certificate": str(pki / f"{name}.crt"), "client-key": str(pki / f"{name}.key")}}],
        "contexts": [{"name": label, "context": {"cluster": label, "user": name}}],
        "current-context": label,
    }, indent=1)
