#!/usr/bin/env bash
# `make test`: style, unit and story tests, the simulators of brokers and of the operator, fuzzing, real processes with real
# clients, and the operator on a real Kubernetes. Prints what takes the time. What measures nothing runs
# beside each other: the soak mostly waits, the simulator takes one core, and Kubernetes is built behind the compiler's back.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
begin=$SECONDS
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# `beside NAME COMMAND...` starts it with its output in a file; `joined NAME` waits for it and shows the output.
declare -A running=()
beside() {
    local name=$1
    shift
    stage "$name" "$@" >"$logs/${name// /-}" 2>&1 &
    running[$name]=$!
}
joined() {
    local code=0
    wait "${running[$1]}" || code=$?
    cat "$logs/${1// /-}"
    return "$code"
}

# One after the other, as both install Debian packages: clients and tools, then the programs of Kubernetes.
downloads() {
    tests/tools/setup-e2e.sh && nice -n 10 tests/tools/kube-build.sh
}
beside "clients, tools and Kubernetes" downloads
stage "style" cargo fmt --all --check
stage "house rules" tests/tools/tidy.sh
stage "clippy" cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
stage "unit and story tests" cargo test --workspace --locked --quiet
joined "clients, tools and Kubernetes"
# What is tested is what is shipped: the static programs of the images.
stage "images" tests/tools/images.sh
CHRONIK_BROKER=$(dirname "$(tests/tools/images.sh broker 2>/dev/null)")/chronik-broker
export CHRONIK_BROKER
stage "chart" tests/tools/chart.sh
# Brokers under test go first: what is compiled meanwhile gets what they leave.
builds() {
    nice -n 15 cargo build --profile sim --locked --quiet -p chronik-sim -p chronik-opsim &&
        nice -n 15 tests/tools/fuzz.sh --build
}
beside "builds of the simulators and of fuzzing" builds
stage "end-to-end tests" tests/tools/e2e.sh
joined "builds of the simulators and of fuzzing"
# Not beside the soak: both need the machine to themselves.
failed=0
stage "operator on Kubernetes" tests/tools/kube.sh test
# Both draw fresh seeds and print them, unless SOAK_SEED and SIM_FROM say which.
beside "soak" tests/tools/soak.sh "${SOAK_MINUTES:-10}" ${SOAK_SEED:+"$SOAK_SEED"}
stage "operator's simulator" tests/tools/opsim.sh --seeds "${OPSIM_SEEDS:-2000}" -- --from "${OPSIM_FROM:-1}" || failed=1
if [ -n "${SIM_FROM:-}" ]; then
    beside "simulator" tests/tools/sim.sh --seeds "${SIM_SEEDS:-5000}" -- --from "$SIM_FROM" --threads 1
else
    beside "simulator" tests/tools/sim.sh --minutes "${SIM_MINUTES:-5}" -- --threads 1
fi
stage "fuzzing" tests/tools/fuzz.sh --short || failed=1
joined "simulator" || failed=1
echo "==> soak goes on"
joined "soak" || failed=1
[ "$failed" = 0 ] && echo "==> all done in $((SECONDS - begin)) s"
exit "$failed"
