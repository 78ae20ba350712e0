#!/usr/bin/env bash
# Measures formation, failover, idle cost, the CPU cost of producing and the operator, and prints a table; nothing is asserted.
. "$(dirname "$0")/lib.sh"
"$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
[ -x "$CHRONIK_BROKER" ] || die "no broker at $CHRONIK_BROKER: run 'make build'"
PYTHONPATH="$TOP/tests/e2e:$TOP/tests/kube:$TOP/tests/kube/e2e" exec "$CHRONIK_CACHE/venv/bin/python" "$TOP/tests/figures/figures.py" "$@"
