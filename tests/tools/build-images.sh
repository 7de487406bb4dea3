#!/usr/bin/env bash
# Builds the three programs, static and in the release profile, and writes one OCI image for each into target/images; and
# releases.tar beside them, with releases of other versions for the tests of upgrades.
# The same sources give the same bytes: paths are remapped, and the archives carry no times.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(uname -m)-unknown-linux-gnu
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
revision=$(git describe --always --abbrev=40 --dirty 2>/dev/null || echo unknown)
images=target/images
mkdir -p "$images"

# Relocations in their packed form: the other takes 0.8 MB, every page of which is read at start and stays in memory.
# With --target these flags reach the programs alone, not build scripts and macros.
export RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs --remap-path-prefix=$PWD=/src --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cargo build --release --locked --target "$target" -p lb-operator -p lb-controller -p lb-speaker
# Nobody measures this one: optimised at link time in the way that takes less time.
cargo rustc --release --locked --target "$target" -p lb-test-releases -- -C lto=thin
unset RUSTFLAGS

# All of the workspace, so that the tests find its parts built with the same features.
cargo build --workspace --locked
for program in operator controller speaker; do
  target/debug/image build --program "$program" --binary "target/$target/release/lb-$program" \
    --version "$version" --revision "$revision" --out "$images/$program.tar"
done
target/debug/image releases --binary "target/$target/release/lb-test-releases" --out "$images/releases.tar"
