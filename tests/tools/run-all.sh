#!/usr/bin/env bash
# `make test`: style, unit and story tests, then real processes with real clients. Prints what takes the time.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
begin=$SECONDS
# Clients and tools download while the compiler works.
"$TOP/tests/tools/setup-e2e.sh" >"$CHRONIK_CACHE/setup-e2e.log" 2>&1 &
setup=$!
stage "style" cargo fmt --all --check
stage "house rules" tests/tools/tidy.sh
stage "clippy" cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
stage "unit and story tests" cargo test --workspace --locked --quiet
stage "release build" cargo build --release --locked --quiet -p chronik-broker -p chronik-operator
stage "clients and tools" wait "$setup" || { cat "$CHRONIK_CACHE/setup-e2e.log"; exit 1; }
stage "end-to-end tests" tests/tools/e2e.sh
echo "==> all done in $((SECONDS - begin)) s"
