#!/bin/sh
# bench/mpi/steps.c with 1, 2 and 4 processes of each MPI.
# usage: bench-mpi.sh BUILD MPI...
set -eu
build=$(cd "$1" && pwd)
shift
export LD_LIBRARY_PATH="$build"
for mpi; do
    case $mpi in openmpi) module=ompi-c ;; *) module=$mpi ;; esac
    # shellcheck disable=SC2046 # flags are words
    ${CC:-cc} -O2 -Iinclude bench/mpi/steps.c $(pkg-config --cflags $module) -L"$build" "-lnflow_mpi_$mpi" -lnflow $(pkg-config --libs $module) \
        -o "$build/steps-$mpi"
    echo "| $mpi | processes | same bits, ms a step | fast | MiB before | MiB with the fit |"
    echo "|---|---|---|---|---|---|"
    for processes in ${PROCESSES:-1 2 4}; do
        for work in "2 32 1024" "16 128 1024" "64 256 2048"; do
            # shellcheck disable=SC2086 # the three numbers of a work
            sh scripts/mpirun.sh "$mpi" "$processes" "$build/steps-$mpi" $work
        done
    done
done
