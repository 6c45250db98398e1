#!/usr/bin/env bash
# Checks that what is generated and committed is what the program generates now. With --write, brings it up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/lib/cargo.sh

cargo build --quiet --bin kollect
kollect=$CARGO_TARGET_DIR/debug/kollect
if ! "$kollect" crds --help >/dev/null 2>&1 || [ -z "$("$kollect" crds --help 2>/dev/null)" ]; then
    echo "skipped: this build has no \`kollect crds\`"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$kollect" crds --dir "$scratch/crds" --docs "$scratch/docs"
if [ "${1:-}" = --write ]; then
    rm -rf crds docs/reference
    cp -r "$scratch/crds" crds
    cp -r "$scratch/docs" docs/reference
elif ! diff -ru crds "$scratch/crds" || ! diff -ru docs/reference "$scratch/docs"; then
    echo "this is not what \`kollect crds\` generates: run hack/lib/generated.sh --write and commit" >&2
    exit 1
fi
echo "crds/ and docs/reference/ are fresh"
if [ "${1:-}" = --write ]; then
    hack/lib/chart.sh write
else
    hack/lib/chart.sh check
fi
