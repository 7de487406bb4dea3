#!/usr/bin/env bash
# Writes a release into target/dist: everything that somebody needs to install and check it.
#
#   REGISTRY=registry.example.com/team/lb-operator release.sh
#
#   REGISTRY   registry and path of the images; push.sh brings them there
#   DIST       the directory to write; target/dist by default
#   CLI_PROFILE   release by default; tests set debug, because a release build of kubectl-lb takes minutes
#
# The same commit gives the same bytes. `make image` builds the programs before.
set -euo pipefail
cd "$(dirname "$0")/../.."
stop() { echo "release: $*" >&2; exit 1; }
registry=${REGISTRY:-}; registry=${registry%/}
[ -n "$registry" ] || stop "set REGISTRY to the registry and path of the images: make release REGISTRY=registry.example.com/team/lb-operator"
for program in helm jq cargo; do command -v $program >/dev/null || stop "$program is missing: install it"; done
dist=${DIST:-target/dist}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
target=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
image=$target/debug/image
programs=(operator controller speaker)
# Of the images: this machine's, or those of an index that was joined from several machines: ARCHITECTURES="amd64 arm64".
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) stop "unsupported architecture $(uname -m): build on x86_64 or aarch64" ;; esac
read -ra architectures <<<"${ARCHITECTURES:-$architecture}"
namespace=lb-operator-system
# A directory that is not a release is never removed.
[ ! -e "$dist" ] || [ -f "$dist/SHA256SUMS" ] || stop "$dist exists and is no release: remove it"
rm -rf "$dist"; mkdir -p "$dist"/{images,sbom,crds,olm}
touch "$dist/SHA256SUMS"

LB_IMAGE_REGISTRY=$registry LB_IMAGE_DIRECTORY=$dist/images tests/tools/build-images.sh images

# --- What Helm and kubectl install
chart=$(tests/tools/package-chart.sh "$registry" "$dist")
manifest=$dist/lb-operator-$version.yaml
{
  printf '# lb-operator %s: kubectl apply --server-side -f %s\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n' \
    "$version" "${manifest##*/}" "$namespace"
  helm template lb-operator "$chart" --namespace "$namespace" --no-hooks | sed '/^ *helm\.sh\/chart: /d; /^ *app\.kubernetes\.io\/managed-by: Helm$/d'
} >"$manifest"
cp crds/*.yaml "$dist/crds/"
cp charts/lb-operator/examples/stack.yaml "$dist/"

# --- The command line
tests/tools/build-cli.sh copy "${CLI_PROFILE:-release}" "$dist/cli"

# --- Digests: of each image, for mirrors, and as values that pin them
declare -A digest
for program in "${programs[@]}"; do digest[$program]=$("$image" digest "$dist/images/$program.tar"); done
for program in "${programs[@]}"; do echo "$registry/$program:$version@${digest[$program]}"; done >"$dist/images.txt"
{
  echo "# Pins the images by digest: helm install lb-operator PACKAGE --values values-digests.yaml"
  echo "image:"
  for program in "${programs[@]}"; do printf '  %s: {digest: "%s"}\n' "$program" "${digest[$program]}"; done
} >"$dist/values-digests.yaml"

# --- OLM: bundle, its image, and the catalog, which names that image
bundlegen() {
  cargo run --quiet --locked -p lb-olm --bin bundlegen -- --out "$dist/olm" --registry "$registry" --created-at "$(git log -1 --format=%cI)" \
    "${architectures[@]/#/--architecture=}" $(for program in "${programs[@]}"; do echo "--digest $program=${digest[$program]}"; done) "$@" 2> >(grep -v "^wrote " >&2)
}
bundlegen
tree=$(mktemp -d); trap 'rm -rf "$tree"' EXIT
cp -R "$dist"/olm/bundle/{manifests,metadata,tests} "$tree/"
chmod -R u=rwX,go=rX "$tree"
labels=()
while IFS= read -r label; do labels+=(--label "$label"); done < <(sed -n 's/^LABEL //p' "$dist/olm/bundle.Dockerfile")
"$image" pack --name "$registry/bundle:$version" --root "$tree" --out "$dist/images/bundle.tar" "${labels[@]}"
bundlegen --bundle-image "$registry/bundle@$("$image" digest "$dist/images/bundle.tar")"

# --- What is inside, and what is new
for program in "${programs[@]}"; do
  tests/tools/sbom.sh "$program" "$version" "${digest[$program]}" >"$dist/sbom/$program.cdx.json"
done
awk -v version="$version" '/^## / { inside = index($0, version) > 0; next } inside' CHANGELOG.md | sed '/./,$!d' >"$dist/RELEASE_NOTES.md"
[ -s "$dist/RELEASE_NOTES.md" ] || stop "CHANGELOG.md has no section for $version"
cp LICENSE "$dist/"

rm "$dist/SHA256SUMS"
sums=$(cd "$dist" && find . -type f | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum)
echo "$sums" >"$dist/SHA256SUMS"
echo "release $version for $registry: $dist"
