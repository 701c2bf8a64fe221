#!/bin/sh
# The header alone as strict C99, C11 and C++17 with the compilers that are there; the symbols that the library exports are exactly the functions
# that the header declares.
# usage: check_header.sh LIBRARY
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf '#include <nflow.h>\n' >"$scratch/one.c"
printf '#include <nflow.h>\nint main() { nf_realnvp_config c{}; c.struct_size = sizeof c; return c.dim != 0; }\n' >"$scratch/one.cc"
for cc in gcc clang; do
    command -v $cc >/dev/null || continue
    for std in c99 c11; do
        $cc -std=$std -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror -Iinclude -c "$scratch/one.c" -o "$scratch/one.o"
        echo "header: $cc -std=$std"
    done
done
for cxx in g++ clang++; do
    command -v $cxx >/dev/null || continue
    $cxx -std=c++17 -Wall -Wextra -Wpedantic -Werror -Iinclude -c "$scratch/one.cc" -o "$scratch/one.o"
    echo "header: $cxx -std=c++17"
done
tr '\n' ' ' <include/nflow.h | sed 's|/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/||g; s/;/;\n/g' |
    sed -n 's/.*NF_API [^()]*[ *]\(nf_[a-z0-9_]*\)(.*/\1/p' | sort -u >"$scratch/declared"
nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | sed 's/@.*//' | sort -u >"$scratch/exported"
if ! diff "$scratch/declared" "$scratch/exported"; then
    echo "the exported symbols (>) are not the functions of the header (<)"
    exit 1
fi
echo "symbols: $(wc -l <"$scratch/exported") exported, all of them declared"
