#!/bin/sh
# libnflow_mpi with each MPI: installed into an empty prefix, built against by pkg-config as a user would, and the scenes of tests/mpi with 1 to 4 processes. What the scenes
# print must not depend on the MPI or on the number of processes.
# usage: check-mpi.sh BUILD MPI...
set -eu
build=$1
shift
cc=${CC:-cc}
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
make --no-print-directory BUILD="$build" PREFIX="$prefix" MPIS="$*" install-mpi >/dev/null
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig" LD_LIBRARY_PATH="$prefix/lib"
failed=0
run() { timeout 120 sh scripts/mpirun.sh "$@"; } # MPI, processes, command
bad() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}
scene() { # MPI, processes, arguments of the scene; its lines are compared with those of the first run of it
    what="$1, $2 processes, $(echo "$3" | sed 's|/.*||')"
    # shellcheck disable=SC2086 # a scene and its file
    run "$1" "$2" "$prefix/scenes-$1" $3 >"$prefix/said" 2>"$prefix/errors" || { bad "$what"; cat "$prefix/said" "$prefix/errors"; return; }
    for line in 'fit in double' 'fit in single' losses 'fit in 16 shards' 'reverse KL' elbo 'flow matching'; do
        grep "^$line " "$prefix/said" >>"$prefix/lines" || true
    done
}

for mpi; do
    # shellcheck disable=SC2046 # flags are words
    for source in tests/mpi/scenes examples/mpi/fit_over_processes; do
        $cc -std=c11 -Wall -Wextra $source.c $(pkg-config --cflags --libs "nflow-mpi-$mpi") -lm -o "$prefix/$(basename $source)-$mpi"
    done
    for processes in 1 2 3 4; do
        scene $mpi $processes bits
        [ $processes -eq 3 ] || scene $mpi $processes 'shards reverse_kl matching bulk'
    done
    for scenes in 'bulk_rounds failing fast' isa; do
        scene $mpi 2 "$scenes"
    done
    scene $mpi 4 'communicators failing'
    rm -f "$prefix/checkpoint"
    scene $mpi 3 "stop $prefix/checkpoint"
    scene $mpi 2 "resume $prefix/checkpoint"
    for processes in 1 2; do
        run $mpi $processes "$prefix/fit_over_processes-$mpi" >"$prefix/example" 2>&1 || { bad "$mpi, $processes processes, example"; cat "$prefix/example"; }
        grep '^parameters' "$prefix/example" | sed 's/^/example: /' >>"$prefix/lines"
    done
    # A killed process: the manager of the processes ends them all, or the others are left with an error; nobody hangs.
    status=0
    run $mpi 3 "$prefix/scenes-$mpi" killed >"$prefix/said" 2>&1 || status=$?
    if [ $status -eq 0 ] || [ $status -eq 124 ]; then
        bad "$mpi: a killed process, status $status"
        cat "$prefix/said"
    fi
    echo "$mpi: after a killed process mpirun ends with status $status: $(grep -ciE 'signal|killed|terminat' "$prefix/said") lines say so, $(grep -c 'goes on' "$prefix/said") ranks go on"
done
sort -u "$prefix/lines" >"$prefix/unique"
cat "$prefix/unique"
names=$(sed 's/ [0-9a-f]*$//' "$prefix/unique" | sort | uniq -c | awk '$1 != 1 && $2 != "losses" || ($2 == "losses" && $1 != 2)')
if [ -n "$names" ] || [ "$(wc -l <"$prefix/unique")" -ne 9 ]; then
    bad "bits that depend on the processes or on the MPI: $names"
fi
make --no-print-directory BUILD="$build" PREFIX="$prefix" MPIS="$*" uninstall-mpi >/dev/null
left=$(find "$prefix/include" "$prefix/lib" -type f -o -type l)
[ -z "$left" ] || bad "uninstall-mpi left: $left"
[ $failed -eq 0 ] || { echo "check-mpi: $failed failures"; exit 1; }
echo "check-mpi: the same bits with 1, 2, 3 and 4 processes of: $*"
