#!/usr/bin/env bash
# `soak.sh MINUTES [SEED] [GENERATION]`: seeded faults against real broker processes under load, judged by their history.
# Leaves nothing mounted, no namespace and no process behind, however it ends; after a failure the directory it names stays.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || die "network namespaces and loop devices need root"
# Mounts of its own: a container that starts meanwhile elsewhere would keep a copy of a disk whose power was cut, and with it the dead
# file system, which then could not be mounted anew.
[ -n "${SOAK_OWN_MOUNTS:-}" ] || SOAK_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
"$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
[ -x "$CHRONIK_BROKER" ] || die "no broker at $CHRONIK_BROKER: run 'make build'"
directory=$(mktemp -d "${TMPDIR:-/tmp}/chronik-soak-XXXXXX")
cd "$TOP/tests/e2e"
python=$CHRONIK_CACHE/venv/bin/python
trap '"$python" -m soak 0 --clean --directory "$directory/run"; rmdir "$directory" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
"$python" -m soak "${1:?minutes}" ${2:+"$2"} ${3:+--generation "$3"} --directory "$directory"
