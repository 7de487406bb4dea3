#!/usr/bin/env bash
# Writes a release into target/dist: images and chart package for a registry.
#
#   REGISTRY=registry.example.com/team/lb-operator release.sh
#
# The same sources give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${REGISTRY:-}" ] || { echo "release: set REGISTRY to the registry and path for the images: make release REGISTRY=registry.example.com/team/lb-operator" >&2; exit 2; }
REGISTRY=${REGISTRY%/}
dist=target/dist
rm -rf "$dist"; mkdir -p "$dist/images"
LB_IMAGE_REGISTRY=$REGISTRY LB_IMAGE_DIRECTORY=$dist/images tests/tools/build-images.sh images
tests/tools/package-chart.sh "$REGISTRY" "$dist"
echo "release for $REGISTRY in $dist"
