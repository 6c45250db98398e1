#!/usr/bin/env bash
# What is too long for a change and has to hold every night: all tests, many kills, long faults, many random histories, much
# random input, the load test of 10,000 objects, and the benches with their limits. hack/nightly.sh [--list] [--only STEP]...
# Each step has a bound in time; a step that fails or misses a limit does not stop those after it, and the exit code is 0
# only if none did. Writes docs/nightly/<date>-<commit>.md after each step; with --only it is printed instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

STEPS=(test kill9 long chaos model fuzz load-10k cold-start-10k cold-start-100k small idle churn restart copy git object freshness nats
    kafka memory cluster-target fanout)

# Sets `bound` (what `timeout` takes), `limits` (over the keys of the bench's JSON, one per line) and `run`.
step() {
    limits=
    case "$1" in
    test) bound=90m run=(hack/test.sh) ;;
    kill9) bound=90m run=(env CI=true KOLLECT_KILL_ROUNDS=50 cargo test --features lab --test it -- killed_) ;;
    long) bound=60m run=(env CI=true KOLLECT_LONG=1 cargo test --features lab --test it -- faults:: fleet:: proof:: --skip killed_) ;;
    chaos) bound=40m run=(env CI=true KOLLECT_LONG=1 cargo test --features lab --test it -- --nocapture chaos::) ;;
    model) bound=60m run=(env PROPTEST_CASES=20000 cargo test --features lab --lib -- "${LAWS[@]}") ;;
    fuzz) bound=30m run=(env PROPTEST_CASES=100000 cargo test --features lab --lib -- "${FUZZ[@]}") ;;
    load-10k) bound=30m run=(hack/loadtest/tier.sh 10k) ;;
    cold-start-10k)
        bound=30m run=(hack/bench/bench.sh cold-start --rows 10000)
        limits='seconds <= 1.5 * raw_list_seconds + 1.5
peak_rss_mib <= 64'
        ;;
    cold-start-100k)
        bound=60m run=(hack/bench/bench.sh cold-start --rows 100000)
        limits='seconds <= 1.5 * raw_list_seconds + 3
cpu_seconds <= 12
peak_rss_mib <= 128'
        ;;
    small)
        # 100,000 rows in the smallest pod that is promised: its group counts pages of files as well.
        bound=60m run=(hack/bench/bench.sh cold-start --rows 100000 --memory-limit 192)
        limits='oom_kills == 0
peak_group_mib <= 192
peak_rss_mib <= 128
seconds <= 1.5 * raw_list_seconds + 3'
        ;;
    idle)
        bound=45m run=(hack/bench/bench.sh idle --rows 10000)
        limits='cpu_seconds < 0.1
row_writes == 0
api_writes == 0'
        ;;
    churn)
        bound=45m run=(hack/bench/bench.sh churn --rows 10000)
        limits='row_writes <= 1.05 * rows_changed
cpu_seconds < 1'
        ;;
    restart)
        bound=45m run=(hack/bench/bench.sh restart --rows 10000)
        limits='row_writes == 0
commits == 0
ready_seconds <= 5'
        ;;
    copy)
        bound=30m run=(hack/bench/bench.sh copy --rows 100000 --runs 5)
        limits='seconds <= 1.5 * psql_copy_seconds
delta_ms <= 100
delta_row_writes == 1000
wal_bytes_per_changed_row <= 1536'
        ;;
    git)
        bound=60m run=(hack/bench/bench.sh git --rows 100000)
        limits='delta_seconds < 1
extra_rss_mib < 64
first_push_seconds <= 1.5 * fast_import_push_seconds
first_push_extra_rss_mib < 128
restart_commits == 0'
        ;;
    object)
        bound=30m run=(hack/bench/bench.sh object --rows 100000)
        limits='seconds <= 2 * pyarrow_seconds
bytes <= 1.2 * pyarrow_bytes
extra_rss_mib < 64'
        ;;
    freshness)
        bound=60m run=(hack/bench/bench.sh freshness --rows 100000 --rate 100)
        limits='p99_ms <= 350'
        ;;
    nats)
        bound=60m run=(hack/bench/bench.sh nats --rows 100000 --rate 100)
        limits='throughput_ratio >= 0.7
p99_ms <= 300
extra_rss_mib < 64'
        ;;
    kafka)
        bound=60m run=(hack/bench/bench.sh kafka --rows 100000 --rate 100)
        limits='throughput_ratio >= 0.7
p99_ms <= 300
extra_rss_mib < 64'
        ;;
    memory)
        bound=60m run=(hack/bench/bench.sh memory --rows 100000)
        limits='bytes_per_row <= 1.25 * attribute_bytes_per_row + 200
relist_peak_rss_mib <= 1.2 * steady_rss_mib'
        ;;
    cluster-target)
        bound=45m run=(hack/bench/bench.sh cluster-target --rows 20000 --namespaces 200)
        limits='seconds <= 1.5 * raw_list_seconds + 2'
        ;;
    fanout)
        bound=30m run=(hack/bench/bench.sh fanout)
        limits='ratio < 1.2'
        ;;
    *)
        echo "there is no step '$1'; see hack/nightly.sh --list" >&2
        exit 2
        ;;
    esac
}

# Tests of random histories that take their number of cases from PROPTEST_CASES.
LAWS=(whatever_happens_the_sink_ends_as_the_cluster_is a_sink_that_follows_the_plans_has_the_known_rows
    any_list_gives_back_its_items whatever_happens_the_store_ends_as_an_evaluation_from_scratch)

# Tests that read arbitrary bytes, text and damage as paths, objects, replies and Helm releases; the same of their number.
FUZZ=(no_bytes_panic no_text_ no_path_ no_damage_to a_projected_object_gives_the_same_answer)

