#!/usr/bin/env bash
# Fuzzing: `fuzz.sh --minutes N` splits N minutes over all targets (or those of --target), `fuzz.sh --short` replays all
# seeds and regressions and gives each target a few seconds, `fuzz.sh --replay TARGET FILE` runs one input.
#
# It needs no nightly toolchain and no cargo-fuzz: coverage instrumentation is a code generation pass that the pinned
# toolchain has, the memory limit is the targets' own allocator. FUZZ_SANITIZER=address builds with AddressSanitizer
# instead, which only a nightly toolchain can (FUZZ_TOOLCHAIN, default nightly).
. "$(dirname "$0")/lib.sh"
unset CARGO_TARGET_DIR
FUZZ=$TOP/fuzz
HOST=x86_64-unknown-linux-gnu
[ "$(uname -m)" = x86_64 ] || HOST=$(uname -m)-unknown-linux-gnu
SANITIZER=${FUZZ_SANITIZER:-}
KEY=$(cat "$TOP/rust-toolchain.toml" "$FUZZ/Cargo.lock" "$FUZZ/Cargo.toml" | sha256sum | cut -c1-16)${SANITIZER:+-$SANITIZER}
TARGET_DIR=${FUZZ_TARGET_DIR:-$CHRONIK_CACHE/fuzz-target-$KEY}
CORPUS=${FUZZ_CORPUS:-$CHRONIK_CACHE/fuzz-corpus}
SEEDS=$TARGET_DIR/seeds
BIN=$TARGET_DIR/$HOST/release
# Input lengths; what a target builds from its input needs more than a frame does.
MAX_LEN=4096
LIMITS=(-rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 -max_len=$MAX_LEN -len_control=0)

mode='' minutes=1 only=() replay=()
while [ $# -gt 0 ]; do
    case $1 in
        --short) mode=short ;;
        --minutes) mode=minutes minutes=$2; shift ;;
        --target) only+=("$2"); shift ;;
        --build) mode=build ;;
        --replay) mode=replay replay=("$2" "$3"); shift 2 ;;
        *) die "unknown option $1" ;;
    esac
    shift
done
[ -n "$mode" ] || die "say --short, --minutes N, --build or --replay TARGET FILE"
need g++=g++

build() {
    local flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares"
    flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
    local toolchain=()
    if [ -n "$SANITIZER" ]; then
        toolchain=("+${FUZZ_TOOLCHAIN:-nightly}")
        cargo "${toolchain[@]}" --version >/dev/null 2>&1 ||
            die "FUZZ_SANITIZER needs a nightly toolchain: rustup toolchain install nightly --profile minimal"
        flags+=" -Zsanitizer=$SANITIZER"
    fi
    # --target keeps the flags away from build scripts.
    (cd "$FUZZ" && RUSTFLAGS=$flags CARGO_TARGET_DIR=$TARGET_DIR cargo "${toolchain[@]}" build --release --locked --quiet --target "$HOST" --bins)
}

targets() {
    if [ ${#only[@]} -gt 0 ]; then printf '%s\n' "${only[@]}"; return; fi
    for source in "$FUZZ"/fuzz_targets/*.rs; do basename "$source" .rs; done
}

# fuzz TARGET SECONDS: new inputs go to the cache; seeds (made by the target itself) and regressions are read only.
fuzz() {
    local target=$1 seconds=$2 work=$CORPUS/$1 log
    log=$(mktemp)
    mkdir -p "$work" "$CORPUS/crashes"
    mkdir -p "$SEEDS/$target"
    local inputs=("$work" "$SEEDS/$target")
    [ -d "$FUZZ/regressions/$target" ] && inputs+=("$FUZZ/regressions/$target")
    local begin=$SECONDS
    if RUST_BACKTRACE=0 CHRONIK_FUZZ_SEEDS=$SEEDS/$target "$BIN/$target" "${LIMITS[@]}" -max_total_time="$seconds" -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$CORPUS/crashes/$target-" "${inputs[@]}" >"$log" 2>&1; then
        awk -v name="$target" -v took=$((SECONDS - begin)) '
            /cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "ft:") ft = $(i + 1); if ($i == "corp:") corp = $(i + 1) } }
            /number_of_executed_units/ { runs = $2 } /average_exec_per_sec/ { rate = $2 } /peak_rss_mb/ { rss = $2 }
            END { printf "%-18s %9d runs %7d/s  coverage %5s  corpus %-12s %4s MB  %3d s\n", name, runs, rate, cov, corp, rss, took }' "$log"
        rm -f "$log"
        return 0
    fi
    echo "$target FAILED:"
    grep -E "panicked|memory limit|ERROR|^[a-z].*:|left:|right:" "$log" | grep -vE "^(stat|artifact|NOTE|note|INFO)" | tail -n 12
    local input
    input=$(grep -oE 'Test unit written to .*' "$log" | sed 's/Test unit written to //' | tail -n 1)
    [ -n "$input" ] && echo "input:  $input" && echo "replay: tests/tools/fuzz.sh --replay $target $input"
    rm -f "$log"
    return 1
}

begin=$SECONDS
build
[ "$mode" = build ] && exit 0
if [ "$mode" = replay ]; then
    exec "$BIN/${replay[0]}" "${LIMITS[@]}" "${replay[1]}"
fi
mapfile -t list < <(targets)
if [ "$mode" = short ]; then
    # All of them together take no longer than they did when they were few.
    seconds=$((40 / ${#list[@]}))
    [ "$seconds" -le 3 ] || seconds=3
else
    seconds=$((minutes * 60 / ${#list[@]}))
    [ "$seconds" -ge 1 ] || seconds=1
fi
echo "built in $((SECONDS - begin)) s; ${#list[@]} targets, $seconds s each"
failed=0
for target in "${list[@]}"; do
    [ -x "$BIN/$target" ] || die "there is no target $target"
    fuzz "$target" "$seconds" || failed=1
done
[ "$failed" = 0 ] && echo "fuzz: ok in $((SECONDS - begin)) s"
exit "$failed"
