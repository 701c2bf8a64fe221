#!/bin/sh
# The ABI of the shared library against the committed baseline, with libabigail.
# usage: abi.sh check|write LIBRARY, abi.sh compare OLD NEW
set -eu
baseline=abi/libnflow.abi
tool() {
    command -v "$1" >/dev/null && return
    echo "$1 is missing: install abigail-tools (Debian, Ubuntu) or libabigail (Fedora, Arch)"
    exit 1
}
# New symbols keep old programs working and do not count, nor do fields at the end of a struct that says its size: what abidiff tells is then insertions alone, and
# nothing has moved, gone or changed its type. Anything else counts, exit status 4 too: abidiff gives that, and not its 8, when the fields of a struct have moved.
compare() {
    said=$(mktemp)
    status=0
    abidiff --no-added-syms "$@" >"$said" 2>&1 || status=$?
    cat "$said"
    if [ $status -eq 4 ] && grep -q 'data member insertion' "$said" &&
        ! grep -qE "offset changed|deletion|enumerator|[1-9][0-9]* Removed|name changed|type of '|return type|parameter .* was (added|removed)" "$said"; then
        status=0
    fi
    rm -f "$said"
    return $status
}

case $1 in
compare)
    tool abidiff
    compare "$2" "$3"
    ;;
write)
    tool abidw
    mkdir -p abi
    # Only this form of the baseline lets abidiff see a field that was inserted into a public struct; where private types are
    # dropped when it is written (libabigail 2.2), such a change goes unseen.
    abidw --exported-interfaces-only --no-corpus-path --no-comp-dir-path "$2" >"$baseline.new"
    mv "$baseline.new" "$baseline"
    echo "wrote $baseline"
    ;;
check)
    tool abidiff
    [ -f "$baseline" ] || { echo "there is no $baseline: 'make abi-baseline' writes it"; exit 1; }
    if ! compare --headers-dir2 include --drop-private-types "$baseline" "$2"; then
        echo "the ABI is not that of $baseline"
        exit 1
    fi
    echo "ABI: compatible with $baseline"
    ;;
*)
    echo "usage: abi.sh check|write LIBRARY"
    exit 1
    ;;
esac
