#!/bin/sh
# The MPIs that libnflow_mpi is built and tested with, from Debian's packages where they are missing. As deps.sh: says nothing when all is there.
# usage: mpi-deps.sh openmpi mpich
set -u
missing=
look() {
    missing=
    for mpi; do
        case $mpi in
        openmpi) { command -v mpirun.openmpi && "${PKG_CONFIG:-pkg-config}" --exists ompi-c; } >/dev/null 2>&1 || missing="$missing openmpi-bin libopenmpi-dev" ;;
        mpich) { command -v mpirun.mpich && "${PKG_CONFIG:-pkg-config}" --exists mpich; } >/dev/null 2>&1 || missing="$missing mpich libmpich-dev" ;;
        esac
    done
}
look "$@"
[ -z "$missing" ] && exit 0
run=
if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! { command -v sudo >/dev/null && sudo -n true 2>/dev/null && run=sudo; }; }; then
    echo "Some packages are missing. With the rights to install them, run (Debian's names):"
    echo "    apt-get install --no-install-recommends$missing"
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of packages
if ! $run apt-get install -y --no-install-recommends $missing >/dev/null 2>&1; then
    $run apt-get update >/dev/null || true # an index that is missing may be of no use here
    $run apt-get install -y --no-install-recommends $missing >/dev/null || exit 1
fi
look "$@"
[ -z "$missing" ] || { echo "still missing after the installation:$missing"; exit 1; }
