#!/usr/bin/env bash
# Writes the README of the chart: how to install it, and a table of all values from the comments in values.yaml.
set -euo pipefail
cd "$(dirname "$0")/../../charts/lb-operator"
{
  cat <<'HEAD'
# lb-operator

Load balancer for bare-metal Kubernetes: Services of `type: LoadBalancer` get an address that machines on the LAN can
reach. This chart installs the operator; a `LoadBalancerStack` installs controller and speakers. A drop-in replacement
for MetalLB in layer 2 mode.

**Alpha:** the API `v1alpha1` may still change, and BGP is a first version. Not affiliated with
MetalLB or endorsed by it; MetalLB's names are used to be compatible.

## Install

Kubernetes 1.31 or newer, and Helm 3. `PACKAGE` is a chart package made by `make release REGISTRY=…`, which has the
registry of the images in it; with the chart's sources, set `image.registry`.

```bash
helm install lb-operator PACKAGE --namespace lb-operator-system --create-namespace --wait
kubectl apply -f - <<'EOF'
apiVersion: lb-operator.io/v1alpha1
kind: LoadBalancerStack
metadata:
  name: default
spec: {}
EOF
kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s
```

Then create an IPAddressPool and an L2Advertisement in namespace `metallb-system`. To prove the installation:
`helm test lb-operator --namespace lb-operator-system`.

## Uninstall

`helm uninstall lb-operator --namespace lb-operator-system` leaves the stack running and keeps the CRDs. To remove
everything, delete the stack first. Kept CRDs belong to the former release: to install again under another release name
or namespace, add `--take-ownership` (Helm 3.17 or newer).

## Values

| value | default | description |
| --- | --- | --- |
HEAD
  awk '
    function flush() {
      if (key == "") return
      if (value == "" && nested) return
      gsub(/\|/, "\\|", text)
      print "| `" key "` | " (value == "" ? "a list: see values.yaml" : "`" value "`") " | " text " |"
    }
    /^ *$/ { comment = ""; next }
    /^ *#/ { sub(/^ *# ?/, ""); comment = comment (comment == "" ? "" : " ") $0; next }
    match($0, /^ *[A-Za-z][A-Za-z0-9]*:/) {
      indent = match($0, /[^ ]/) - 1; depth = indent / 2
      # A field of a list item.
      if (list >= 0 && indent > list) next
      name = $0; sub(/^ */, "", name); rest = name; sub(/:.*/, "", name); sub(/^[^:]*: */, "", rest); if (rest ~ /:$/) rest = ""
      path[depth] = name; full = path[0]; for (i = 1; i <= depth; i++) full = full "." path[i]
      if (key != "") { nested = (depth > last && list < 0); flush() }
      key = full; value = rest; text = comment; comment = ""; last = depth; list = -1
      next
    }
    /^ *-/ { if (list < 0) list = match($0, /[^ ]/) - 1; next }
    BEGIN { list = -1 }
    END { nested = 0; flush() }
  ' values.yaml
} >README.md
