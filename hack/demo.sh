#!/usr/bin/env bash
# The main job from end to end on a real control plane, with nothing configured: 500 Deployments and some ConfigMaps
# become rows in PostgreSQL and files in a git repository; a change becomes one row written and one commit, a deletion
# one row deleted and one more commit, a restart nothing.
# Every step is checked; the exit code is 0 only if all of them hold. With --keep it is left running to look around.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

keep=
case "${1:-}" in
"") ;;
--keep) keep=1 ;;
*)
    echo "usage: hack/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

section() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    [ -f "$dir/operator.log" ] && { echo "the end of the operator's log:" >&2; tail -n 20 "$dir/operator.log" >&2; }
    exit 1
}

dir=$(mktemp -d "${TMPDIR:-/tmp}/kollect-demo-XXXXXX")
# PostgreSQL does not run as root and has to reach its directory below this one.
chmod 755 "$dir"
operator=
finish() {
    code=$?
    if [ -n "$keep" ] && [ "$code" -eq 0 ]; then
        return
    fi
    if [ -n "$operator" ]; then
        kill "$operator" 2>/dev/null && wait "$operator" 2>/dev/null || true
    fi
    [ -x "$dir/kollect-lab" ] && "$dir/kollect-lab" down --dir "$dir/lab" >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap finish EXIT

section "build what is missing"
tools_ensure
cargo build --quiet --features lab --bins
cp "$CARGO_TARGET_DIR/debug/kollect" "$CARGO_TARGET_DIR/debug/kollect-lab" "$dir/"

section "start etcd, kube-apiserver, kube-controller-manager, PostgreSQL and a git server"
"$dir/kollect-lab" up --git --dir "$dir/lab" --detach >"$dir/lab.env"
. "$dir/lab.env"
export KUBECONFIG
kubectl() { "$KUBECTL" "$@"; }
sql() { "$PSQL" "$PG_DSN" --no-psqlrc --quiet "$@"; }
number() { sql --tuples-only --no-align -c "$1"; }

# Waits up to a minute for a command to print what is wanted.
until_prints() {
    local want=$1 have=
    shift
    for _ in $(seq 120); do
        have=$("$@" 2>/dev/null || true)
        [ "$have" = "$want" ] && return 0
        sleep 0.5
    done
    fail "wanted '$want', have '$have' from: $*"
}

# Prints inserts, updates and deletes of the table since the start. A connection reports them up to 10 s late.
writes() {
    sleep 11
    number "SELECT coalesce(sum(n_tup_ins), 0) || ' ' || coalesce(sum(n_tup_upd), 0) || ' ' || coalesce(sum(n_tup_del), 0)
            FROM pg_stat_user_tables WHERE relname = 'kollect_rows'"
}

# Commits of the branch, and files in it.
commits() { git -C "$GIT_REPOSITORY" rev-list --count main; }
files() { git -C "$GIT_REPOSITORY" ls-tree -r --name-only main | wc -l; }

start_operator() {
    KUBECONFIG='' KOLLECT_GIT_MIRROR_DIR="$dir/mirrors" "$dir/kollect" manager --kubeconfig="$OPERATOR_KUBECONFIG" --allow-loopback-sinks \
        --health-probe-bind-address=0 --zap-devel=false >>"$dir/operator.log" 2>&1 &
    operator=$!
}

section "apply the definitions, config/samples/demo and the Secret that its sink names"
kubectl apply --server-side -f crds/ >/dev/null
kubectl wait --for=condition=Established --timeout=30s crd --all >/dev/null
kubectl apply --server-side -k config/samples/demo
kubectl -n demo create secret generic kollect-postgres --from-literal=dsn="$PG_DSN"
kubectl -n demo create secret generic kollect-git --from-literal=token="$GIT_TOKEN" --from-file=ca.crt="$GIT_CA"
kubectl apply --server-side -f - <<END
apiVersion: kollect.dev/v1alpha1
kind: KollectSnapshotSink
metadata: {name: git, namespace: demo}
spec:
  type: git
  endpoint: $GIT_URL
  secretRef: {name: kollect-git}
  tls: {caSecretRef: {name: kollect-git}}
  cluster: demo
  layout:
    mode: perResource
    pathTemplate: "clusters/{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}"
END
kubectl -n demo patch kinv demo --type=merge --patch '{"spec": {"snapshotSinkRefs": [{"name": "git"}]}}'

section "create 500 Deployments in 5 namespaces, and 20 ConfigMaps"
"$dir/kollect-lab" load create --kubeconfig "$KUBECONFIG" --namespaces 5 --per-namespace 100
for index in $(seq 20); do
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-%02d, namespace: loadtest-001}\ndata: {a: "1", b: "2"}\n---\n' "$index"
done | kubectl apply --server-side -f - >/dev/null

