#!/usr/bin/env bash
# The operator's simulation: `opsim.sh --seeds N` or `opsim.sh --minutes M` runs fresh seeds (printed, so that a failure can be replayed);
# `opsim.sh --mutants` turns on one deliberate defect after the other, each of which must be noticed. Arguments behind `--` go to
# chronik-opsim (say `-- --from 1` to run the same seeds again). Built together with the simulator: alone, what both use would be
# built a second time with other features.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
mode=seeds seeds=2000 minutes=''
while [ $# -gt 0 ]; do
    case $1 in
        --seeds) seeds=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --mutants) mode=mutants ;;
        --) shift; break ;;
        *) die "unknown option $1" ;;
    esac
    shift
done
BIN=$CARGO_TARGET_DIR/sim/chronik-opsim

if [ "$mode" = mutants ]; then
    cargo build --profile sim --locked --quiet -p chronik-sim -p chronik-opsim --features chronik-opsim/mutants
    # Under another name: the next build without mutants takes the first.
    cp "$BIN" "$BIN-mutants"
    exec "$BIN-mutants" mutants "$@"
fi
cargo build --profile sim --locked --quiet -p chronik-sim -p chronik-opsim
if [ -n "$minutes" ]; then
    stage "operators from fresh seeds for $minutes min" "$BIN" run --minutes "$minutes" "$@"
else
    stage "operators from $seeds seeds" "$BIN" run --seeds "$seeds" "$@"
fi
