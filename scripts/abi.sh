#!/bin/sh
# The ABI of the shared library against the committed baseline, with libabigail.
# usage: abi.sh check|write LIBRARY
set -eu
baseline=abi/libnflow.abi
case $1 in
write)
    mkdir -p abi
    abidw --headers-dir include --drop-private-types --no-corpus-path --no-comp-dir-path "$2" >"$baseline"
    echo "wrote $baseline"
    ;;
check)
    command -v abidiff >/dev/null || { echo "abidiff is missing: install abigail-tools (Debian, Ubuntu) or libabigail (Fedora, Arch)"; exit 1; }
    # 0: same; 4: a change that keeps old programs working (a symbol or field was added); with 8 they may break.
    status=0
    abidiff --headers-dir2 include --drop-private-types "$baseline" "$2" || status=$?
    [ $((status & 8)) -eq 0 ] && [ $((status & 3)) -eq 0 ] || { echo "the ABI broke"; exit 1; }
    echo "ABI: compatible with $baseline"
    ;;
esac
