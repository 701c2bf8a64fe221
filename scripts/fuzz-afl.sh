#!/bin/sh
# Run one target under AFL++ from its seeds. Fails when it found a crash or a hang, which are left beside the program. Says how many executions it reached.
# usage: fuzz-afl.sh TARGET PROGRAM SECONDS
set -eu
target=$1 program=$2 seconds=$3
out=$program.out
rm -rf "$out"
dictionary=
[ "$target" = load ] || [ "$target" = model ] && dictionary="-x tests/fuzz/model.dict"
# shellcheck disable=SC2086
if ! AFL_NO_UI=1 AFL_SKIP_CPUFREQ=1 AFL_NO_AFFINITY=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 \
    afl-fuzz -V "$seconds" -t 5000 -i "tests/fuzz/seeds/$target/" -o "$out" $dictionary -- "$program" >"$program.log" 2>&1; then
    tail -n 40 "$program.log"
    exit 1
fi
sed -n 's/^execs_done *: */fuzz-afl: '"$target"' executions /p' "$out/default/fuzzer_stats"
found=$(find "$out/default/crashes" "$out/default/hangs" -name 'id:*')
if [ -n "$found" ]; then
    echo "$found"
    echo "fuzz-afl: $target FAILED"
    exit 1
fi
