#!/usr/bin/env bash
# The chart: `lint` looks at it under every set of values that lies with it; `check` compares what is generated for it (the
# copies of the definitions, the table of values) with its sources, and `write` brings that up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/lib/tools.sh

chart=charts/kollect

# Prints the values as tables. A comment above a value is its text, a comment with `##` begins a table.
table() {
    awk '
        /^ *# ## / { sub(/^ *# ## /, ""); printf "\n### %s\n\n| Value | Default | Meaning |\n| --- | --- | --- |\n", $0; text = ""; next }
        /^ *# / { sub(/^ *# /, ""); text = text (text == "" ? "" : " ") $0; next }
        /^ *[A-Za-z0-9]+:/ {
            depth = match($0, /[^ ]/) - 1
            line = substr($0, depth + 1)
            colon = index(line, ":")
            key[depth / 2] = substr(line, 1, colon - 1)
            value = substr(line, colon + 2)
            # Above a map stands what all of it is for.
            if (value == "") { text = ""; next }
            if (text == "") { print "no comment above " $0 > "/dev/stderr"; exit 1 }
            path = key[0]
            for (i = 1; i <= depth / 2; i++) path = path "." key[i]
            printf "| `%s` | `%s` | %s |\n", path, value, text
            text = ""
            next
        }
        { text = "" }
    ' "$chart/values.yaml"
}

# Prints the page with the table of now.
page() {
    sed '/<!-- values: begin -->/q' "$chart/README.md"
    table
    echo
    sed -n '/<!-- values: end -->/,$p' "$chart/README.md"
}

# Prints all definitions as one file, for kustomize and for releases.
definitions() {
    local definition
    echo "# All of crds/ in one file."
    for definition in crds/*.yaml; do
        echo ---
        cat "$definition"
    done
}

generate() {
    local to=$1
    mkdir -p "$to/crds"
    cp crds/*.yaml "$to/crds/"
    page >"$to/README.md"
    definitions >"$to/kollect.dev.yaml"
}

case "${1:-}" in
lint)
    helm=$(tools_path helm)
    for values in "$chart/values.yaml" "$chart"/values-*.yaml "$chart"/ci/*.yaml; do
        "$helm" lint --strict --quiet "$chart" --values "$values"
    done
    echo "$("$helm" lint --strict "$chart" | tail -n 1), under $(ls "$chart"/values*.yaml "$chart"/ci/*.yaml | wc -l) sets of values"
    ;;
check | write)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    generate "$scratch"
    if [ "$1" = write ]; then
        rm -rf "$chart/crds"
        cp -r "$scratch/crds" "$chart/crds"
        cp "$scratch/README.md" "$chart/README.md"
        cp "$scratch/kollect.dev.yaml" config/crd/kollect.dev.yaml
    elif ! diff -ru "$chart/crds" "$scratch/crds" || ! diff -u "$chart/README.md" "$scratch/README.md" ||
        ! diff -u config/crd/kollect.dev.yaml "$scratch/kollect.dev.yaml"; then
        echo "this is not what its sources say: run hack/lib/generated.sh --write and commit" >&2
        exit 1
    fi
    echo "$chart/crds, its table of values and config/crd are fresh"
    ;;
*)
    echo "usage: hack/lib/chart.sh lint|check|write" >&2
    exit 2
    ;;
esac
