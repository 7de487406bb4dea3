#!/usr/bin/env bash
# Pushes images and chart package of a release, with the digests that the release names.
#
#   REGISTRY=registry.example.com/team/lb-operator push.sh
#
#   REGISTRY    as for release.sh
#   DIST        the release; target/dist by default
#   PLAIN_HTTP  1: the registry speaks HTTP
#   CA          certificate of the registry's certificate authority, if it is not a public one
#
# Log in before: `skopeo login HOST` for the images, `helm registry login HOST` for the chart.
set -euo pipefail
stop() { echo "push: $*" >&2; exit 1; }
registry=${REGISTRY:-}; registry=${registry%/}
dist=${DIST:-$(dirname "$0")/../../target/dist}
for program in skopeo helm; do command -v $program >/dev/null || stop "$program is missing: install it"; done
[ -f "$dist/SHA256SUMS" ] || stop "$dist is no release: run make release"
(cd "$dist" && sha256sum --quiet --check SHA256SUMS) || stop "$dist is not as make release wrote it: run it again"
chart=$(echo "$dist"/lb-operator-*.tgz)
version=${chart##*/lb-operator-}; version=${version%.tgz}
grep -qF "$registry/operator:$version@" "$dist/images.txt" && [ -n "$registry" ] \
  || stop "the release in $dist is for $(sed 's|/operator:.*||; q' "$dist/images.txt"): set REGISTRY to that, or run make release again"

images=(copy --quiet --preserve-digests) helm=(push "$chart" "oci://$registry/charts")
if [ "${PLAIN_HTTP:-}" = 1 ]; then images+=(--dest-tls-verify=false); helm+=(--plain-http); fi
if [ -n "${CA:-}" ]; then
  certificates=$(mktemp -d); trap 'rm -rf "$certificates"' EXIT
  cp "$CA" "$certificates/ca.crt"
  images+=(--dest-cert-dir "$certificates"); helm+=(--ca-file "$CA")
fi
for image in operator controller speaker bundle; do
  skopeo "${images[@]}" "oci-archive:$dist/images/$image.tar" "docker://$registry/$image:$version"
  echo "pushed $registry/$image:$version"
done
helm "${helm[@]}"
