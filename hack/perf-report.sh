#!/usr/bin/env bash
# A page about performance at this commit: hack/perf-report.sh [--write-baseline]
# Runs the unit tests and the micro bench of extraction, and writes agent-context/PERF-SNAPSHOT.md, or with CI=true
# artifacts/perf-snapshot.md; beside it the same as JSON, and the output of the bench in artifacts/bench/. Both places are
# ignored by git. The exit code is 1 when a test fails, or when time or allocations grew by more than a quarter beyond
# docs/performance/baseline.json, which --write-baseline replaces.
#   hack/perf-report.sh --compare <LINE   compares one line of JSON of the bench with the baseline and does nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BASELINE=docs/performance/baseline.json
GROWTH=1.25
# What the earlier releases asked people to look at.
HINT_MICROSECONDS=500

# What is compared. Time is counted in passes of serde_json that read the same text in the same run and keep nothing, so
# that a slow machine, or a slow hour, is not a regression.
KEYS=(path_passes cel_passes allocations_per_object cel_allocations_per_object)

# value JSON KEY: the number behind a key.
value() { sed -nE "s/.*\"$2\": ?(-?[0-9.]+)[,}].*/\1/p" <<<"$1"; }

# figures LINE: what is compared, from the output of the bench.
figures() {
    local line=$1 pass path cel
    pass=$(value "$line" ignored_any_objects_per_second)
    path=$(value "$line" path_objects_per_second)
    cel=$(value "$line" cel_objects_per_second)
    [ -n "$pass" ] && [ -n "$path" ] && [ -n "$cel" ] || {
        echo "perf-report: the bench printed no figures: $line" >&2
        return 1
    }
    awk -v pass="$pass" -v path="$path" -v cel="$cel" \
        -v allocations="$(value "$line" allocations_per_object)" \
        -v cel_allocations="$(value "$line" cel_allocations_per_object)" 'BEGIN {
        printf "{\"path_passes\":%.3f,\"cel_passes\":%.3f,", pass / path, pass / cel
        printf "\"path_microseconds\":%.2f,\"cel_microseconds\":%.2f,", 1e6 / path, 1e6 / cel
        printf "\"allocations_per_object\":%d,\"cel_allocations_per_object\":%d}\n", allocations, cel_allocations
    }'
}

# compare FIGURES: one line of the table for each key; fails when one has grown too much.
compare() {
    local key now before baseline verdict grown=0
    baseline=$(tr -d '\n' <"$BASELINE")
    for key in "${KEYS[@]}"; do
        now=$(value "$1" "$key") before=$(value "$baseline" "$key") verdict=holds
        if [ -z "$before" ]; then
            verdict="no baseline"
        elif awk "BEGIN { exit !($now > $GROWTH * $before) }"; then
            verdict="**grew by more than 25 %**" grown=1
        fi
        printf '| %s | %s | %s | %s |\n' "$key" "${before:-–}" "$now" "$verdict"
    done
    return "$grown"
}

case "${1:-}" in
--compare)
    # Assigned first: within a command, a failure would pass unnoticed.
    figures=$(figures "$(cat)")
    compare "$figures"
    exit
    ;;
--write-baseline | "") ;;
*)
    echo "usage: hack/perf-report.sh [--write-baseline | --compare]" >&2
    exit 2
    ;;
esac

. hack/lib/cargo.sh

tier=dev page=agent-context/PERF-SNAPSHOT.md
# One L is how the variable has been spelled since the first release.
if [ "${KOLECT_LOAD_TEST:-${KOLLECT_LOAD_TEST:-}}" = 1 ]; then tier=load; fi
if [ "${CI:-}" = true ]; then tier=ci page=artifacts/perf-snapshot.md; fi
mkdir -p "$(dirname "$page")" artifacts/bench
stamp=$(date -u +%Y-%m-%dT%H:%M:%SZ)
commit=$(git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)

echo "== unit tests"
tests=$(mktemp)
trap 'rm -f "$tests"' EXIT
status=PASS
# Built first, so that the seconds are those of the tests.
cargo test --quiet --features lab --lib --no-run
started=$SECONDS
cargo test --features lab --lib >"$tests" 2>&1 || status=FAIL
seconds=$((SECONDS - started))
result=$(grep -E '^test result:' "$tests" | tail -n 1 || true)
passed=$(sed -nE 's/.* ([0-9]+) passed.*/\1/p' <<<"$result")
failed=$(sed -nE 's/.* ([0-9]+) failed.*/\1/p' <<<"$result")
packages=$(grep -oE '^test [a-z_]+::' "$tests" | sort -u | wc -l)
echo "$status after $seconds s: ${passed:-0} passed, ${failed:-0} failed"
[ "$status" = PASS ] || grep -E '^(test .*FAILED|error|---- )' "$tests" | head -n 20 || true

