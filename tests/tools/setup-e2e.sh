#!/usr/bin/env bash
# Installs the clients that the end-to-end tests drive: kcat (Debian), confluent-kafka and kafka-python (venv), the Java
# tools (Maven) and franz-go (Go module). Everything lands in the cache under a key of the pinned versions.
. "$(dirname "$0")/lib.sh"
need kcat=kcat ip=iproute2 iptables=iptables mkfs.ext4=e2fsprogs java=openjdk-17-jre-headless mvn=maven python3=python3 stress-ng=stress-ng

# `cached NAME KEYFILE... -- COMMAND...` runs COMMAND in a new folder that replaces the link NAME only when it worked.
cached() {
    local name=$1 key
    shift
    local files=()
    while [ "$1" != -- ]; do files+=("$1"); shift; done
    shift
    key=$(cat "${files[@]}" | sha256sum | cut -c1-16)
    local dir=$CHRONIK_CACHE/$name-$key
    if [ ! -e "$dir/.complete" ]; then
        rm -rf "$dir"
        mkdir -p "$dir"
        (cd "$dir" && "$@") || die "could not set up $name"
        touch "$dir/.complete"
    fi
    ln -sfn "$dir" "$CHRONIK_CACHE/$name"
}

venv() {
    python3 -m venv "$PWD" || { need "pyvenv-missing=python3-venv"; python3 -m venv "$PWD"; }
    bin/pip install --quiet --disable-pip-version-check -r "$TOP/tests/e2e/requirements.txt"
}
java_tools() {
    cp "$TOP/tests/e2e/java/pom.xml" .
    mvn -q -B dependency:copy-dependencies -DoutputDirectory="$PWD/lib"
}
go_client() {
    command -v go >/dev/null || die "go is missing: install Go 1.24 or newer"
    (cd "$TOP/tests/e2e/franz" && go build -o "$OLDPWD/franz" .)
}
stage "python clients" cached venv "$TOP/tests/e2e/requirements.txt" -- venv
stage "java tools" cached java "$TOP/tests/e2e/java/pom.xml" -- java_tools
stage "franz-go client" cached franz "$TOP"/tests/e2e/franz/* -- go_client
