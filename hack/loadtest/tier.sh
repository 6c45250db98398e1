#!/usr/bin/env bash
# Runs a tier of the load tests from end to end on a control plane, a PostgreSQL and a git server of its own: objects are
# applied, collected, exported, verified, changed for a while, parts are taken away and given back, and all of it is
# asserted. hack/loadtest/tier.sh 2k|10k|100k [OPTION]..., with the options of `kollect-lab proof`.
#
# 2k asks for KOLECT_LOAD_TEST=1 (or KOLLECT_LOAD_TEST), for it takes minutes; KOLECT_LOAD_TEST_MAX caps its objects.
# 100k takes hours and much memory. It is run by hand: no workflow may call it, which a test checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
    echo "tier.sh: $*" >&2
    exit 2
}

tier=${1-}
[ $# -eq 0 ] || shift
options=(--tier "$tier")
case $tier in
2k)
    [ "${KOLECT_LOAD_TEST:-${KOLLECT_LOAD_TEST-}}" = 1 ] || fail "set KOLECT_LOAD_TEST=1 to run the load test"
    cap=${KOLECT_LOAD_TEST_MAX:-${KOLLECT_LOAD_TEST_MAX:-2000}}
    [[ $cap =~ ^[1-9][0-9]{0,4}$ ]] && [ "$cap" -le 10000 ] ||
        fail "KOLECT_LOAD_TEST_MAX must be a whole number from 1 to 10000, not '$cap'"
    if [ "$cap" -lt 10 ]; then
        options+=(--namespaces 1 --per-namespace "$cap")
    elif [ "$cap" -lt 2000 ]; then
        options+=(--namespaces 10 --per-namespace $((cap / 10)))
    fi
    ;;
10k | 100k) ;;
*) fail "usage: hack/loadtest/tier.sh 2k|10k|100k [OPTION]..." ;;
esac
[[ " $* " == *" --out"[\ =]* ]] || options+=(--out "artifacts/load-test/$tier")

lab=${KOLLECT_LAB-}
if [ -z "$lab" ]; then
    . hack/lib/cargo.sh
    . hack/lib/tools.sh
    tools_ensure
    tools_ensure python || echo "tier.sh: WARNING: the report will have no plots" >&2
    # Binaries of their own, for the next build may come during an hour's soak.
    cargo build --release --features lab --bins
    programs=$(mktemp -d)
    trap 'rm -rf "$programs"' EXIT
    cp "$CARGO_TARGET_DIR/release/kollect" "$CARGO_TARGET_DIR/release/kollect-lab" "$programs/"
    lab=$programs/kollect-lab
fi
"$lab" proof "${options[@]}" "$@"
