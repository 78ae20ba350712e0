#!/usr/bin/env bash
# House rules that a machine can check: file length, layering, unsafe, leftovers.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
failed=0
complain() { echo "tidy: $*"; failed=1; }

while read -r lines file; do
    [ "$lines" -le 600 ] || complain "$file has $lines lines; 600 is the limit"
done < <(git ls-files '*.rs' '*.py' '*.go' '*.sh' | xargs wc -l | awk '$2 != "total" {print $1, $2}')

# The layers of ARCHITECTURE.md: what a crate may depend on.
layer() {
    local crate=$1 allowed=$2 dep
    for dep in $(grep -oE '^chronik-[a-z]+' "broker/$crate/Cargo.toml" | sort -u); do
        case " $allowed " in *" $dep "*) ;; *) complain "broker/$crate may not depend on $dep" ;; esac
    done
}
layer model ""
layer wire "chronik-model"
layer log "chronik-model"
layer consensus "chronik-model chronik-log"
layer core "chronik-model"
layer node "chronik-model chronik-wire chronik-log chronik-consensus chronik-core"
for crate in model wire log consensus core node; do
    grep -qE '^(tokio|hickory|tonic|rand)' "broker/$crate/Cargo.toml" && complain "broker/$crate must stay free of tokio, tonic and rand"
done
git grep -nE '^(use|pub use) raft(::|;)' -- broker ':!broker/consensus' && complain "only broker/consensus names raft"
git grep -nE '\b(TODO|FIXME|XXX)\b' -- '*.rs' '*.py' '*.go' && complain "a TODO belongs in an issue"
git grep -nE '#\[allow\(unsafe_code\)\]|#!\[allow\(unsafe_code\)\]' -- '*.rs' ':!broker/server/src/sys.rs' && complain "unsafe is allowed in broker/server/src/sys.rs only"
[ "$failed" = 0 ] && echo "tidy: ok"
exit "$failed"
