#!/usr/bin/env bash
# Writes the manifests of a load test: for each namespace the custom resources that collect and export its objects, and the
# objects themselves. The same options give the same bytes, and the same objects that `kollect-lab load create` writes.
# Needs bash alone. README.md says what to do with it.
set -euo pipefail
# Characters are bytes, and numbers have points, wherever this runs.
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

namespaces=50
per_namespace=2000
kind=deployment
replicas=0
filtered_percent=0
cluster=loadtest
sinks=postgres,git
interval=30s
git_interval=1h
git_endpoint=https://REPLACE/inventory.git
git_layout=document
git_ca=
seed=1
out=$here/manifests
dry_run=

usage() {
    cat <<END
usage: generate.sh [OPTION]...

Writes manifests/: kustomization.yaml and namespace-<ns>.yaml, which 'kubectl apply -k' takes, and objects/<ns>.yaml.
The directory is made anew each time.

  --namespaces N           namespaces loadtest-001, loadtest-002, … ($namespaces)
  --deployments-per-ns M   objects in each ($per_namespace)
  --kind KIND              deployment, configmap, or mixed: both by turns ($kind)
  --replicas R             replicas of each Deployment ($replicas)
  --filtered-percent P     part of the objects of each namespace that the target leaves out ($filtered_percent)
  --cluster NAME           spec.cluster of the sinks: a name of its own for each cluster ($cluster)
  --sinks LIST             postgres, git, or both with a comma ($sinks)
  --interval D             exportMinInterval of the inventories ($interval)
  --git-interval D         exportMinInterval of their git sink ($git_interval)
  --git-endpoint URL       the repository ($git_endpoint)
  --git-layout MODE        document: a file for each inventory; perResource: a file for each object ($git_layout)
  --git-ca                 the Secret git-loadtest has a certificate authority to trust, in ca.crt
  --seed S                 another seed, other content ($seed)
  --out DIR                where to write (manifests beside this script)
  --dry-run                says what would be written, and writes nothing
  -h, --help               this text
END
}

fail() {
    echo "generate.sh: $*" >&2
    exit 1
}

# whole NAME VALUE LEAST MOST: fails unless the value is a whole number in that range.
whole() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] ||
        fail "$1 must be a whole number from $3 to $4, not '$2'"
}

# span NAME VALUE: fails unless the value is a duration such as 30s, 5m or 1h30m.
span() { [[ $2 =~ ^([0-9]+(ms|s|m|h))+$ ]] || fail "$1 must be a duration such as 30s, 5m or 1h30m, not '$2'"; }

while [ $# -gt 0 ]; do
    option=$1
    case $option in
    -h | --help)
        usage
        exit
        ;;
    --dry-run)
        dry_run=1
        shift
        continue
        ;;
    --git-ca)
        git_ca=1
        shift
        continue
        ;;
    --*=*)
        value=${option#*=}
        option=${option%%=*}
        shift
        ;;
    *)
        value=${2-}
        [ $# -lt 2 ] || shift
        shift
        ;;
    esac
    case $option in
    --namespaces | --deployments-per-ns | --kind | --replicas | --filtered-percent | --cluster | --sinks | --interval | \
        --git-interval | --git-endpoint | --git-layout | --seed | --out)
        [ -n "$value" ] || fail "$option needs a value"
        ;;
    *) fail "unknown option '$option'; see --help" ;;
    esac
    case $option in
    --namespaces) whole "$option" "$value" 1 999 && namespaces=$value ;;
    --deployments-per-ns) whole "$option" "$value" 0 99999 && per_namespace=$value ;;
    --replicas) whole "$option" "$value" 0 1000 && replicas=$value ;;
    --filtered-percent) whole "$option" "$value" 0 100 && filtered_percent=$value ;;
    --seed) whole "$option" "$value" 0 999999999 && seed=$value ;;
    --interval) span "$option" "$value" && interval=$value ;;
    --git-interval) span "$option" "$value" && git_interval=$value ;;
    --kind)
        [[ $value =~ ^(deployment|configmap|mixed)$ ]] || fail "--kind must be deployment, configmap or mixed, not '$value'"
        kind=$value
        ;;
    --git-layout)
        [[ $value =~ ^(document|perResource)$ ]] || fail "--git-layout must be document or perResource, not '$value'"
        git_layout=$value
        ;;
    --cluster)
        [[ $value =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
            fail "--cluster must be of lower-case letters, digits and dashes, not '$value'"
        cluster=$value
        ;;
    --git-endpoint)
        [[ $value =~ ^(https?|ssh)://[^[:space:]\"\'\\]+$ ]] || fail "--git-endpoint must be an http, https or ssh URL, not '$value'"
        git_endpoint=$value
        ;;
    --sinks) sinks=$value ;;
    --out) out=$value ;;
    esac
done

with_postgres= with_git=
IFS=, read -ra names <<<"$sinks"
for name in "${names[@]}"; do
    case $name in
    postgres) with_postgres=1 ;;
    git) with_git=1 ;;
    s3 | gcs) fail "--sinks: $name is no part of this load test; choose from postgres and git" ;;
    nats | kafka) fail "--sinks: $name is not in this build yet; choose from postgres and git" ;;
    *) fail "--sinks: there is no '$name'; choose from postgres and git" ;;
    esac
