#!/usr/bin/env bash
# The main job from end to end on a real control plane, with nothing configured: 500 Deployments and some ConfigMaps
# become rows in PostgreSQL and files in a git repository; a change becomes one row written and one commit, a deletion
# one row deleted and one more commit, a restart nothing.
# With --all-sinks the same rows also go to a bucket, a stream of NATS and a topic of Kafka, and all five are compared by
# digest after each step.
# Every step is checked; the exit code is 0 only if all of them hold. With --keep it is left running to look around.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

keep=
all=
for argument in "$@"; do
    case $argument in
    --keep) keep=1 ;;
    --all-sinks) all=1 ;;
    *)
        echo "usage: hack/demo.sh [--all-sinks] [--keep]" >&2
        exit 2
        ;;
    esac
done

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

section "start etcd, kube-apiserver, kube-controller-manager, PostgreSQL and a git server${all:+, S3, NATS and Kafka}"
"$dir/kollect-lab" up --git ${all:+--object --nats --kafka} --dir "$dir/lab" --detach >"$dir/lab.env"
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

# What all sinks hold, compared with the cluster and with each other; nothing without --all-sinks.
verify() {
    "$dir/kollect-lab" verify --kubeconfig "$KUBECONFIG" --cluster demo --namespaces kubernetes.io/metadata.name=demo \
        --database "$PG_DSN" --table kollect_rows --git "$GIT_REPOSITORY" --bucket "$BUCKET_DIR" \
        --nats "nats://$NATS_USER:$NATS_PASSWORD@${NATS_URL#tls://}" --nats-ca "$NATS_CA" --stream kollect_events \
        --kafka "$KAFKA_PLAIN" --topic kollect.inventory --wait 60s "$@"
}
all_equal() {
    [ -n "$all" ] || return 0
    echo
    verify || fail "the five sinks do not hold the same rows"
}

# The objects of the bucket with their times, and the number of messages: what a write would change.
written() {
    find "$BUCKET_DIR" -type f -printf '%P %T@ %s\n' | sort
    verify --json | grep -o '"[a-z]*_messages":[0-9]*'
}

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

if [ -n "$all" ]; then
    section "a bucket, a stream and a topic beside them"
    kubectl -n demo create secret generic kollect-bucket --from-file=ca.crt="$BUCKET_CA" \
        --from-literal=accessKeyID="$BUCKET_KEY" --from-literal=secretAccessKey="$BUCKET_SECRET"
    kubectl -n demo create secret generic kollect-nats --from-file=ca.crt="$NATS_CA" \
        --from-literal=username="$NATS_USER" --from-literal=password="$NATS_PASSWORD"
    kubectl -n demo create secret generic kollect-kafka --from-file=ca.crt="$KAFKA_CA" \
        --from-literal=username="$KAFKA_USER" --from-literal=password="$KAFKA_PASSWORD"
    kubectl apply --server-side -f - <<END
apiVersion: kollect.dev/v1alpha1
kind: KollectSnapshotSink
metadata: {name: bucket, namespace: demo}
spec:
  type: s3
  endpoint: $BUCKET_URL
  secretRef: {name: kollect-bucket}
  tls: {caSecretRef: {name: kollect-bucket}}
  cluster: demo
  objectStore: {format: parquet, hotAttributes: [image, replicas]}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectEventSink
metadata: {name: nats, namespace: demo}
spec:
  type: nats
  tls: {caSecretRef: {name: kollect-nats}}
  cluster: demo
  provisioning: {mode: ensure}
  nats: {url: "$NATS_URL", subject: kollect.inventory, mode: Changes, secretRef: {name: kollect-nats}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectEventSink
metadata: {name: kafka, namespace: demo}
spec:
  type: kafka
  tls: {caSecretRef: {name: kollect-kafka}}
  cluster: demo
  provisioning: {mode: ensure}
  kafka:
    brokers: ["$KAFKA_BROKER"]
    topic: kollect.inventory
    mode: Changes
    saslMechanism: SCRAM-SHA-512
    secretRef: {name: kollect-kafka}
END
    kubectl -n demo patch kinv demo --type=merge --patch \
        '{"spec": {"snapshotSinkRefs": [{"name": "git"}, {"name": "bucket"}], "eventSinkRefs": [{"name": "nats"}, {"name": "kafka"}]}}'
fi

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
if [ -n "$all" ]; then
    all_equal
    section "look into the bucket, the stream and the topic"
    find "$BUCKET_DIR" -type f -printf '%s bytes %P\n'
    "$NATS_CLI" --server "$NATS_URL" --user "$NATS_USER" --password "$NATS_PASSWORD" --tlsca "$NATS_CA" \
        stream get kollect_events 1
    java -cp "$KAFKA_JARS/*" org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$KAFKA_PLAIN" \
        --topic kollect.inventory --from-beginning --isolation-level read_committed --max-messages 1 --timeout-ms 20000 \
        --property print.headers=true --property print.key=true 2>/dev/null
fi

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
all_equal

section "restart the operator"
kill "$operator"
wait "$operator" || fail "the operator did not end well"
before=$(number "SELECT epoch FROM kollect_rows_state")
kept=${all:+$(written)}
start_operator
until_prints t number "SELECT epoch > $before FROM kollect_rows_state"
third=$(writes)
[ "$third" = "$second" ] || fail "inserts, updates, deletes went from '$second' to '$third'"
[ "$(number "SELECT count(*) FROM kollect_rows")" = 519 ] || fail "the table does not have 519 rows"
kubectl -n demo get kinv
[ "$(commits)" = $((begun + 2)) ] || fail "the restart made a commit"
git -C "$GIT_REPOSITORY" fsck --no-progress
echo "inserts, updates, deletes: $third: the restart wrote 0 rows and made no commit"
if [ -n "$all" ]; then
    all_equal
    have=$(written)
    [ "$have" = "$kept" ] || fail "the restart wrote to the bucket, the stream or the topic: $kept became $have"
    echo "the restart wrote no object and sent no message"
fi

section "all of it holds"
if [ -n "$keep" ]; then
    cat <<END
It is left running. Look around:
  export KUBECONFIG=$KUBECONFIG; alias kubectl=$KUBECTL
  kubectl -n demo get kprof,ktgt,kinv,kdb; kubectl -n demo describe kinv demo
  $PSQL '$PG_DSN' -c 'SELECT * FROM kollect_rows LIMIT 5'
  git -C $GIT_REPOSITORY log --stat main; git -C $GIT_REPOSITORY for-each-ref
${all:+  find $BUCKET_DIR -type f
  $NATS_CLI --server $NATS_URL --user $NATS_USER --password $NATS_PASSWORD --tlsca $NATS_CA stream view kollect_events
  java -cp '$KAFKA_JARS/*' org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server $KAFKA_PLAIN --topic kollect.inventory --from-beginning
}  tail -f $dir/operator.log
End it:
  kill $operator; $dir/kollect-lab down --dir $dir/lab; rm -rf $dir
END
    disown "$operator"
fi
