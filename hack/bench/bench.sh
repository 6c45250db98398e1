#!/usr/bin/env bash
# Measures: hack/bench/bench.sh NAME [--rows N] [--namespaces M] [--targets T] [--runs R] [--rate C] [--memory-limit MIB]
# NAME is cold-start, idle, churn, restart, memory, cluster-target, copy, git, object, freshness, nats, kafka, extract or fanout. Starts what it needs, tears it down, prints one JSON object as last line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

# These need no servers; the last line that they print is the JSON.
case "${1:-}" in
    extract)
        cargo bench --quiet --features lab --bench extract -- --json
        exit
        ;;
    fanout)
        cargo bench --quiet --features lab --bench fanout
        exit
        ;;
esac

# Copies, for a build in the meantime would replace the programs under a bench that runs for many minutes.
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
{
    tools_ensure
    cargo build --quiet --release --features lab --bin kollect --bin kollect-lab
    cp "$CARGO_TARGET_DIR/release/kollect" "$CARGO_TARGET_DIR/release/kollect-lab" "$programs"
} >&2
"$programs/kollect-lab" bench "$@"