done

[ -n "$with_git" ] || git_interval=-
total=$((namespaces * per_namespace))
mine="# Written by hack/loadtest/100k/generate.sh"

if [ -n "$dry_run" ]; then
    echo "would write to $out: kustomization.yaml, $namespaces files namespace-<ns>.yaml, $namespaces files objects/<ns>.yaml"
    echo "$namespaces namespaces, $total objects of kind $kind, $filtered_percent % of them filtered, cluster $cluster," \
        "sinks $sinks, interval $interval, git interval $git_interval, seed $seed"
    exit
fi

# Nothing is removed that was not written here.
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ] && ! grep -qs "^$mine" "$out/kustomization.yaml"; then
    fail "$out is not empty, and nothing that this script wrote; name another directory"
fi
rm -rf "$out"
mkdir -p "$out/objects"

# --- what collects and exports ------------------------------------------------------------------------------------------

# custom KIND NAME NAMESPACE: the head of a custom resource.
custom() { printf -- '---\napiVersion: kollect.dev/v1alpha1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n' "$@"; }

# collects NAME NAMESPACE GVK: a profile, whose attributes come from stdin, and the target that uses it.
collects() {
    custom KollectProfile "$1" "$2"
    printf '  targetGVK: %s\n  attributes:\n' "$3"
    cat
    custom KollectTarget "$1" "$2"
    cat <<END
  profileRef: $1
  includedNamespaces: [$2]
  labelSelector:
    matchLabels: {app: loadtest}
    matchExpressions: [{key: loadtest-filtered, operator: DoesNotExist}]
END
}

control() {
    local ns=$1
    cat <<END
$mine
apiVersion: v1
kind: Namespace
metadata:
  name: $ns
  labels: {kollect.dev/loadtest: "100k"}
END
    [ "$kind" = configmap ] || collects deployments "$ns" '{group: apps, version: v1, kind: Deployment}' <<'END'
  - {name: image, path: "$.spec.template.spec.containers[0].image"}
  - {name: replicas, path: "$.spec.replicas"}
  - {name: team, path: "$.metadata.labels['app.kubernetes.io/part-of']"}
  - {name: version, path: "$.metadata.labels['app.kubernetes.io/version']"}
  - {name: owner, path: "$.metadata.annotations['kollect.dev/owner']"}
  - {name: containers, path: "cel:object.spec.template.spec.containers.map(c, c.name)"}
END
    [ "$kind" = deployment ] || collects configmaps "$ns" '{version: v1, kind: ConfigMap}' <<'END'
  - {name: team, path: "$.data.team"}
  - {name: revision, path: "$.data.revision"}
END
    if [ -n "$with_postgres" ]; then
        custom KollectDatabaseSink postgres-loadtest "$ns"
        cat <<END
  type: postgres
  cluster: $cluster
  connectionTest: true
  postgres:
    databaseRef: {name: postgres-loadtest, namespace: kollect-loadtest}
    table: inventory_items
END
    fi
    if [ -n "$with_git" ]; then
        custom KollectSnapshotSink git-loadtest "$ns"
        cat <<END
  type: git
  endpoint: "$git_endpoint"
  secretRef: {name: git-loadtest, namespace: kollect-loadtest}
  cluster: $cluster
  connectionTest: false
END
        [ -z "$git_ca" ] || echo '  tls: {caSecretRef: {name: git-loadtest, namespace: kollect-loadtest}}'
        if [ "$git_layout" = document ]; then
            echo '  pathTemplate: "clusters/{cluster}/inventory/{namespace}/{name}.json"'
            echo '  serialization: {format: json}'
        else
            echo '  layout:'
            echo '    mode: perResource'
            echo '    pathTemplate: "clusters/{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}"'
        fi
        echo '  git: {branch: main, pushPolicy: Commit}'
    fi
    custom KollectInventory inventory "$ns"
    echo "  exportMinInterval: $interval"
    [ -z "$with_postgres" ] || echo '  databaseSinkRefs: [{name: postgres-loadtest}]'
    [ -z "$with_git" ] || echo "  snapshotSinkRefs: [{name: git-loadtest, exportMinInterval: $git_interval}]"
    echo '  suspend: false'
}

# --- what is collected --------------------------------------------------------------------------------------------------

teams=(payments search identity checkout catalog billing insights platform)
tiers=(frontend backend batch)
languages=(go java rust node)

