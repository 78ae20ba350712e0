#!/usr/bin/env bash
# Runs the end-to-end suite; arguments go to pytest.
. "$(dirname "$0")/lib.sh"
"$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
[ -x "$CHRONIK_BROKER" ] || die "no broker at $CHRONIK_BROKER: run 'make build'"
cd "$TOP/tests/e2e"
exec "$CHRONIK_CACHE/venv/bin/python" -m pytest "$@"
