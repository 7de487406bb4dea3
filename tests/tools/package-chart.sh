#!/usr/bin/env bash
# Packages the chart with a registry in it, so that it installs without a value.
#
#   package-chart.sh REGISTRY OUT [VERSION]
#
#   REGISTRY   registry and path of the images: registry.example.com/team/lb-operator
#   OUT        the directory to write lb-operator-VERSION.tgz to
#   VERSION    version of chart and images; the chart's own by default
#
# Prints the path of the package. The same chart gives the same bytes, unlike with `helm package`.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
chart=$(cd "$(dirname "$0")/../../charts/lb-operator" && pwd)
registry=${1%/} out=$2
version=${3:-$(sed -n 's/^version: //p' "$chart/Chart.yaml")}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

cp -R "$chart" "$work/lb-operator"
cd "$work"
# As .helmignore says.
while read -r ignored; do rm -rf "lb-operator/${ignored:?}"; done <lb-operator/.helmignore
rm lb-operator/.helmignore
mkdir -p lb-operator/files/crds
cp "$chart"/../../crds/metallb.io_*.yaml lb-operator/files/crds/
sed -i "s/^\(version\|appVersion\): .*/\1: $version/" lb-operator/Chart.yaml
sed -i "s|^  registry: \"\"$|  registry: \"$registry\"|" lb-operator/values.yaml
grep -qxF "  registry: \"$registry\"" lb-operator/values.yaml || { echo "package-chart: values.yaml has no line for image.registry" >&2; exit 1; }
tar --create --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX lb-operator \
  | gzip --no-name -9 >package
case $out in /*) ;; *) out=$OLDPWD/$out ;; esac
mkdir -p "$out"
# Renamed when complete: another process may read the same package.
mv package "$out/.lb-operator-$version.tgz.$$"
mv "$out/.lb-operator-$version.tgz.$$" "$out/lb-operator-$version.tgz"
echo "$out/lb-operator-$version.tgz"
