#!/usr/bin/env bash
# Checks that what is generated and committed is what the program generates now. With --write, brings it up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/lib/cargo.sh

cargo build --quiet --bin kollect
kollect=$CARGO_TARGET_DIR/debug/kollect
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$kollect" crds --dir "$scratch/crds" --docs "$scratch/docs/reference"

stale=0
while IFS= read -r file; do
    if [ "${1:-}" = --write ]; then
        mkdir -p "$(dirname "$file")"
        cp "$scratch/$file" "$file"
    elif ! diff -u "$file" "$scratch/$file"; then
        stale=$((stale + 1))
    fi
done < <(cd "$scratch" && find . -type f | sort)

if [ "$stale" -gt 0 ]; then
    echo "$stale files are not what \`kollect crds\` generates: run hack/lib/generated.sh --write and commit" >&2
    exit 1
fi
echo "crds/ and docs/reference/ are fresh"
