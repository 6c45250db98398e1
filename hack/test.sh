#!/usr/bin/env bash
# Everything that has to hold before a change is merged; CI calls this and nothing else. The tests run last, so that
# their summary is the end of the output. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib/cargo.sh
. hack/lib/tools.sh

section() { printf '\n== %s\n' "$*"; }

section "tools"
tools_ensure

section "format"
cargo fmt --check
echo formatted

section "scripts"
for script in $(git ls-files --cached --others --exclude-standard '*.sh' .ci/run); do
    bash -n "$script"
done
echo "all parse"

section "links"
hack/lib/links.sh

section "clippy"
cargo clippy --quiet --all-targets --features lab -- -D warnings
echo clean

section "generated files"
hack/lib/generated.sh

section "chart"
hack/lib/chart.sh lint

section "tests"
# A part that is missing here is a mistake, not a reason to skip: the tools were just built.
# Most tests wait for servers most of the time, so more of them run at once than there are cores.
CI=true RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --features lab "$@"
