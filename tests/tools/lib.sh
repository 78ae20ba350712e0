# Sourced by the scripts beside it: one way to say what is done, how long it took, and what is missing.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CHRONIK_CACHE=${CHRONIK_CACHE:-$HOME/.cache/chronik}
BUILD_KEY=$(cat "$TOP/rust-toolchain.toml" "$TOP/Cargo.lock" | sha256sum | cut -c1-16)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CHRONIK_CACHE/target-$BUILD_KEY}
export CHRONIK_BROKER=${CHRONIK_BROKER:-$CARGO_TARGET_DIR/release/chronik-broker}
mkdir -p "$CHRONIK_CACHE"

die() { echo "error: $*" >&2; exit 1; }

# Installs the Debian packages that provide the named commands and are missing: `need command=package ...`.
need() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || die "missing Debian packages: ${missing[*]} (run as root, or: sudo apt-get install ${missing[*]})"
    echo "installing Debian packages: ${missing[*]}"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

# `stage NAME COMMAND...` runs it and prints how long it took, so that slow stages are seen.
stage() {
    local name=$1 begin=$SECONDS
    shift
    echo "==> $name"
    "$@" || { echo "==> $name FAILED after $((SECONDS - begin)) s"; return 1; }
    echo "==> $name done in $((SECONDS - begin)) s"
}