# SplitMix64 in the arithmetic of the shell, which has 64 bits and wraps; a shift keeps the sign, so the upper bits are
# cut. `mix` takes v and leaves its result in v.
mix='v += 0x9E3779B97F4A7C15,
    v = (v ^ ((v >> 30) & 0x3FFFFFFFF)) * 0xBF58476D1CE4E5B9,
    v = (v ^ ((v >> 27) & 0x1FFFFFFFFF)) * 0x94D049BB133111EB,
    v ^= (v >> 31) & 0x1FFFFFFFF'

deployment='apiVersion: apps/v1
kind: Deployment
metadata:
  name: %s
  namespace: %s
  labels:
    app: loadtest
    app.kubernetes.io/name: %s
    app.kubernetes.io/version: "%s"
    app.kubernetes.io/component: %s
    app.kubernetes.io/part-of: %s
%s  annotations:
    kollect.dev/owner: team-%s@example.com
    kollect.dev/description: "The %s of %s, written in %s; restarts are harmless."
    checksum/config: "%016x%016x"
spec:
  replicas: %s
  revisionHistoryLimit: 3
  selector:
    matchLabels: {app: loadtest, dep: %s}
  template:
    metadata:
      labels: {app: loadtest, dep: %s, tier: %s, team: %s}
      annotations: {prometheus.io/scrape: "true"}
    spec:
      serviceAccountName: default
      containers:
      - name: app
        image: registry.k8s.io/pause:3.9
        imagePullPolicy: IfNotPresent
        args: ["--listen=:8080", "--metrics=:9090", "--team=%s"]
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: LANGUAGE, value: %s}
        - {name: TEAM, value: %s}
        - {name: LOG_LEVEL, value: info}
        - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        resources:
          requests: {cpu: 100m, memory: %sMi}
          limits: {memory: %sMi}
        livenessProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 20}
        readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5}
        volumeMounts: [{name: config, mountPath: /etc/app, readOnly: true}]
      - name: proxy
        image: registry.example.com/mesh/proxy:1.27.3
        env: [{name: UPSTREAM, value: "127.0.0.1:8080"}]
        resources: {requests: {cpu: 10m, memory: 32Mi}}
      volumes: [{name: config, configMap: {name: %s-config}}]
---
'
configmap='apiVersion: v1
kind: ConfigMap
metadata:
  name: %s
  namespace: %s
  labels:
    app: loadtest
    app.kubernetes.io/part-of: %s
%sdata:
  team: %s
  revision: r0
  application.properties: |
%s---
'

# objects INDEX NAMESPACE: the objects of one namespace, which is counted from 0. Object i lives in namespace i mod N.
objects() {
    local first=$1 ns=$2 number v chance checksum inverse name team tier language version memory label lines of_kind kinds=1
    [ "$kind" != mixed ] || kinds=2
    for ((number = 0; number < per_namespace; number++)); do
        # The 1 is for the exit code, which would be a failure after 0.
        ((v = number * namespaces + first, $mix, v ^= seed, $mix, chance = v, 1))
        label=
        # Spread evenly over each kind.
        of_kind=$((number / kinds))
        if (((of_kind + 1) * filtered_percent / 100 > of_kind * filtered_percent / 100)); then
            label='    loadtest-filtered: "true"'$'\n'
        fi
        team=${teams[chance & 7]}
        if [ "$kind" = configmap ] || { [ "$kind" = mixed ] && ((number & 1)); }; then
            printf -v name 'cm-%05d' $((number + 1))
            printf -v lines '    server.port=8080\n    team=%s\n    id=%016x\n' "$team" "$chance"
            printf "$configmap" "$name" "$ns" "$team" "$label" "$team" "$lines$lines$lines$lines$lines$lines"
            continue
        fi
        printf -v name 'dep-%05d' $((number + 1))
        # The upper bits without their sign; 56 of them are plenty for a remainder.
        tier=${tiers[((chance >> 8) & 0xFFFFFFFFFFFFFF) % 3]}
        language=${languages[(chance >> 16) & 3]}
        version=$(((chance >> 24) & 7)).$(((chance >> 32) & 31)).$(((chance >> 40) & 63))
        memory=$((64 << ((chance >> 48) & 3)))
        ((v = chance, $mix, checksum = v, v = ~chance, $mix, inverse = v, 1))
        printf "$deployment" "$name" "$ns" "$name" "$version" "$tier" "$team" "$label" "$team" "$tier" "$team" "$language" \
            "$checksum" "$inverse" "$replicas" "$name" "$name" "$tier" "$team" "$team" "$language" "$team" "$memory" \
            $((memory * 2)) "$name"
    done
}

{
    echo "$mine"
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n'
    for ((index = 0; index < namespaces; index++)); do
        printf -v ns 'loadtest-%03d' $((index + 1))
        echo "- namespace-$ns.yaml"
        control "$ns" >"$out/namespace-$ns.yaml"
        objects "$index" "$ns" >"$out/objects/$ns.yaml"
    done
} >"$out/kustomization.yaml"

echo "$out: $namespaces namespaces, $total objects of kind $kind, $filtered_percent % of them filtered"
