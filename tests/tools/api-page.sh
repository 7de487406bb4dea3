#!/usr/bin/env bash
# Writes docs/api.md: every field of every kind, from the CRDs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}/bin:$PATH
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# Helm reads YAML, and jq reads what it writes.
mkdir -p "$work/chart/templates"
cp crds/*.yaml "$work/chart/"
printf 'apiVersion: v2\nname: crds\nversion: 0.0.0\n' >"$work/chart/Chart.yaml"
printf '{{ range $path, $text := .Files.Glob "*_*.yaml" }}{{ toString $text | fromYaml | toJson }}\n{{ end }}' >"$work/chart/templates/json.yaml"
helm template crds "$work/chart" | grep '^{' >"$work/crds.json"

# fields KIND PART: the fields of spec or status, one row each. Pod fields of Kubernetes are not expanded.
fields() {
  echo "| field | type | description |"
  echo "| --- | --- | --- |"
  jq -r --arg kind "$1" --arg part "$2" '
    def text: (. // "") | gsub("\n+- "; "; ") | gsub("\n+"; " ") | gsub("values:; "; "values: ") | gsub("\\.; "; "; ") | gsub("\\|"; "\\|") | gsub("<"; "&lt;");
    def type:
      if .["x-kubernetes-int-or-string"] then "number or text"
      elif .enum then [.enum[] | select(. != null) | "`\(.)`"] | join(", ")
      elif .type == "array" then "list of " + (.items | if .type == "object" then "objects" else .type end)
      elif .additionalProperties then "map"
      else .type end;
    def as_in_kubernetes: IN("affinity", "tolerations", "topologySpreadConstraints", "resources", "matchExpressions", "conditions");
    def rows(prefix):
      (.properties // {}) | to_entries[] | .key as $name | .value |
      (prefix + $name) as $path |
      "| `\($path)` | \(type) | \(.description | text) |",
      (if $name | as_in_kubernetes then empty
       elif .properties then rows($path + ".")
       elif .items.properties? then (.items | rows($path + "[]."))
       else empty end);
    select(.spec.names.kind == $kind) | .spec.versions[] | select(.storage) |
    .schema.openAPIV3Schema.properties[$part] | rows($part + ".")
  ' "$work/crds.json"
}

{
  cat <<'PAGE'
# API reference

Every field of every kind, from the CRDs: `tests/tools/api-page.sh` writes this page, and a test fails if it is stale.
The cluster has it too: `kubectl explain lbs.spec --recursive`. Rules that compare fields are checked by the API server
with a message of their own. `affinity`, `tolerations` and `conditions` are those of Kubernetes.

The kinds of `metallb.io` are MetalLB's, with the same fields. Annotations: [guide](guide.md#production).

## LoadBalancerStack

`lb-operator.io/v1alpha1`, cluster-wide, one object named `default`.

### spec

PAGE
  fields LoadBalancerStack spec
  printf '\n### status\n\n'
  fields LoadBalancerStack status
  printf '\n## IPAddressPool\n\n`metallb.io/v1beta1`, in the namespace of the stack.\n\n'
  fields IPAddressPool spec
  fields IPAddressPool status | tail -n +3
  printf '\n## L2Advertisement\n\n`metallb.io/v1beta1`, in the namespace of the stack.\n\n'
  fields L2Advertisement spec
  fields L2Advertisement status | tail -n +3
  printf '\n## BGPPeer\n\n`metallb.io/v1beta2`, and deprecated `v1beta1`, in the namespace of the stack.\n\n'
  fields BGPPeer spec
  fields BGPPeer status | tail -n +3
  for kind in BGPAdvertisement BFDProfile Community; do
    printf '\n## %s\n\n`metallb.io/v1beta1`, in the namespace of the stack.\n\n' $kind
    fields $kind spec
    fields $kind status | tail -n +3
  done
  printf '\n## ServiceL2Status\n\n`metallb.io/v1beta1`, written by speakers only.\n\n'
  fields ServiceL2Status status
  printf '\n## ConfigurationState\n\n`metallb.io/v1beta1`, written by controller and speakers only.\n\n'
  fields ConfigurationState status
} >"$work/page"
mv "$work/page" docs/api.md
