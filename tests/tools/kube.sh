#!/usr/bin/env bash
# kube.sh up [NAME] | down [NAME] | test [PYTEST ARGUMENTS]: the local Kubernetes by hand, and the tests that use it.
. "$(dirname "$0")/lib.sh"
what=${1:-}
shift || true
begin=$SECONDS

# Paths of the images' archives; programs and images are built once and cached.
images() { "$TOP/tests/tools/images.sh" | tail -2; }

case "$what" in
up)
    [ -n "${KUBECONFIG:-}" ] || mapfile -t archives < <(images)
    exec "$TOP/tests/kube/up" "${1:-dev}" "${archives[@]}"
    ;;
down)
    exec "$TOP/tests/kube/down" "${1:-dev}"
    ;;
test)
    "$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
    if [ -z "${KUBECONFIG:-}" ]; then
        [ "$(id -u)" = 0 ] || die "the local Kubernetes needs root; or set KUBECONFIG"
        "$TOP/tests/tools/kube-build.sh" >/dev/null
        mapfile -t archives < <(images)
        export CHRONIK_IMAGES=$(IFS=:; echo "${archives[*]}")
        echo "==> Kubernetes' programs and the images are there after $((SECONDS - begin)) s"
    fi
    cd "$TOP/tests/kube/e2e"
    "$CHRONIK_CACHE/venv/bin/python" -B -m pytest "$@"
    ;;
*)
    die "usage: kube.sh up [NAME] | down [NAME] | test [PYTEST ARGUMENTS]"
    ;;
esac
