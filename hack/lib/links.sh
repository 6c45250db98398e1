#!/usr/bin/env bash
# Checks that every relative link of every Markdown page leads to a file of this repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

pages=0 broken=0
while IFS= read -r page; do
    pages=$((pages + 1))
    # Code blocks hold examples, not links.
    while IFS= read -r link; do
        case $link in
            '' | '#'* | *://* | mailto:*) continue ;;
            /*) file=.${link%%#*} ;;
            *) file=$(dirname "$page")/${link%%#*} ;;
        esac
        if [ ! -e "$file" ]; then
            echo "$page: no such file: $link" >&2
            broken=$((broken + 1))
        fi
    done < <(awk '/^ *```/ {code = !code; next} !code' "$page" | sed 's/`[^`]*`//g' |
        grep -oE '\]\([^) ]+' | sed 's/^](//' || true)
done < <(git ls-files --cached --others --exclude-standard '*.md')

[ "$broken" -eq 0 ] || exit 1
echo "$pages pages, no broken link"
