#!/bin/sh
# The instruction sets (builds of the engine) that this machine runs, from the plainest on.
flags=" $(sed -n 's/^flags[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1) "
has() {
    for flag; do
        case "$flags" in *" $flag "*) ;; *) return 1 ;; esac
    done
}
list=base
has sse4_2 popcnt && list="$list v2"
has avx2 fma bmi1 bmi2 && list="$list v3" && has avx512f avx512bw avx512cd avx512dq avx512vl && list="$list v4"
echo "$list"
