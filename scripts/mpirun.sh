#!/bin/sh
# A program on some processes of an MPI. They share this machine's cores, so they must not spin; and the user may be root, as in a container.
# usage: mpirun.sh openmpi|mpich PROCESSES PROGRAM [ARGUMENT]...
set -eu
mpi=$1 processes=$2
shift 2
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_btl=self,vader,tcp
set -- -n "$processes" "$@"
if [ "$mpi" = openmpi ]; then
    set -- --oversubscribe "$@"
    [ "$(id -u)" -ne 0 ] || set -- --allow-run-as-root "$@"
fi
exec "mpirun.$mpi" "$@"
