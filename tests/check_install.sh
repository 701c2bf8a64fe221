#!/bin/sh
# Install into an empty prefix and build an outside program against it: shared and static, with the compilers that are there.
# usage: check_install.sh BUILD
set -eu
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
make --no-print-directory BUILD="$1" PREFIX="$prefix" install >/dev/null
cat >"$prefix/outside.c" <<'PROGRAM'
#include <math.h>
#include <nflow.h>
#include <stdio.h>
int main(void) {
    nf_realnvp *flow;
    nf_rng rng = {1, 2, 0};
    double x[20], density[10];
    if (nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 4, .seed = 7), &flow) != NF_OK ||
        nf_sample(flow, NULL, &rng, 10, NULL, x, density) != NF_OK)
        return puts(nf_last_error()), 1;
    for (int i = 0; i < 10; i++)
        if (!isfinite(density[i]))
            return 1;
    printf("%s %s: 10 samples, log density of the first %.6f\n", nf_version(), nf_flow_isa(flow), density[0]);
    nf_flow_free(flow);
    return 0;
}
PROGRAM
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
for cc in gcc clang; do
    command -v $cc >/dev/null || continue
    # shellcheck disable=SC2046 # flags are words
    $cc -std=c99 -Wall -Wextra -Werror "$prefix/outside.c" $(pkg-config --cflags --libs libnflow) -lm -o "$prefix/shared"
    LD_LIBRARY_PATH="$prefix/lib" "$prefix/shared"
    $cc -std=c99 -Wall -Wextra -Werror "$prefix/outside.c" $(pkg-config --cflags libnflow) -L"$prefix/lib" -Wl,-Bstatic -lnflow -Wl,-Bdynamic \
        $(pkg-config --libs --static libnflow | sed 's/-lnflow//') -o "$prefix/static"
    "$prefix/static"
    if LD_LIBRARY_PATH="$prefix/lib" ldd "$prefix/static" | grep -q libnflow; then
        echo "the static program needs libnflow.so"
        exit 1
    fi
done
case $(readelf -d "$prefix/lib/libnflow.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p') in
libnflow.so.0) ;;
*) echo "the soname is wrong"; exit 1 ;;
esac
if grep -rlF "$PWD" "$prefix/include" "$prefix/lib"; then # debug information and run paths too
    echo "an installed file names the build tree"
    exit 1
fi
make --no-print-directory BUILD="$1" PREFIX="$prefix" uninstall >/dev/null
left=$(find "$prefix/include" "$prefix/lib" -type f -o -type l)
if [ -n "$left" ]; then
    echo "uninstall left: $left"
    exit 1
fi
echo "install: shared and static programs build and run; uninstall leaves nothing"
