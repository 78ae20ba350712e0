#!/usr/bin/env bash
# objects.sh: what the API server of $KUBECONFIG says to examples/, to the objects that it has to accept and to those that it has to
# refuse, with the words that a user needs. The definition must be there (kubectl apply -f crds/). Nothing is left behind.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
OBJECTS=$TOP/tests/chart/objects
NAMESPACE=chronik-objects-$$
failed=0
count=0
complain() { echo "objects: $*" >&2; failed=1; }
kc() { kubectl --namespace "$NAMESPACE" "$@"; }
trap 'kubectl delete namespace "$NAMESPACE" --wait=false >/dev/null' EXIT

kubectl create namespace "$NAMESPACE" >/dev/null
kc apply -f "$OBJECTS/base.yaml" >/dev/null
for object in "$TOP"/examples/*.yaml "$OBJECTS"/accepted/*.yaml; do
    said=$(kc apply --dry-run=server -f "$object" 2>&1) || complain "${object#"$TOP"/} is refused: $said"
    count=$((count + 1))
done
for object in "$OBJECTS"/refused/*.yaml; do
    wanted=$(sed -n '1s/^# refused: //p' "$object")
    if [ -z "$wanted" ]; then
        complain "${object#"$TOP"/} does not say what is refused"
    elif said=$(kc apply --dry-run=server -f "$object" 2>&1); then
        complain "${object#"$TOP"/} is accepted"
    elif ! grep -qF -- "$wanted" <<<"$said"; then
        complain "${object#"$TOP"/} is refused with other words than '$wanted': $said"
    fi
    count=$((count + 1))
done
# The API server cannot say this about any one object: scaling is never refused for another field's sake.
kc scale chronikcluster/base --replicas=1 >/dev/null 2>&1 || complain "kubectl scale to 1 is refused"
kc scale chronikcluster/base --replicas=9 >/dev/null 2>&1 || complain "kubectl scale to 9 is refused"
[ "$failed" = 0 ] && echo "objects: ok, $count objects"
exit "$failed"
