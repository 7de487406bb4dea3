#!/usr/bin/env bash
# Keeps the compiled registry dependencies of target/ in $LB_CACHE, so that a fresh clone does not compile them again.
#
#   target-cache.sh restore     copies them into a new target directory
#   target-cache.sh save NAME   copies them from the target directory, unless they are kept already; NAME is test or demo
#
# Kept by a hash of Cargo.lock, the profiles and the compiler. Crates of the workspace are left out, and cargo's own fingerprints
# decide about every file that is restored: an entry that does not fit is compiled again. Each clone works on its own copy.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
kept=3
metadata=$(cargo metadata --locked --no-deps --format-version 1 2>/dev/null) || exit 0
command -v jq >/dev/null || exit 0
target=$(jq -r .target_directory <<<"$metadata")
key=$({ rustc --version --verbose; cat Cargo.lock Cargo.toml; } | sha256sum | cut -c1-16)
profiles=(debug release "$(uname -m)-unknown-linux-gnu/release")

restore() {
  [ ! -d "$target/debug/deps" ] || return 0
  local entry
  # The first has more.
  for entry in "$cache/target/$key-test" "$cache/target/$key-demo"; do
    [ -d "$entry" ] || continue
    mkdir -p "$target"
    cp --archive --reflink=auto "$entry/." "$target/"
    touch "$entry"
    return
  done
}

# The workspace's crates and programs, as patterns for tar.
workspace_patterns() {
  jq -r '.packages[] | .name, .targets[].name' <<<"$metadata" | sort -u | while read -r name; do
    printf '%s-????????????????*\nlib%s-????????????????*\n%s-????????????????*\n' "$name" "${name//-/_}" "${name//-/_}"
  done
}

save() {
  local entry=$cache/target/$key-$1
  [ ! -d "$entry" ] && [ -d "$target/debug/deps" ] || return 0
  local part=$entry.part.$$ profile paths=()
  for profile in "${profiles[@]}"; do
    [ ! -d "$target/$profile/deps" ] || paths+=("$profile/deps" "$profile/build" "$profile/.fingerprint")
  done
  mkdir -p "$part"
  tar --create --directory="$target" --no-wildcards-match-slash --exclude-from=<(workspace_patterns) "${paths[@]}" | tar --extract --directory="$part"
  mv -T "$part" "$entry" 2>/dev/null || rm -rf "$part"
  # Bounded: only the newest are kept.
  ls -dt "$cache"/target/*/ | tail -n +$((kept + 1)) | xargs -r rm -rf
}

case ${1:-} in
  restore) restore ;;
  save) save "${2:?name: test or demo}" ;;
  *) echo "usage: $0 restore | save NAME" >&2; exit 2 ;;
esac
