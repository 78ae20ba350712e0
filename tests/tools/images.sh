#!/usr/bin/env bash
# images.sh [broker] [operator]: builds the images of the Dockerfile with buildah and prints the archive of each; the program itself
# lies beside it under its own name.
# The base image is made from Debian packages and the host's Rust toolchain, because nothing can be pulled from a registry
# of images here. Everything is cached: an unchanged tree costs the time to hash it.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
[ $# -gt 0 ] || set -- broker operator
LIMIT=$((20 << 20))
TOOLCHAIN=$(rustc --print sysroot)
CARGO=${CARGO_HOME:-$HOME/.cargo}
BASE_PACKAGES=gcc,libc6-dev,make
BASE_KEY=$(echo "bookworm $BASE_PACKAGES 1" | sha256sum | cut -c1-16)
CONTEXT=$CHRONIK_CACHE/image-source
TARGET=$CHRONIK_CACHE/image-target-$(rustc -vV | sha256sum | cut -c1-16)
INPUTS=(Cargo.toml Cargo.lock rust-toolchain.toml broker operator tests/sim tests/opsim)
# vfs needs nothing of the kernel and works within containers; nothing is shared with an engine of the user's.
BUILDAH=(buildah --root "$CHRONIK_CACHE/buildah/root" --runroot "$CHRONIK_CACHE/buildah/run" --storage-driver vfs)
export TMPDIR=$CHRONIK_CACHE/buildah/tmp BUILDAH_ISOLATION=chroot REGISTRY_AUTH_FILE=
mkdir -p "$TMPDIR"

# Where this machine gets its packages from.
mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' | head -1
}

base_image() {
    local name=local.test/chronik-build-base:$BASE_KEY root=$CHRONIK_CACHE/buildah/base container
    "${BUILDAH[@]}" inspect --type image "$name" >/dev/null 2>&1 && return 0
    rm -rf "$root"
    debootstrap --variant=minbase --include="$BASE_PACKAGES" bookworm "$root" "$(mirror)" >"$TMPDIR/debootstrap.log" 2>&1 ||
        { tail -5 "$TMPDIR/debootstrap.log"; return 1; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
    container=$("${BUILDAH[@]}" from scratch)
    "${BUILDAH[@]}" add --quiet "$container" "$root" / >/dev/null
    # The crates were fetched before: the build itself reads nothing from the network.
    "${BUILDAH[@]}" config --env PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin --env CARGO_HOME=/opt/cargo --env CARGO_NET_OFFLINE=true "$container"
    "${BUILDAH[@]}" commit --quiet "$container" "$name" >/dev/null
    "${BUILDAH[@]}" rm "$container" >/dev/null
    rm -rf "$root"
}

# Cargo believes time stamps, and a file of another checkout may be older than what was built of it: by content, then.
sync_context() {
    mkdir -p "$CONTEXT/tests"
    local input
    for input in "${INPUTS[@]}"; do
        rsync -rlpc --delete --exclude target --exclude __pycache__ "$input" "$CONTEXT/$(dirname "$input")/"
    done
    cp Dockerfile .dockerignore "$CONTEXT/"
}

image() {
    local what=$1 out=$2
    mkdir -p "$TARGET" "$CARGO/registry"
    nice -n 10 "${BUILDAH[@]}" bud --quiet --layers=false --pull-never --target "$what" \
        --build-arg BUILD_BASE=local.test/chronik-build-base:"$BASE_KEY" --build-arg CARGO_TARGET_DIR=/target \
        --volume "$TOOLCHAIN:/opt/rust:ro" --volume "$CARGO/registry:/opt/cargo/registry" --volume "$TARGET:/target" \
        --tag "local.test/chronik-$what:dev" "$CONTEXT" >"$TMPDIR/$what.log" 2>&1 || { tail -40 "$TMPDIR/$what.log"; return 1; }
    rm -f "$out"
    "${BUILDAH[@]}" push --quiet "local.test/chronik-$what:dev" "docker-archive:$out:local.test/chronik-$what:dev" >/dev/null
    "${BUILDAH[@]}" rmi "local.test/chronik-$what:dev" >/dev/null
    cp "$TARGET"/*/release/"chronik-$what" "$(dirname "$out")/"
}

inputs_key() {
    { cat Dockerfile .dockerignore; rustc -vV; find "${INPUTS[@]}" -name target -prune -o -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-16
}

need buildah=buildah debootstrap=debootstrap rsync=rsync python3=python3
exec 9>"$CHRONIK_CACHE/images.lock"
flock 9
KEY=$(inputs_key)
OUT=$CHRONIK_CACHE/images-$KEY
for what in "$@"; do
    archive=$OUT/chronik-$what.tar
    if [ ! -e "$archive" ] || [ ! -e "$OUT/chronik-$what" ]; then
        {
            stage "base image of the build" base_image
            stage "crates" cargo fetch --locked --quiet
            sync_context
            mkdir -p "$OUT"
            stage "image of the $what" image "$what" "$archive.new"
            mv "$archive.new" "$archive"
        } >&2
    fi
    size=$(stat -c %s "$archive")
    [ "$size" -le "$LIMIT" ] || die "the image of the $what has $size bytes; $LIMIT are allowed"
    echo "chronik-$what: $((size / 1024)) KiB" >&2
    echo "$archive"
done
# Archives of older trees are of no more use.
find "$CHRONIK_CACHE" -maxdepth 1 -name 'images-*' -type d ! -name "images-$KEY" -mmin +60 -exec rm -rf {} +
