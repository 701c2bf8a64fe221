#!/bin/sh
# What `make checkabi` must let pass and must catch, on copies of the header with a change: a field appended to a config struct passes; one inserted
# is caught, and so are two that changed places, a changed enum value and a function that is gone. And a program that was built against the first release's
# header runs with the library of today.
# usage: check_abi.sh LIBRARY
set -eu
library=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cc=${CC:-cc}

# A stand-in library with the header's own types: abidiff compares types and symbols, not code.
build() { # name, sed script for the header
    mkdir -p "$scratch/$1"
    sed "$2" include/nflow.h >"$scratch/$1/nflow.h"
    cat >"$scratch/$1/library.c" <<'END'
#include "nflow.h"
nf_status nf_realnvp_create(const nf_realnvp_config *config, nf_realnvp **flow) { *flow = 0; return config->dim ? NF_OK : NF_ERR_ARGUMENT; }
nf_status nf_fit(nf_flow *flow, size_t rows, const double *x, const double *context, const nf_fit_config *config, nf_fit_report *report) {
    return flow && rows && x && !context && config && report ? NF_OK : NF_ERR_ARGUMENT;
}
#ifndef GONE
nf_status nf_workspace_stats(const nf_workspace *workspace, nf_stats *stats) { return workspace && stats ? NF_OK : NF_ERR_ARGUMENT; }
#endif
END
    $cc -g -shared -fPIC ${3:-} -I"$scratch/$1" "$scratch/$1/library.c" -o "$scratch/$1/libnflow.so"
}

same() { # name: whether the gate lets it pass
    sh scripts/abi.sh compare "$scratch/first/libnflow.so" "$scratch/$1/libnflow.so" >"$scratch/said" 2>&1
}

build first ''
build appended 's/^} nf_realnvp_config;/    double later;\n&/'
build inserted 's/^    size_t couplings;/    double later;\n&/'
build swapped 's/^    nf_scale scale;/    nf_mask temporary;/; s/^    nf_mask mask;/    nf_scale scale;/; s/temporary;/mask;/'
build renumbered 's/NF_ERR_ROWS = -3/NF_ERR_ROWS = -30/'
build gone '' -DGONE

for change in first appended; do
    same $change || { cat "$scratch/said"; echo "ABI test: '$change' does not pass"; exit 1; }
done
for change in inserted swapped renumbered gone; do
    same $change && { cat "$scratch/said"; echo "ABI test: '$change' is not caught"; exit 1; }
done
echo "ABI test: appending a field passes; inserting, swapping, renumbering and removing are caught"

# The first release's header, kept with a program that uses it: whatever is appended later lies past its struct_size.
$cc -Wall -Wextra -Werror -Itests/abi/0.1 tests/abi/old_program.c -o "$scratch/old" "$library" -lm
folder=$(dirname "$library")
LD_LIBRARY_PATH="$folder" "$scratch/old"
echo "ABI test: a program of the first header runs"
