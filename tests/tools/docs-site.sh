#!/usr/bin/env bash
# Builds the documents as a site with search, in target/site. mdBook is built from its crate once, into the cache.
set -euo pipefail
version=0.5.4
cd "$(dirname "$0")/../.."
root=$PWD
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
mdbook=$cache/mdbook-$version/bin/mdbook
if [ ! -x "$mdbook" ]; then
  echo "building mdBook $version (first run only; about 5 min)"
  cargo install --quiet --locked --version "$version" --no-default-features --features search --root "$cache/mdbook-$version" mdbook
fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
# The layout of the repository, so that links between pages work as they are. Pages are those of docs/SUMMARY.md.
mkdir -p "$work/src/docs"
cp -R docs/images "$work/src/docs/"
cat >"$work/book.toml" <<'BOOK'
[book]
title = "lb-operator"
language = "en"
src = "src"
[build]
# README.md stays README.html, as links say.
use-default-preprocessors = false
[output.html]
default-theme = "light"
preferred-dark-theme = "navy"
no-section-label = true
[output.html.search]
limit-results = 20
BOOK
sed 's|](|](docs/|; s|](docs/\.\./|](|' docs/SUMMARY.md >"$work/src/SUMMARY.md"
pages=$(grep -o '](.*)' "$work/src/SUMMARY.md" | tr -d '](\)')
for page in $pages; do mkdir -p "$work/src/$(dirname "$page")"; cp "$page" "$work/src/$page"; done
# Links to files that are not pages, such as sources, become text.
for page in $pages; do
  links=$(grep -o '](\([^)#]*\)' "$page" | cut -c3- | grep -v '://' | sort -u || true)
  for link in $links; do
    [ -e "$work/src/$(dirname "$page")/$link" ] || sed -i -z "s|\[\([^]]*\)\]($link[^)]*)|\1|g" "$work/src/$page"
  done
done
"$mdbook" build --dest-dir "$root/target/site" "$work" 2>&1 | grep -iE "warn|error" || true
[ -f "$root/target/site/index.html" ] || { echo "docs-site: mdBook wrote no index.html" >&2; exit 1; }
echo "open target/site/index.html"
