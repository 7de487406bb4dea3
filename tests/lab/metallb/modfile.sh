#!/usr/bin/env bash
# MetalLB's speaker needs a newer frr-k8s than module mirrors have. This adds the two declarations that it misses to a copy,
# and writes a go.mod that uses the copy. Only the frr-k8s mode uses them: the lab runs the native mode.
#
#   modfile.sh DIRECTORY    writes go.mod, go.sum and the copy there
set -euo pipefail
out=$1
cd "$(dirname "$0")"
module=github.com/metallb/frr-k8s types=api/v1beta1/frrconfiguration_types.go
cp --recursive --no-preserve=mode "$(go list -mod=mod -m -f '{{.Dir}}' $module)" "$out/frr-k8s"
sed -i 's/^type Advertise struct {$/&\n\tPrefixesWithAsPathPrepend []AsPathPrependPrefixes `json:"withAsPathPrepend,omitempty"`\n/' "$out/frr-k8s/$types"
cat >>"$out/frr-k8s/$types" <<'GO'

// AsPathPrependPrefixes is a list of prefixes with a longer path.
type AsPathPrependPrefixes struct {
	Prefixes      []string `json:"prefixes,omitempty"`
	AsPathPrepend uint8    `json:"asPathPrepend,omitempty"`
}
GO
cp go.mod go.sum "$out/"
go mod edit -replace "$module=$out/frr-k8s" "$out/go.mod"
