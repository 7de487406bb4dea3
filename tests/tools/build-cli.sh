#!/usr/bin/env bash
# Builds kubectl-lb for this machine's ordinary target. The static target of the images resolves no host names, and kubeconfigs
# name hosts.
#
#   build-cli.sh copy [PROFILE] DIRECTORY     copies it there, with its completion scripts; PROFILE is release or debug
#   build-cli.sh link                         links the debug build into $LB_CACHE/bin, where the scenarios find it
#
# Kept in $LB_CACHE by a hash of the sources, the compiler and the flags, as the programs of the images.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
kept=3
action=${1:-}; shift || true
profile=release
case ${1:-} in release | debug) profile=$1; shift ;; esac
[ "$action" != link ] || profile=debug

hash=$({
  rustc --version --verbose; echo "$profile"; cat "$0"
  find Cargo.toml Cargo.lock cli crds runtime dataplane operator -type f ! -path '*/target/*' ! -path 'dataplane/fuzz/*' ! -path '*/tests/*' -print0 \
    | LC_ALL=C sort -z | xargs -0 sha256sum
} | sha256sum | cut -c1-16)
out=$cache/cli/$profile-$hash

build() {
  local target
  target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  if [ "$profile" = debug ]; then
    # All of the workspace is named, so that dependencies have the same features as in every other build.
    cargo build --locked --workspace --bin kubectl-lb
  else
    RUSTC_WORKSPACE_WRAPPER=$PWD/tests/tools/rustc-remap.sh RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
      cargo build --locked --release -p lb-cli
  fi
  local part=$out.part.$$
  mkdir -p "$part"
  cp "$target/$profile/kubectl-lb" "$part/"
  rm -rf "$out"; mv -T "$part" "$out"
  # Bounded: only the newest are kept.
  ls -dt "$cache"/cli/*/ | tail -n +$((kept + 1)) | xargs -r rm -rf
}

case $action in copy | link) ;; *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | head -n 7; exit 2 ;; esac
if [ -x "$out/kubectl-lb" ]; then touch "$out"; else build; fi
case $action in
  copy)
    directory=${1:?directory}
    mkdir -p "$directory"
    install -m 755 "$out/kubectl-lb" "$directory/"
    "$out/kubectl-lb" completion bash >"$directory/kubectl-lb.bash"
    "$out/kubectl-lb" completion zsh >"$directory/_kubectl-lb"
    "$out/kubectl-lb" completion fish >"$directory/kubectl-lb.fish" ;;
  link) mkdir -p "$cache/bin"; ln -sfn "$out/kubectl-lb" "$cache/bin/kubectl-lb" ;;
esac
