#!/usr/bin/env bash
# Builds the fuzz targets and runs each for FUZZ_SECONDS (default 60), starting from its corpus.
#   run.sh [TARGET…]             runs the targets, by default all
#   run.sh minimize [TARGET…]    replaces the committed corpora by a minimal set of inputs with the same coverage
# New inputs are kept in target/fuzz/found. A failing input is written to target/fuzz/failed and ends the run.
set -euo pipefail
cd "$(dirname "$0")"

host=$(rustc -vV | sed -n 's/^host: //p')
out=$(cd ../.. && pwd)/target/fuzz
pass="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
pass+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
pass+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target, build scripts are not instrumented.
RUSTFLAGS=$pass cargo build --quiet --release --locked --manifest-path runner/Cargo.toml --target "$host" --target-dir "$out"

minimize=false
if [[ ${1:-} == minimize ]]; then minimize=true; shift; fi
targets=("$@")
if ((${#targets[@]} == 0)); then
    for source in runner/src/bin/*.rs; do targets+=("$(basename "$source" .rs)"); done
fi

for target in "${targets[@]}"; do
    program=$out/$host/release/$target
    found=$out/found/$target
    failed=$out/failed/$target
    mkdir -p "$found" "$failed"
    limits=(-rss_limit_mb=512 -timeout=10 -max_len=2048 "-artifact_prefix=$failed/")
    if $minimize; then
        small=$(mktemp -d)
        "$program" "${limits[@]}" -merge=1 "$small" "corpus/$target" "$found" 2>&1 | tail -1
        rm -rf "corpus/$target" && mv "$small" "corpus/$target" && chmod 755 "corpus/$target"
    else
        printf '%s: ' "$target"
        log=$out/$target.log
        if ! "$program" "${limits[@]}" -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 "$found" "corpus/$target" >"$log" 2>&1; then
            tail -40 "$log"
            exit 1
        fi
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
        edges=$(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$log")
        echo "$runs runs, $rate a second, $edges edges covered, nothing failed"
    fi
done
