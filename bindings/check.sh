#!/bin/sh
# The ways into the library from other worlds: CMake, C++, Fortran and Python, against an installed library, and the examples of docs/bindings.md
# as they stand there.
# usage: check.sh BUILD
set -eu
build=$1
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=$(sh scripts/python.sh numpy)
prefix=$scratch/prefix
install() { make --no-print-directory BUILD="$build" "$@" install >/dev/null; }
say() { printf -- '-- %s\n' "$*"; }

install PREFIX="$prefix"
export LD_LIBRARY_PATH="$prefix/lib" PKG_CONFIG_PATH="$prefix/lib/pkgconfig" PYTHONPATH="$prefix/share/nflow" PYTHONDONTWRITEBYTECODE=1
export NFLOW_LIBRARY="$prefix/lib/libnflow.so"
# shellcheck disable=SC2046 # flags are words
c() { $CC -std=c11 -O1 -ffp-contract=off -Wall -Wextra -Werror "$1" $(pkg-config --cflags --libs libnflow) -o "$2"; }
# shellcheck disable=SC2046
cpp() {
    "$1" -std=c++17 -O1 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror "$2" $(pkg-config --cflags --libs libnflow) \
        -o "$3"
}
# shellcheck disable=SC2046
fortran() {
    gfortran -std=f2018 -O1 -ffp-contract=off -fcheck=all,no-array-temps -ffree-line-length-none -Wall -Wextra -Werror -J"$scratch" \
        "$prefix/share/nflow/nflow.f90" "$1" $(pkg-config --libs libnflow) -o "$2"
}
same() { # the scenario of a language against that of C: numbers by their bits, the model byte by byte
    diff "$scratch/c.txt" "$scratch/$1.txt"
    cmp "$scratch/c.model" "$scratch/$1.model"
    say "$1: the same $(wc -l <"$scratch/c.txt") numbers and the same model file as C"
}

say "tables against the header"
nm -D --defined-only "$prefix/lib/libnflow.so" | awk '$2 != "A" {print $3}' | sed 's/@.*//' | LC_ALL=C sort -u >"$scratch/exported"
"$python" bindings/tests/header.py functions include/nflow.h | LC_ALL=C sort -u | diff - "$scratch/exported"
"$python" bindings/tests/check_tables.py include/nflow.h bindings/fortran/nflow.f90 bindings/cpp/nflow.hpp
"$python" bindings/tests/header.py c include/nflow.h >"$scratch/layout.c"
c "$scratch/layout.c" "$scratch/layout-c"
"$scratch/layout-c" >"$scratch/layout.txt"
c bindings/tests/scenario.c "$scratch/scenario-c"
"$scratch/scenario-c" "$scratch/c.model" >"$scratch/c.txt"

say "Fortran"
"$python" bindings/tests/header.py fortran include/nflow.h >"$scratch/layout.f90"
fortran "$scratch/layout.f90" "$scratch/layout-fortran"
"$scratch/layout-fortran" | diff "$scratch/layout.txt" -
say "Fortran: the $(wc -l <"$scratch/layout.txt") sizes, offsets and values that C has"
fortran bindings/fortran/scenario.f90 "$scratch/scenario-fortran"
"$scratch/scenario-fortran" "$scratch/fortran.model" >"$scratch/fortran.txt"
same fortran

say "Python"
"$python" bindings/python/test_nflow.py include/nflow.h "$scratch/layout.txt"
"$python" bindings/python/scenario.py "$scratch/python.model" >"$scratch/python.txt"
same python

for cxx in g++ clang++; do
    command -v $cxx >/dev/null || continue
    say "C++: $cxx"
    cpp $cxx bindings/cpp/test_nflow.cpp "$scratch/test-$cxx"
    "$scratch/test-$cxx"
    cpp $cxx bindings/cpp/scenario.cpp "$scratch/scenario-$cxx"
    "$scratch/scenario-$cxx" "$scratch/$cxx.model" >"$scratch/$cxx.txt"
    same $cxx
done

# An installation below DESTDIR, found there, then moved elsewhere, with the library's folder where distributions have it.
project() { # PREFIX [REQUEST]
    rm -rf "$scratch/project"
    cmake -S bindings/cmake/project -B "$scratch/project" -DCMAKE_PREFIX_PATH="$1" -DREQUEST="${2:-}"
}
programs() {
    if ! { project "$@" && cmake --build "$scratch/project" && (cd "$scratch/project" && ctest); } >>"$scratch/cmake.log" 2>&1; then
        cat "$scratch/cmake.log"
        exit 1
    fi
}
refused() {
    if project "$@" >"$scratch/cmake.log" 2>&1; then
        echo "CMake found what it should not: $*"
        exit 1
    fi
}
say "CMake"
unset LD_LIBRARY_PATH
install DESTDIR="$scratch/stage" PREFIX=/opt/nflow LIBDIR=/opt/nflow/lib/"$($CC -dumpmachine)"
if grep -rqF -e "$scratch" -e "$root" "$scratch/stage/opt/nflow/include" "$scratch/stage/opt/nflow/share" "$scratch"/stage/opt/nflow/lib/*/cmake; then
    echo "an installed file names the stage or the tree"
    exit 1
fi
programs "$scratch/stage/opt/nflow" 0.1
mv "$scratch/stage/opt/nflow" "$scratch/moved"
programs "$scratch/moved" "0.1.0;EXACT"
refused "$scratch/moved" 0.2
refused "$scratch/moved" 1.0
found() { project "$@" >"$scratch/cmake.log" 2>&1 || { cat "$scratch/cmake.log"; exit 1; }; }
if [ "$(printf '3.19\n%s\n' "$(cmake --version | sed -n '1s/[^0-9]*//p')" | sort -V | head -n 1)" = 3.19 ]; then # which has ranges
    for range in 0.0...0.2 0...1 '0.0...<0.2' 0.1...0.1.0 '0.1.0...<0.1.1' 0.0.9...9; do found "$scratch/moved" "$range"; done
    for range in 0.0...0.0.9 '0.0...<0.1.0' '0.1...<0.1' 0.1.1...0.2 0.2...0.3 1...2; do refused "$scratch/moved" "$range"; done
fi
rm "$scratch/moved/include/nflow.h"
refused "$scratch/moved"
if ! grep -q 'nflow.h is missing' "$scratch/cmake.log"; then
    echo "CMake does not say what is missing"
    exit 1
fi
programs "$prefix"
make --no-print-directory BUILD="$build" DESTDIR="$scratch/stage" PREFIX=/opt/nflow uninstall >/dev/null
say "CMake: found, moved, refused as it should be"

say "docs/bindings.md"
export LD_LIBRARY_PATH="$prefix/lib" CMAKE_PREFIX_PATH="$prefix"
unset PYTHONPATH NFLOW_LIBRARY
mkdir "$scratch/docs" "$scratch/bin"
ln -s "$(command -v "$python")" "$scratch/bin/python3"
"$python" bindings/tests/extract.py docs/bindings.md "$scratch/docs"
for folder in "$scratch"/docs/*; do
    (cd "$folder" && PATH="$scratch/bin:$PATH" sh -eu ./run.sh >output 2>&1) || { cat "$folder/run.sh" "$folder/output"; exit 1; }
    [ -s "$folder/output" ] || { echo "$folder/run.sh says nothing"; exit 1; }
    say "$(basename "$folder"): $(tail -n 1 "$folder/output")"
done
