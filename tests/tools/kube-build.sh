#!/usr/bin/env bash
# Builds the pinned Kubernetes components, CoreDNS and Helm from Go modules into the cache, once per set of pins, and
# prints the folder that holds them. A cold build takes about eleven CPU minutes, a warm call a few milliseconds.
. "$(dirname "$0")/lib.sh"
GO=$TOP/tests/kube/go
KEY=$(cat "$GO"/*/go.mod "$GO"/*/go.sum "$GO"/*/*.go "$TOP"/tests/kube/pause.c "$TOP"/tests/kube/image.py | sha256sum | cut -c1-16)
DIR=$CHRONIK_CACHE/kube-$KEY

# Debian's packages would start containerd and etcd as services; only the programs are wanted.
packages() {
    local policy=/usr/sbin/policy-rc.d made=
    if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=yes
    fi
    local code=0
    (need etcd=etcd-server containerd=containerd ctr=containerd runc=runc /usr/lib/cni/ptp=containernetworking-plugins ip=iproute2 \
        iptables=iptables openssl=openssl unshare=util-linux nsenter=util-linux mount=mount losetup=mount mkfs.xfs=xfsprogs \
        xfs_growfs=xfsprogs gcc=gcc python3=python3 conntrack=conntrack) || code=$?
    [ -z "$made" ] || rm -f "$policy"
    return "$code"
}

# `build MODULE LDFLAGS PACKAGE...`: the linker drops symbols and debug information, the programs stay stoppable.
build() {
    local module=$1 ldflags=$2
    shift 2
    (cd "$GO/$module" && CGO_ENABLED=0 nice go build -p "${KUBE_BUILD_JOBS:-$(nproc)}" -trimpath -mod=readonly \
        -ldflags "-s -w $ldflags" -o "$DIR/bin/" "$@")
}

kubernetes() {
    local version set=k8s.io/component-base/version
    version=$(sed -n 's|.*k8s.io/kubernetes \(v1[^ ]*\).*|\1|p' "$GO/kubernetes/go.mod" | head -1)
    build kubernetes "-X $set.gitVersion=$version -X $set.gitMajor=1 -X $set.gitMinor=${version:3:2} -X $set.gitTreeState=clean" \
        k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
}
coredns() { build coredns "" .; }
pause() {
    gcc -O2 -static -s -o "$DIR/pause" "$TOP/tests/kube/pause.c"
    python3 "$TOP/tests/kube/image.py" local.test/pause:1 "$DIR/pause.tar" "$DIR/pause"
}
helm() {
    local k8s=helm.sh/helm/v3/pkg
    build helm "-X $k8s/lint/rules.k8sVersionMajor=1 -X $k8s/lint/rules.k8sVersionMinor=34 -X $k8s/chartutil.k8sVersionMajor=1 -X $k8s/chartutil.k8sVersionMinor=34" \
        helm.sh/helm/v3/cmd/helm
}

packages >&2
if [ ! -e "$DIR/.complete" ]; then
    command -v go >/dev/null || die "go is missing: install Go 1.24 or newer"
    exec 9>"$CHRONIK_CACHE/kube-build.lock"
    flock 9
fi
if [ ! -e "$DIR/.complete" ]; then
    mkdir -p "$DIR/bin"
    {
        stage "pause image" pause
        stage "helm" helm
        stage "coredns" coredns
        stage "kubernetes (the long one)" kubernetes
    } >&2
    touch "$DIR/.complete"
fi
echo "$DIR/bin"
