#!/usr/bin/env bash
# chart.sh [check | update]: the chart is sound and renders what tests/chart/golden holds; deploy/ and the chart's copy of crds/
# are what they are made of. `update` writes them anew. Helm is $HELM, that of the PATH, or the one built from Go modules.
. "$(dirname "$0")/lib.sh"
cd "$TOP"
mode=${1:-check}
case "$mode" in check | update) ;; *) die "usage: chart.sh [check | update]" ;; esac

helm_program() {
    local built
    if [ -n "${HELM:-}" ]; then
        echo "$HELM"
    elif command -v helm; then
        :
    elif built=$(ls -t "$CHRONIK_CACHE"/kube-*/bin/helm 2>/dev/null | head -1) && [ -n "$built" ]; then
        echo "$built"
    else
        echo "$(tests/tools/kube-build.sh)/helm"
    fi
}
HELM=$(helm_program)
CHART=charts/chronik
TEMP=$(mktemp -d)
trap 'rm -rf "$TEMP"' EXIT
# Nothing of the user's own Helm.
export HELM_CONFIG_HOME=$TEMP/config HELM_CACHE_HOME=$TEMP/cache HELM_DATA_HOME=$TEMP/data
failed=0
complain() { echo "chart: $*" >&2; failed=1; }

render() { "$HELM" template "$@" --kube-version 1.34.0; }

# same WHAT NEW CHECKED-IN
same() {
    if [ "$mode" = update ]; then
        mkdir -p "$(dirname "$3")"
        cp "$2" "$3"
    elif ! diff -u "$3" "$2" >"$TEMP/diff" 2>&1; then
        head -60 "$TEMP/diff" >&2
        complain "$1 is not what it is made of; tests/tools/chart.sh update"
    fi
}

# For people without Helm: no traces of it, and a namespace where the operator lives.
plain() {
    local namespace=$1
    shift
    echo "# Made by tests/tools/chart.sh from charts/chronik. kubectl apply -f crds/ comes first."
    render chronik "$CHART" --namespace "$namespace" --set crds.upgrade=false "$@" |
        sed -e '/^# Source: /d' -e '/helm.sh\/chart: /d' -e '/app.kubernetes.io\/managed-by: Helm/d'
}

same "charts/chronik/crds" crds/chronikclusters.yaml "$CHART/crds/chronikclusters.yaml"

"$HELM" lint --strict --kube-version 1.34.0 "$CHART" >"$TEMP/lint" 2>&1 || { cat "$TEMP/lint" >&2; complain "helm lint"; }
count=0
for values in tests/chart/values/*.yaml; do
    name=$(basename "$values" .yaml)
    "$HELM" lint --strict --kube-version 1.34.0 "$CHART" -f "$values" >"$TEMP/lint" 2>&1 || { cat "$TEMP/lint" >&2; complain "helm lint with $values"; }
    if render chronik "$CHART" --namespace chronik-system -f "$values" >"$TEMP/$name.yaml" 2>"$TEMP/error"; then
        same "tests/chart/golden/$name.yaml" "$TEMP/$name.yaml" "tests/chart/golden/$name.yaml"
    else
        cat "$TEMP/error" >&2
        complain "$values does not render"
    fi
    count=$((count + 1))
done

# The first line of each says what the refusal has to name.
for values in tests/chart/refused/*.yaml; do
    wanted=$(sed -n '1s/^# refused: //p' "$values")
    [ -n "$wanted" ] || { complain "$values does not say what is refused"; continue; }
    if render chronik "$CHART" -f "$values" >/dev/null 2>"$TEMP/error"; then
        complain "$values is not refused"
    elif ! grep -qF "$wanted" "$TEMP/error"; then
        cat "$TEMP/error" >&2
        complain "the refusal of $values does not name $wanted"
    fi
    count=$((count + 1))
done

{
    cat <<END
apiVersion: v1
kind: Namespace
metadata:
  name: chronik-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
END
    plain chronik-system
} >"$TEMP/operator.yaml"
same "deploy/chronik-operator.yaml" "$TEMP/operator.yaml" deploy/chronik-operator.yaml
plain chronik --set watch.namespaced=true >"$TEMP/namespaced.yaml"
same "deploy/chronik-operator-namespaced.yaml" "$TEMP/namespaced.yaml" deploy/chronik-operator-namespaced.yaml

grep -q '^kind: Cluster' "$TEMP/namespaced.yaml" && complain "the installation with a Role only has cluster-wide objects"
[ "$failed" = 0 ] && echo "chart: ok, $count sets of values"
exit "$failed"
