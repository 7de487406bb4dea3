#!/usr/bin/env bash
# RUSTC_WORKSPACE_WRAPPER of build-images.sh: keeps the path of the clone out of the programs. Registry crates are compiled
# without it, so those that target-cache.sh has kept fit a clone at any path.
exec "$@" --remap-path-prefix="$PWD=/src"
