#!/bin/sh
# Run one libFuzzer target from its seeds and findings. What it finds is left in tests/fuzz/findings/TARGET, to be committed with its fix; the corpus that it
# grows stays beside the program. Says how many executions it reached.
# usage: fuzz.sh TARGET PROGRAM SECONDS   FUZZ_FLAGS adds options of libFuzzer
set -eu
target=$1 program=$2 seconds=$3
corpus=$program.corpus
mkdir -p "$corpus"
dictionary=
case $target in model | load) dictionary=-dict=tests/fuzz/model.dict ;; esac
log=$program.log
# A model takes at most 64 times its header, so 1 GiB is never needed.
if ! "$program" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -max_len=4096 -print_final_stats=1 $dictionary ${FUZZ_FLAGS:-} \
    -artifact_prefix="tests/fuzz/findings/$target/" "$corpus" "tests/fuzz/seeds/$target/" "tests/fuzz/findings/$target/" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "fuzz: $target FAILED"
    exit 1
fi
sed -n 's/^stat::number_of_executed_units: */fuzz: '"$target"' executions /p' "$log"
sed -n 's/.*\(cov: [0-9]* ft: [0-9]*\).*/\1/p' "$log" | tail -n 1 | sed 's/^/fuzz: '"$target"' /'
