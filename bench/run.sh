#!/bin/sh
# All figures of the library, with PyTorch's beside them where it is there, in rounds that take turns. Writes JSON lines and prints the table.
# usage: run.sh FOLDER-OF-PROGRAMS OUTPUT      environment: ROUNDS (3), BLOCKS (9), THREADS ("1 2"), PYTHON (python3)
set -eu
export PYTHONDONTWRITEBYTECODE=1 # one peer imports the other
programs=$1
output=$2
python=${PYTHON:-python3}
here=$(dirname "$0")
: >"$output"
# Debian's pthread OpenBLAS makes PyTorch slow with two threads: its OpenMP build is tried as well, and the better of them quoted.
builds=
if "$python" -c 'import torch' 2>/dev/null; then
    builds=default
    for folder in /usr/lib/*/openblas-openmp; do
        [ -e "$folder/libopenblas.so.0" ] && builds="default $folder"
    done
fi
round=1
while [ $round -le "${ROUNDS:-3}" ]; do
    for threads in ${THREADS:-1 2}; do
        echo "round $round, threads $threads" >&2
        "$programs/bench_flows" "$threads" "${BLOCKS:-9}" >>"$output"
        for build in $builds; do
            if [ "$build" = default ]; then
                "$python" "$here/peers/realnvp_torch.py" "$threads" "${BLOCKS:-9}" default >>"$output"
            else
                LD_LIBRARY_PATH=$build "$python" "$here/peers/realnvp_torch.py" "$threads" "${BLOCKS:-9}" openmp >>"$output"
            fi
        done
    done
    round=$((round + 1))
done
for kernel in "$programs"/engine_*-f32 "$programs"/engine_*-f64; do
    "$kernel" >>"$output"
done
"$programs/bench_memory" >>"$output"
"$programs/bench_cnf" >>"$output"
if [ -n "$builds" ]; then
    "$python" "$here/peers/cnf_torch.py" >>"$output"
    "$python" "$here/peers/cnf_adjoint_torch.py" >>"$output"
fi
awk -f "$here/table.awk" "$output"
