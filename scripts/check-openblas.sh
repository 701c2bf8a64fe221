#!/bin/sh
# The host program of tests/openblas under each of Debian's builds of OpenBLAS: each must be the one that was meant, and give the same bits.
# usage: check-openblas.sh PROGRAM
set -eu
program=$1
# That of this machine's architecture, where libraries of others are installed beside it.
folder=/usr/lib/$(${CC:-cc} -print-multiarch 2>/dev/null)/openblas-
for build in serial pthread openmp; do
    if [ ! -e "$folder$build/libopenblas.so.0" ]; then
        echo "there is no OpenBLAS for $build: apt-get install libopenblas0-serial libopenblas0-pthread libopenblas0-openmp"
        exit 1
    fi
done
first=
kind=0 # what openblas_get_parallel says of the build
for build in serial pthread openmp; do
    log=$(mktemp)
    if ! bits=$(LD_LIBRARY_PATH="$folder$build" "$program" 2>"$log"); then
        cat "$log"
        echo "FAILED: under OpenBLAS for $build"
        exit 1
    fi
    grep -q "threading $kind\$" "$log" || { cat "$log"; echo "FAILED: not OpenBLAS for $build"; exit 1; }
    rm -f "$log"
    kind=$((kind + 1))
    [ -n "$first" ] || first=$bits
    [ "$bits" = "$first" ] || { echo "FAILED: other bits under OpenBLAS for $build: $bits, not $first"; exit 1; }
    echo "OpenBLAS for $build: bits $bits, the host's setting untouched"
done
