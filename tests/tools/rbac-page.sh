#!/usr/bin/env bash
# Writes docs/rbac.md: the rules of the chart's roles with the comment above each, and those that the operator grants to
# controller and speakers, from the snapshot of its tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}/bin:$PATH

# table FILE REASONS: the rules below `rules:`, one row each. A comment `PROGRAMS: reason` is for the rules below it, up to the
# next comment. Without comments, the file REASONS has lines RESOURCES|VERBS|REASON.
table() {
  echo "| API group | resources | names | verbs |$([ $# = 2 ] || echo " needed by |") for |"
  echo "| --- | --- | --- | --- |$([ $# = 2 ] || echo " --- |") --- |"
  awk -v reasons="${2:-}" '
    function list(text) { gsub(/[][" \047]/, "", text); gsub(/,/, ", ", text); return text }
    function flush(  key, why) {
      if (group == "-") return
      if (reasons != "") {
        key = resources "|" verbs
        if (!(key in reason)) { print "no reason for " key > "/dev/stderr"; failed = 1 }
        why = reason[key]; delete reason[key]
      } else { who = " | " text; sub(/:.*/, "", who); why = text; sub(/^[^:]*: /, "", why) }
      if (why == "") { print "no reason for " resources > "/dev/stderr"; failed = 1 }
      print "| " (group == "" ? "core" : group) " | " resources " | " names " | " verbs who " | " why " |"
      group = "-"
    }
    BEGIN {
      group = "-"
      if (reasons != "") while ((getline line < reasons) > 0) { split(line, part, "|"); reason[part[1] "|" part[2]] = part[3] }
    }
    /^rules:/ { inside = 1; next }
    !inside { next }
    /^[^ -]/ { flush(); inside = 0; next }
    /^ *#/ { flush(); sub(/^ *# /, ""); text = (continues ? text " " : "") $0; continues = 1; next }
    { continues = 0 }
    /^ *- apiGroups:/ { flush(); group = list(substr($0, index($0, ":") + 1)); resources = names = verbs = ""; field = "group"; next }
    /^ *apiGroups:/ { field = "group"; next }
    /^ *resources:/ { field = "resources"; resources = list(substr($0, index($0, ":") + 1)); next }
    /^ *resourceNames:/ { field = "names"; names = list(substr($0, index($0, ":") + 1)); next }
    /^ *verbs:/ { field = "verbs"; verbs = list(substr($0, index($0, ":") + 1)); next }
    /^ *- / {
      item = $0; sub(/^ *- /, "", item); item = list(item)
      if (field == "group") group = group == "" ? item : group ", " item
      if (field == "resources") resources = resources == "" ? item : resources ", " item
      if (field == "names") names = names == "" ? item : names ", " item
      if (field == "verbs") verbs = verbs == "" ? item : verbs ", " item
      next
    }
    END {
      flush()
      for (key in reason) { print "no rule for the reason of " key > "/dev/stderr"; failed = 1 }
      exit failed
    }
  ' "$1"
}

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
template() {
  helm template lb-operator charts/lb-operator --namespace lb-operator-system --set image.registry=r.example.com/lb,rbac.adoption=true \
    --show-only "templates/$1.yaml"
}
# document NAME: the document with this kind and name.
document() { awk -v kind="$1" -v name="$2" 'BEGIN { RS = "\n?---\n" } $0 ~ "(^|\n)kind: " kind "\n" && $0 ~ "\n  name: " name "\n"'; }
# granted KIND NAME: a role that the operator makes.
granted() { document "$1" "$2" <operator/tests/snapshots/render__empty_spec.snap >"$work/granted"; table "$work/granted" "$work/reasons"; }

for role in clusterrole clusterrole-adoption role; do template "$role" >"$work/$role"; done
template clusterroles-users | document ClusterRole lb-operator-view >"$work/view"
template clusterroles-users | document ClusterRole lb-operator-edit >"$work/edit"

{
  cat <<'PAGE'
# Permissions

Every rule of every role, with its reason. `tests/tools/rbac-page.sh` writes this page from the chart and from what the
operator creates; a test fails if it is stale. Misuse of each role: [security](security.md).

The operator has the permissions of controller and speakers too, because Kubernetes lets a client grant only what it
has itself. A write permission without names is explained in [security](security.md).

## Operator

ClusterRole `lb-operator`, the name of the release, bound to the operator's ServiceAccount:

PAGE
  table "$work/clusterrole"
  cat <<'PAGE'

Role `lb-operator` in the namespace of the operator:

PAGE
  table "$work/role"
  cat <<'PAGE'

ClusterRole `lb-operator-adoption`, only with `rbac.adoption=true`, for a [migration](adoption.md):

PAGE
  table "$work/clusterrole-adoption"
  cat <<'PAGE'

## Controller

ClusterRole `metallb-controller`:

PAGE
  cat >"$work/reasons" <<'REASONS'
services|get, list, watch|which Services want an address
services/status|patch|writes address and conditions
namespaces, nodes|get, list, watch|pools select namespaces; addresses of nodes are not assigned
events|create, patch|publishes events
REASONS
  granted ClusterRole metallb-controller
  cat <<'PAGE'

Role `lb-controller` in the namespace of the stack:

PAGE
  cat >"$work/reasons" <<'REASONS'
ipaddresspools, l2advertisements|get, list, watch|its configuration
ipaddresspools/status, l2advertisements/status|patch|writes conditions and counters
servicel2statuses|list, watch|repeats the reports of the speakers on the Services
pods|list, watch|does not repeat the report of a speaker that is gone
configurationstates|create|its report about the configuration
configurationstates|get, list, watch|the same
configurationstates/status|patch|the same
leases|create|leader election
leases|get, list, watch, update, patch|leader election
REASONS
  granted Role lb-controller
  cat <<'PAGE'

## Speaker

ClusterRole `metallb-speaker`:

PAGE
  cat >"$work/reasons" <<'REASONS'
services, nodes|get, list, watch|addresses to announce, and which nodes are eligible
endpointslices|get, list, watch|which nodes have ready endpoints
events|create, patch|publishes events
REASONS
  granted ClusterRole metallb-speaker
  cat <<'PAGE'

Role `lb-speaker` in the namespace of the stack:

PAGE
  cat >"$work/reasons" <<'REASONS'
ipaddresspools, l2advertisements|get, list, watch|its configuration
bgppeers, bgpadvertisements, bfdprofiles, communities|get, list, watch|its configuration of BGP
pods|get, list, watch|the other speakers, and whether they are ready
servicel2statuses|get, list, watch, create, update, patch, delete|reports which node announces the address
servicel2statuses/status|update, patch|the same
configurationstates|create, patch|reports peers that it does not hear
configurationstates/status|patch|the same
REASONS
  granted Role lb-speaker
  cat <<'PAGE'

On its node a speaker also has the capability `NET_RAW` and the host network: no Kubernetes permission.

## Users

ClusterRole `lb-operator-view`, part of `view`, `edit` and `admin` of Kubernetes unless `rbac.aggregate=false`:

PAGE
  table "$work/view"
  cat <<'PAGE'

ClusterRole `lb-operator-edit`, part of `edit` and `admin`:

PAGE
  table "$work/edit"
} >"$work/page"
mv "$work/page" docs/rbac.md
