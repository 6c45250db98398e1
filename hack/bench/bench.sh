#!/usr/bin/env bash
# Measures: hack/bench/bench.sh NAME [--rows N] [--namespaces M] [--targets T] [--runs R]
# NAME is cold-start, idle, churn or restart. Starts what it needs, tears it down, prints one JSON object as last line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

{
    tools_ensure
    cargo build --quiet --release --features lab --bin kollect --bin kollect-lab
} >&2
exec "$CARGO_TARGET_DIR/release/kollect-lab" bench "$@"
