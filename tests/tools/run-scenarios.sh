#!/usr/bin/env bash
# Runs every test of lb-e2e. Scenarios run two at a time, each in a process of its own, because they mostly wait: a running
# lab takes half a processor or more. Only one lab at a time starts, which takes a whole processor for 15 seconds.
# The ones that took longest in the last run start first, so that none of them is left for the end alone.
set -euo pipefail
cd "$(dirname "$0")/../e2e"
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
logs=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/scenarios
durations=$cache/scenario-durations
# All of the workspace is named, so that dependencies have the same features in every build.
built=$(cargo test --quiet --workspace --locked --no-run --lib --test scenarios --message-format=json)
executable() { jq -r "select(.executable and .target.name == \"$1\").executable" <<<"$built"; }
program=$(executable scenarios)
rm -rf "$logs"; mkdir -p "$logs"; touch "$durations"

run() {
  local name=$1 start=$SECONDS log=$logs/${1//::/-}.log outcome=ok
  "$program" --exact "$name" --nocapture >"$log" 2>&1 || outcome=FAILED
  printf '%-6s %4d s  %s\n' $outcome $((SECONDS - start)) "$name"
  [ $outcome = ok ] || { tail -n 60 "$log"; echo "the whole output is in $log"; exit 1; }
}
export -f run; export program logs

"$(executable lb_e2e)"

# NAME SECONDS of the last run; a scenario that is not in there comes first.
"$program" --list --format terse | sed -n 's/: test$//p' \
  | awk -v file="$durations" 'BEGIN { while ((getline < file) > 0) last[$1] = $2 } { print ($1 in last ? last[$1] : 99999), $1 }' \
  | sort -rn | cut -d' ' -f2 >"$logs/order"
[ -s "$logs/order" ] || { echo "run-scenarios: $program lists no scenario" >&2; exit 1; }
outcome=0
xargs -P 2 -I{} bash -euo pipefail -c 'run {}' <"$logs/order" | tee "$logs/summary" || outcome=$?
awk '$1 == "ok" { print $4, $2 }' "$logs/summary" >"$durations"
echo "scenarios: $(grep -c '^ok ' "$logs/summary") passed, $(grep -c '^FAILED ' "$logs/summary" || true) failed, in $SECONDS s"
exit $outcome
