#!/usr/bin/env bash
# kube.sh up [NAME] | down [NAME] | images | test [PYTEST ARGUMENTS]: the local Kubernetes by hand, and the tests that use it.
# CHRONIK_IMAGES (archives, separated by colons) are used as they are and nothing is built.
. "$(dirname "$0")/lib.sh"
what=${1:-}
shift || true
begin=$SECONDS

# The franz-go client of the end-to-end tests, as an image for pods.
client_image() {
    local key out work
    key=$(cat "$TOP"/tests/e2e/franz/* "$TOP/tests/kube/image.py" | sha256sum | cut -c1-16)
    out=$CHRONIK_CACHE/kube-client-$key.tar
    if [ ! -e "$out" ]; then
        work=$(mktemp -d)
        (cd "$TOP/tests/e2e/franz" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$work/chronik-client" .)
        python3 "$TOP/tests/kube/image.py" local.test/chronik-client:dev "$work/image.tar" "$work/chronik-client"
        mv "$work/image.tar" "$out"
        rm -rf "$work"
    fi
    echo "$out"
}

# Paths of the images' archives; programs and images are built once and cached.
images() {
    if [ -n "${CHRONIK_IMAGES:-}" ]; then
        echo "${CHRONIK_IMAGES//:/$'\n'}"
        return 0
    fi
    "$TOP/tests/tools/images.sh" ${KUBE_IMAGES:-broker operator}
    client_image
}

case "$what" in
up)
    archives=$([ -n "${KUBECONFIG:-}" ] || images)
    exec "$TOP/tests/kube/up" "${1:-dev}" $archives
    ;;
down)
    exec "$TOP/tests/kube/down" "${1:-dev}"
    ;;
images)
    images
    ;;
test)
    "$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
    if [ -z "${KUBECONFIG:-}" ]; then
        [ "$(id -u)" = 0 ] || die "the local Kubernetes needs root; or set KUBECONFIG"
        "$TOP/tests/tools/kube-build.sh" >/dev/null
        archives=$(images)
        export CHRONIK_IMAGES=${archives//$'\n'/:}
        echo "==> Kubernetes' programs and the images are there after $((SECONDS - begin)) s"
    fi
    cd "$TOP/tests/kube/e2e"
    "$CHRONIK_CACHE/venv/bin/python" -B -m pytest "$@"
    ;;
*)
    die "usage: kube.sh up [NAME] | down [NAME] | images | test [PYTEST ARGUMENTS]"
    ;;
esac
