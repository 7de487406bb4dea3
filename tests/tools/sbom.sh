#!/usr/bin/env bash
# Prints the software bill of materials of an image, as CycloneDX 1.5: the crates that its program is linked from.
#
#   sbom.sh PROGRAM VERSION DIGEST
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$1 version=$2 digest=$3
triple=$(uname -m)-unknown-linux-gnu
{
  # Procedural macros and build scripts run in the compiler and are not linked.
  cargo tree --locked --package "lb-$program" --target "$triple" --edges normal,no-proc-macro --prefix none --no-dedupe --format $'{p}\t{l}' \
    | sed 's/ (\*)//; s/ ([^)]*)\t/\t/' | LC_ALL=C sort -u
  echo
  awk -F'"' '/^name = / { name = $2 } /^version = / { version = $2 } /^checksum = / { print name "\t" version "\t" $2 }' Cargo.lock
} | jq -Rn --arg program "$program" --arg version "$version" --arg digest "$digest" '
  [inputs] as $lines | ($lines | index("")) as $gap
  | ($lines[$gap + 1:] | map(split("\t") | {key: "\(.[0])@\(.[1])", value: .[2]}) | from_entries) as $sums
  | {
      bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
      metadata: {component: {
        type: "container", "bom-ref": "image", name: $program, version: $version,
        hashes: [{alg: "SHA-256", content: ($digest | ltrimstr("sha256:"))}]
      }},
      components: [
        $lines[:$gap][] | split("\t") as [$package, $license] | ($package | split(" v")) as [$name, $at]
        | {type: "library", "bom-ref": "\($name)@\($at)", name: $name, version: $at, purl: "pkg:cargo/\($name)@\($at)"}
        + (if $license == "" then {} else {licenses: [{expression: ($license | gsub("/"; " OR "))}]} end)
        + (if $sums["\($name)@\($at)"] then {hashes: [{alg: "SHA-256", content: $sums["\($name)@\($at)"]}]} else {} end)
      ]
    }'
