#!/usr/bin/env bash
# The simulator: `sim.sh --seeds N` or `sim.sh --minutes M` runs the corpus, the scenario scripts and fresh seeds (printed,
# so that a failure can be replayed); `sim.sh --mutants` turns on one deliberate defect after the other, each of which must
# be noticed. Arguments behind `--` go to chronik-sim (say `-- --from 1` to run the same seeds again).
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
SIM=$TOP/tests/sim

if [ "$mode" = mutants ]; then
    cargo build --profile sim --locked --quiet -p chronik-sim -p chronik-opsim --features chronik-sim/mutants
    # Under another name: the next build without mutants takes the first.
    cp "$CARGO_TARGET_DIR/sim/chronik-sim" "$CARGO_TARGET_DIR/sim/chronik-sim-mutants"
    exec "$CARGO_TARGET_DIR/sim/chronik-sim-mutants" mutants --scenarios "$SIM/scenarios" --plans "$SIM/corpus" "$@"
fi
# Together with the operator's: alone, what both use would be built a second time with other features.
cargo build --profile sim --locked --quiet -p chronik-sim -p chronik-opsim
BIN=$CARGO_TARGET_DIR/sim/chronik-sim
stage "what once failed" "$BIN" corpus "$SIM/corpus.txt"
stage "scenario scripts" "$BIN" scenario "$SIM/scenarios"
stage "a hundred fresh seeds, each the same story twice" "$BIN" run --twice --seeds 100 --threads 1
if [ -n "$minutes" ]; then
    stage "fresh seeds for $minutes min" "$BIN" run --minutes "$minutes" "$@"
else
    stage "$seeds seeds" "$BIN" run --seeds "$seeds" "$@"
fi
