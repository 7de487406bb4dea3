#!/usr/bin/env bash
# Checks the documents: links and anchors resolve, docs/SUMMARY.md has every page once, prose lines have at most 120 characters.
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t pages < <(git ls-files --cached --others --exclude-standard -- '*.md' ':!olm/src/*' ':!.github/*')

# PAGE<TAB>LINE<TAB>KIND<TAB>TEXT of each heading's anchor, as GitHub makes it, and of each link, outside of code.
facts=$(LC_ALL=C awk '
  # In characters: awk counts bytes, and UTF-8 has bytes that continue a character.
  function characters(text) { gsub(/[\200-\277]/, "", text); return length(text) }
  function slug(text) {
    text = tolower(text)
    gsub(/\]\([^)]*\)/, "", text); gsub(/[^a-z0-9 _-]/, "", text); gsub(/ /, "-", text)
    return text
  }
  FNR == 1 { fenced = 0 }
  /^ *```/ { fenced = !fenced; next }
  fenced { next }
  /^#+ / { text = $0; sub(/^#+ /, "", text); print FILENAME "\t" FNR "\tanchor\t" slug(text) }
  characters($0) > 120 && !/^ *\|/ && !/\]\(/ { print FILENAME "\t" FNR "\tlong\t" characters($0) }
  {
    gsub(/`[^`]*`/, "")
    while (match($0, /\]\([^)]*\)/)) {
      print FILENAME "\t" FNR "\tlink\t" substr($0, RSTART + 2, RLENGTH - 3)
      $0 = substr($0, RSTART + RLENGTH)
    }
  }
' "${pages[@]}")

problems=$(
  awk -F '\t' '$3 == "long" { print $1 ":" $2 ": " $4 " characters: break the line at 120" }' <<<"$facts"
  while IFS=$'\t' read -r page line _ link; do
    case $link in *://* | mailto:*) continue ;; esac
    file=${link%%#*} anchor=
    [ "$file" = "$link" ] || anchor=${link#*#}
    if [ -n "$file" ]; then target=$(realpath --relative-to=. --canonicalize-missing "$(dirname "$page")/$file"); else target=$page; fi
    if [ ! -e "$target" ]; then
      echo "$page:$line: $link: no file $target"
    elif [ -n "$anchor" ] && ! grep -qxF "$target"$'\t'"$anchor" <<<"$(awk -F '\t' '$3 == "anchor" { print $1 "\t" $4 }' <<<"$facts")"; then
      echo "$page:$line: $link: no heading with this anchor in $target"
    fi
  done < <(awk -F '\t' '$3 == "link"' <<<"$facts")
  for page in docs/*.md; do
    [ "$page" != docs/SUMMARY.md ] || continue
    count=$(grep -cF "](${page#docs/})" docs/SUMMARY.md || true)
    [ "$count" = 1 ] || echo "docs/SUMMARY.md: has $page $count times: add it once"
  done
)
[ -z "$problems" ] || { echo "$problems" >&2; exit 1; }
echo "${#pages[@]} documents: links, anchors and lines are fine"