# A failing history stands in the log; as a file in the tree it would change what the steps after it run.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true

chosen=()
while [ $# -gt 0 ]; do
    case "$1" in
    --list)
        for name in "${STEPS[@]}"; do
            step "$name"
            printf '%-16s %-5s %s\n' "$name" "$bound" "${run[*]}"
        done
        exit
        ;;
    --only)
        step "${2:?--only needs the name of a step}"
        chosen+=("$2")
        shift 2
        ;;
    *)
        echo "usage: hack/nightly.sh [--list] [--only STEP]..." >&2
        exit 2
        ;;
    esac
done

# What was measured has to be what the commit says. Summaries of earlier nights may lie about.
dirt() { git status --porcelain -- . ':!docs/nightly'; }
if [ -n "$(dirt)" ]; then
    echo "the tree has changes that no commit has; commit or remove them first:" >&2
    dirt >&2
    exit 2
fi

commit=$(git rev-parse --short=10 HEAD)
begin=$(date -u +'%Y-%m-%d %H:%M')
stem=$(date -u +%Y-%m-%d)-$commit
while [ -e "docs/nightly/$stem.md" ]; do stem+=-again; done
logs=$CARGO_TARGET_DIR/nightly/$stem
summary=docs/nightly/$stem.md
if [ ${#chosen[@]} -eq 0 ]; then
    chosen=("${STEPS[@]}")
else
    logs+=-only
    summary=$logs/summary.md
fi
rm -rf "$logs"
mkdir -p "$logs"

table=
figures=
faults=
failed=0
ended="not yet"

# `timeout` leads a group of its own with all that the step started; labs end by their own guard when their starter does.
running=
finish() {
    local code=$?
    trap - EXIT
    if [ -n "$running" ]; then
        kill "$running" 2>/dev/null && wait "$running" 2>/dev/null || true
        ended="interrupted, $(date -u +'%Y-%m-%d %H:%M')"
        write_summary
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

write_summary() {
    local memory cpu
    memory=$(awk '/^MemTotal:/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    cpu=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
    cat >"$summary" <<END
# Night of $begin UTC

Commit \`$commit\`, begun $begin, ended $ended (UTC). $(nproc) cores (${cpu:-unknown}), $memory, Linux $(uname -r).
Steps not in the table were not run.

| Step | Exit code | Seconds | Load before | Figures |
| --- | --- | --- | --- | --- |
$table
${figures:+
## Figures

$figures}${faults:+
## Failures

$faults}
END
}

# Prints the number behind a key of a line of JSON.
value() { sed -nE "s/.*\"$2\":(-?[0-9.]+)[,}].*/\1/p" <<<"$1"; }

# Appends each limit with its figures to `figures`; fails if one is missed or missing.
check_limits() {
    local json=$1 limit word words found with missed=0
    while read -r limit; do
        with=
        read -ra words <<<"$limit"
        for word in "${words[@]}"; do
            case "$word" in
            [a-z]*)
                found=$(value "$json" "$word")
                with+="${found:-missing} "
                ;;
            *) with+="$word " ;;
            esac
        done
        if [[ $with != *missing* ]] && awk "BEGIN { exit !($with) }"; then
            figures+="- \`$limit\`: ${with% }"$'\n'
        else
            figures+="- **missed** \`$limit\`: ${with% }"$'\n'
            missed=1
        fi
    done <<<"$limits"
    return "$missed"
}

for name in "${chosen[@]}"; do
    step "$name"
    echo "== $name: ${run[*]} (at most $bound)"
    log=$logs/$name.log
    load=$(cut -d' ' -f1 /proc/loadavg)
    started=$SECONDS
    timeout --kill-after=60 "$bound" "${run[@]}" >"$log" 2>&1 &
    running=$!
    code=0
    wait "$running" || code=$?
    running=
    seconds=$((SECONDS - started))

    verdict=
    if [ "$code" -eq 0 ] && [[ ${run[*]} == *"cargo test"* ]] && ! grep -Eq '^test result: ok\. [1-9]' "$log"; then
        code=1 verdict="no test has this name"
    elif [ -n "$limits" ]; then
        json=$(tail -n 1 "$log")
        figures+="${figures:+$'\n'}### $name"$'\n\n'
        if [ "$code" -ne 0 ]; then
            figures+="No figures."$'\n'
        elif check_limits "$json"; then
            verdict="within limits"
        else
            verdict="**missed**" failed=1
        fi
        [ "$code" -ne 0 ] || figures+=$'\n```json\n'"$json"$'\n```\n'
    fi
    [ "$code" -ne 124 ] || verdict="**not done after $bound**"
    if [ "$code" -ne 0 ]; then
        failed=1
        faults+="${faults:+$'\n'}### $name"$'\n\n```text\n'
        faults+=$({ grep -E '^(test .*FAILED|test result: FAILED|Test failed|error|FAILED|kollect-lab: )' "$log" || true; } |
            cut -c-300 | head -n 20)
        faults+="${verdict:+$'\n'${verdict//\*/}}"$'\n```\n'
    fi
    table+="${table:+$'\n'}| $name | $code | $seconds | $load | $verdict |"
    write_summary
    echo "   exit code $code after $seconds s${verdict:+, $verdict}"
done

if [ "$(git rev-parse --short=10 HEAD)" != "$commit" ] || [ -n "$(dirt)" ]; then
    failed=1
    faults+="${faults:+$'\n'}The tree changed under way; what ran may not be this commit."$'\n'
fi
ended=$(date -u +'%Y-%m-%d %H:%M')
write_summary
if [[ $summary == "$logs"/* ]]; then
    cat "$summary"
else
    echo "summary: $summary"
fi
echo "logs: $logs"
exit "$failed"