section "start the operator, as the ServiceAccount that the chart grants its rules to"
start_operator
started=$(date +%s%N)
until_prints 520 number "SELECT count(*) FROM kollect_rows"
echo "520 rows after $((($(date +%s%N) - started) / 1000000)) ms"
kubectl -n demo wait --for=condition=Ready --timeout=60s kollecttargets,kollectinventories --all
until_prints 520 kubectl -n demo get kinv demo -o 'jsonpath={.status.itemCount}'
until_prints 520 files
kubectl -n demo get kprof,ktgt,kinv,kdb,ksnap
sql -c "SELECT payload->>'kind' AS kind, count(*), min(payload->'attributes'->>'image') AS example_image
        FROM kollect_rows GROUP BY 1 ORDER BY 1"
sql -c "SELECT cluster, inventory_namespace, inventory_name, rows, epoch, last_write FROM kollect_rows_state"
first=$(writes)
[ "$first" = "520 0 0" ] || fail "inserts, updates, deletes are '$first', not '520 0 0'"
echo "inserts, updates, deletes: $first"
git -C "$GIT_REPOSITORY" log --format='%h %an %s' main
git -C "$GIT_REPOSITORY" show main:clusters/demo/loadtest-001/deployment/dep-00001.yaml
begun=$(commits)

section "change one image, and then delete one Deployment"
kubectl -n loadtest-001 set image deployment/dep-00001 '*=registry.k8s.io/pause:3.10'
until_prints $((begun + 1)) commits
git -C "$GIT_REPOSITORY" show --format='%h %s' --unified=0 main
kubectl -n loadtest-002 delete deployment dep-00002
until_prints $((begun + 2)) commits
git -C "$GIT_REPOSITORY" show --format='%h %s' --stat main
until_prints 519 files
until_prints 519 number "SELECT count(*) FROM kollect_rows"
until_prints 1 number "SELECT count(*) FROM kollect_rows WHERE payload->'attributes'->>'image' = 'registry.k8s.io/pause:3.10'"
sql -c "SELECT payload->>'namespace' AS namespace, payload->>'name' AS name, payload->'attributes'->>'image' AS image, exported_at
        FROM kollect_rows ORDER BY exported_at DESC LIMIT 2"
second=$(writes)
[ "$second" = "520 1 1" ] || fail "inserts, updates, deletes are '$second', not '520 1 1'"
echo "inserts, updates, deletes: $second: exactly one row updated and one deleted, in a commit each"

section "restart the operator"
kill "$operator"
wait "$operator" || fail "the operator did not end well"
before=$(number "SELECT epoch FROM kollect_rows_state")
start_operator
until_prints t number "SELECT epoch > $before FROM kollect_rows_state"
third=$(writes)
[ "$third" = "$second" ] || fail "inserts, updates, deletes went from '$second' to '$third'"
[ "$(number "SELECT count(*) FROM kollect_rows")" = 519 ] || fail "the table does not have 519 rows"
kubectl -n demo get kinv
[ "$(commits)" = $((begun + 2)) ] || fail "the restart made a commit"
git -C "$GIT_REPOSITORY" fsck --no-progress
echo "inserts, updates, deletes: $third: the restart wrote 0 rows and made no commit"

section "all of it holds"
if [ -n "$keep" ]; then
    cat <<END
It is left running. Look around:
  export KUBECONFIG=$KUBECONFIG; alias kubectl=$KUBECTL
  kubectl -n demo get kprof,ktgt,kinv,kdb; kubectl -n demo describe kinv demo
  $PSQL '$PG_DSN' -c 'SELECT * FROM kollect_rows LIMIT 5'
  git -C $GIT_REPOSITORY log --stat main; git -C $GIT_REPOSITORY for-each-ref
  tail -f $dir/operator.log
End it:
  kill $operator; $dir/kollect-lab down --dir $dir/lab; rm -rf $dir
END
    disown "$operator"
fi
