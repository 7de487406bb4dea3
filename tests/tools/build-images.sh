#!/usr/bin/env bash
# Builds the release programs and writes their OCI images into target/images. LB_IMAGE_REGISTRY is the registry and path in their names,
# localhost/lb-operator by default.
#
#   build-images.sh programs          the three programs, static and in the release profile
#   build-images.sh images            one image for each: operator.tar, controller.tar, speaker.tar
#   build-images.sh release-program   the program that plays other releases in upgrade tests
#   build-images.sh releases          its images, in one archive: releases.tar
#
# The same sources give the same bytes: paths are remapped, and archives carry no times. Programs are kept in $LB_CACHE by a hash
# of their sources, the compiler and the flags, so that a fresh clone does not build them again.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
triple=$(uname -m)-unknown-linux-gnu
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
revision=$(git describe --always --abbrev=40 --dirty 2>/dev/null || echo unknown)
target=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
images=${LB_IMAGE_DIRECTORY:-target/images}
registry=${LB_IMAGE_REGISTRY:-localhost/lb-operator}
kept=5

# The packed form of relocations saves 0.8 MB that would be read at start and stay in memory.
# With --target these flags reach the programs alone, not build scripts and macros.
flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"

# programs_directory PATH…: where the programs of these sources are kept.
programs_directory() {
  local hash
  hash=$({
    rustc --version --verbose; echo "$triple $flags"; cat "$0"
    find Cargo.toml Cargo.lock crds runtime dataplane operator "$@" -type f \
      ! -path '*/target/*' ! -path 'dataplane/fuzz/*' ! -path '*/tests/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-16)
  echo "$cache/programs/$hash"
}

# build DIRECTORY COMMAND… : PROGRAM…: builds and keeps programs, unless the directory is there.
build() {
  local out=$1 command=(); shift
  while [ "$1" != : ]; do command+=("$1"); shift; done
  shift
  [ ! -d "$out" ] || { echo "unchanged: $out"; touch "$out"; return 0; }
  RUSTC_WORKSPACE_WRAPPER=$PWD/tests/tools/rustc-remap.sh \
    RUSTFLAGS="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "${command[@]}"
  local part=$out.part.$$ program
  mkdir -p "$part"
  for program in "$@"; do cp "$target/$triple/release/$program" "$part/"; done
  rm -rf "$out"; mv -T "$part" "$out"
  # Bounded: only the newest are kept.
  ls -dt "$cache"/programs/*/ | tail -n +$((kept + 1)) | xargs -r rm -rf
}

mkdir -p "$images"
case ${1:-} in
  programs)
    build "$(programs_directory)" cargo build --release --locked --target "$triple" -p lb-operator -p lb-controller -p lb-speaker \
      : lb-operator lb-controller lb-speaker ;;
  images)
    programs=$(programs_directory)
    for program in operator controller speaker; do
      "$target/debug/image" build --program "$program" --binary "$programs/lb-$program" --registry "$registry" --version "$version" --revision "$revision" \
        --out "$images/$program.tar"
    done ;;
  release-program)
    # Thin LTO links in half of the time; its size and speed do not matter.
    build "$(programs_directory tests/tools/test-releases)" cargo rustc --release --locked --target "$triple" -p lb-test-releases -- -C lto=thin \
      : lb-test-releases ;;
  releases)
    "$target/debug/image" releases --binary "$(programs_directory tests/tools/test-releases)/lb-test-releases" --out "$images/releases.tar" ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" | head -n 12; exit 2 ;;
esac
