#!/bin/sh
# What the build and the tests need beside a compiler and make: says nothing and does nothing when all is there, installs what is missing
# with apt-get as root or with sudo, and otherwise prints the command and fails.
# usage: deps.sh [build|demo|check|bindings|docs|deb|openmpi|mpich|analysers|gates]...   (without arguments: build, demo and check)
set -u

missing=
dnf= pacman= brew=

need() { # apt-package, dnf, pacman, brew
    missing="$missing $1"
    dnf="$dnf $2"
    pacman="$pacman $3"
    brew="$brew $4"
}
have() { command -v "$1" >/dev/null 2>&1; }
module() { # pkg-config-name apt dnf pacman brew
    "${PKG_CONFIG:-pkg-config}" --exists "$1" 2>/dev/null || need "$2" "$3" "$4" "$5"
}

look() {
    missing= dnf= pacman= brew=
    have "${PKG_CONFIG:-pkg-config}" || need pkg-config pkgconf-pkg-config pkgconf pkgconf
    module jansson libjansson-dev jansson-devel jansson jansson
    for what in $wanted; do
        case $what in
        demo)
            have gnuplot || need gnuplot-nox gnuplot gnuplot gnuplot
            ;;
        docs)
            have doxygen || need doxygen doxygen doxygen doxygen
            have groff || need groff groff groff groff
            ;;
        deb) # Debian's own tools: the other systems have no use for them
            have dh || need debhelper debhelper debhelper debhelper
            have lintian || need lintian lintian lintian lintian
            ;;
        check)
            module check check check-devel check check
            module mpfr libmpfr-dev mpfr-devel mpfr mpfr
            module openblas libopenblas-dev openblas-devel openblas openblas
            echo '#include <Random123/philox.h>' | ${CC:-cc} -E - >/dev/null 2>&1 ||
                need librandom123-dev Random123-devel random123 random123
            have python3 || need python3 python3 python python
            # for locales with other decimal points
            [ "$(uname)" != Linux ] || ! have localedef || [ -e /usr/share/i18n/locales/de_DE ] || need locales glibc-locale-source glibc glibc
            ;;
        bindings)
            have cmake || need cmake cmake cmake cmake
            have gfortran || need gfortran gcc-gfortran gcc-fortran gcc
            have g++ || need g++ gcc-c++ gcc gcc
            sh scripts/python.sh numpy >/dev/null || need python3-numpy python3-numpy python-numpy numpy
            ;;
        openmpi) # both MPIs side by side, by the names that Debian gives their commands and modules
            { have mpirun.openmpi && "${PKG_CONFIG:-pkg-config}" --exists ompi-c; } 2>/dev/null ||
                need 'openmpi-bin libopenmpi-dev' openmpi-devel openmpi open-mpi
            ;;
        mpich)
            { have mpirun.mpich && "${PKG_CONFIG:-pkg-config}" --exists mpich; } 2>/dev/null || need 'mpich libmpich-dev' mpich-devel mpich mpich
            ;;
        analysers)
            have clang-tidy || need clang-tidy clang-tools-extra clang llvm
            have cppcheck || need cppcheck cppcheck cppcheck cppcheck
            ;;
        gates) # the slower ones that are not named above
            have nm || need binutils binutils binutils binutils
            have abidiff || need abigail-tools libabigail libabigail libabigail
            have clang || need clang clang clang llvm
            have valgrind || need valgrind valgrind valgrind valgrind
            for build in serial pthread openmp; do
                [ -e "/usr/lib/$(${CC:-cc} -print-multiarch 2>/dev/null)/openblas-$build/libopenblas.so.0" ] ||
                    need "libopenblas0-$build" "openblas-$build" openblas openblas
            done
            ;;
        esac
    done
}

wanted=${*:-demo check}
look
[ -z "$missing" ] && exit 0

if have apt-get; then
    run=
    if [ "$(id -u)" -ne 0 ]; then
        if have sudo && sudo -n true 2>/dev/null; then
            run=sudo
        else
            echo "Some packages are missing. With the rights to install them, run:"
            echo "    apt-get install --no-install-recommends$missing"
            exit 1
        fi
    fi
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of packages
    if ! $run apt-get install -y --no-install-recommends $missing >/dev/null 2>&1; then
        $run apt-get update >/dev/null || true # an index that is missing may be of no use here
        $run apt-get install -y --no-install-recommends $missing >/dev/null || exit 1
    fi
    look
    [ -z "$missing" ] && exit 0
    echo "still missing after the installation:$missing"
    exit 1
fi

echo "Some packages are missing. Install them with one of:"
echo "    dnf install$dnf"
echo "    pacman -S$pacman"
echo "    brew install$brew"
exit 1