echo "== extraction"
line=$(hack/bench/bench.sh extract | tail -n 1)
printf '%s\n' "$line" | tee artifacts/bench/latest.txt "artifacts/bench/${stamp//:/}.txt"
figures=$(figures "$line")
if [ "${1:-}" = --write-baseline ]; then
    sed -e 's/[{,]/&\n  /g' -e 's/:/: /g' -e 's/}/\n}/' <<<"$figures" >"$BASELINE"
    echo "written: $BASELINE"
fi
growth=holds
comparison=$(compare "$figures") || growth=grew
hint="below the hint of $HINT_MICROSECONDS µs"
awk "BEGIN { exit !($(value "$figures" cel_microseconds) > $HINT_MICROSECONDS) }" && hint="**above the hint of $HINT_MICROSECONDS µs**"

# The names stand in the page that the tests compare with the code.
names=$(sed -n '/families: begin/,/families: end/p' docs/metrics.md | sed -nE 's/^\| (`[a-z_]+`) \| ([a-z]+) .*/- \1 (\2)/p')
default() { sed -nE "s/^\| \`--$1\` \| \`([^\`]*)\` .*/\1/p" docs/configuration.md; }
flags=
for flag in max-concurrent-reconciles-target max-concurrent-reconciles-inventory collect-dispatch-workers \
    collect-dispatch-queue-size reconcile-rate-limit enable-pprof pprof-bind-address; do
    flags+="| \`--$flag\` | \`$(default "$flag")\` |"$'\n'
done

cat >"$page" <<END
# Performance snapshot

Generated $stamp, commit \`$commit\`, scale tier \`$tier\`, $(nproc) cores.

## Unit tests

**$status** in $seconds s: ${passed:-0} passed, ${failed:-0} failed, of $packages modules.

## Micro benches

\`hack/bench/bench.sh extract\`: $(value "$figures" path_microseconds) µs for an object of 5 KB and six attributes, $(value "$figures" cel_microseconds) µs
with one of them CEL, $hint.

Compared with \`$BASELINE\`; a pass is one of serde_json over the same text that keeps nothing.

| Figure | Baseline | Now | Verdict |
| --- | --- | --- | --- |
$comparison

## Metric names

$names

## Flags to tune

| Flag | Default |
| --- | --- |
$flags| \`exportMinInterval\` (on inventory, sink or reference) | \`30s\` |

## Where a bottleneck shows

| Symptom | Look at | Lever |
| --- | --- | --- |
| CPU at its limit | \`kollect_collect_dispatch_duration_seconds\`, CPU profile | \`--collect-dispatch-workers\`, fewer CEL attributes, more operators |
| Events wait | \`kollect_collect_dispatch_backpressure_total\`, \`kollect_queue_depth\` | \`--collect-dispatch-queue-size\`, \`--collect-dispatch-workers\` |
| Memory near its limit | \`kollect_store_bytes / kollect_store_budget_bytes\`, heap profile | fewer or smaller attributes, filters, \`--store-budget\` |
| Rows arrive late | \`kollect_export_lag_seconds\`, \`kollect_freshness_seconds\` | \`exportMinInterval\` |
| Exports are slow | \`kollect_export_duration_seconds\` by sink | the destination itself, \`--max-concurrent-exports-per-destination\` |
| The API server is busy | \`kollect_api_requests_total\`, \`kollect_watch_connections\` | \`--max-namespaced-watches\`, \`--status-min-interval\` |
| Inventories warn of their size | \`kollect_export_shard_warn_total\` | more, smaller inventories |
END

cat >"${page%.md}.json" <<END
{"generated":"$stamp","commit":"$commit","tier":"$tier","cores":$(nproc),"tests":{"status":"$status","seconds":$seconds,"passed":${passed:-0},"failed":${failed:-0},"modules":$packages},"figures":$figures,"growth":"$growth","bench":$line}
END
echo "report: $page, ${page%.md}.json"
[ "$status" = PASS ] || { echo "perf-report: unit tests fail" >&2; exit 1; }
[ "$growth" = holds ] || { echo "perf-report: time or allocations grew by more than 25 %:" >&2; printf '%s\n' "$comparison" >&2; exit 1; }
