#!/bin/sh
# Install into an empty prefix and build an outside program against it: shared and static, with the compilers that are there.
# usage: check_install.sh BUILD
set -eu
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
(umask 077 && make --no-print-directory BUILD="$1" PREFIX="$prefix" install >/dev/null)
# A blank in a name makes two words in make: nothing is written, and nothing removed.
mkdir "$prefix/a"
for what in "install PREFIX" "uninstall DESTDIR" "install LIBDIR"; do
    if make --no-print-directory BUILD="$1" "${what% *}" "${what#* }=$prefix/a b" >/dev/null 2>"$prefix/blank.txt" || ! grep -q 'has a blank' "$prefix/blank.txt"; then
        echo "a folder with a blank: $(cat "$prefix/blank.txt")"
        exit 1
    fi
done
[ -z "$(ls -A "$prefix/a")" ] || { echo "something was put into half a folder"; exit 1; }
rm -r "$prefix/a" "$prefix/blank.txt"
hidden=$(find "$prefix" -type f ! -perm -044)
if [ -n "$hidden" ]; then
    echo "others cannot read: $hidden"
    exit 1
fi
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
    $cc -std=c99 -Wall -Wextra -Werror "$prefix/outside.c" $(pkg-config --cflags --libs-only-L libnflow) -l:libnflow.a $(pkg-config --libs jansson) \
        -lpthread -lm -o "$prefix/static" # as README has it
    "$prefix/static"
    if LD_LIBRARY_PATH="$prefix/lib" ldd "$prefix/static" | grep -q libnflow; then
        echo "the static program needs libnflow.so"
        exit 1
    fi
done
# The examples, copied out of the tree and compiled by the line in the head of each.
cp -r examples "$prefix/examples"
(
    cd "$prefix/examples"
    for example in $(grep -l '^int main' ./*.c); do
        line=$(sed -n 's/^ \* *\(cc .*\)/\1/p' "$example")
        sh -c "$line" || exit 1
        [ -x "${example%.c}" ] || { echo "$example does not say how it is compiled"; exit 1; }
    done
    LD_LIBRARY_PATH=$prefix/lib ./save_and_load >/dev/null
)
case $(readelf -d "$prefix/lib/libnflow.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p') in
libnflow.so.0) ;;
*) echo "the soname is wrong"; exit 1 ;;
esac
# The command, its pages and its completion.
nflow=$prefix/bin/nflow
"$nflow" data two_moons -n 200 | "$nflow" train - -q --epochs 2 -o "$prefix/m.safetensors"
[ "$("$nflow" sample "$prefix/m.safetensors" -n 3 | wc -l)" -eq 4 ]
for command in '' $("$nflow" --help | sed -n 's/^  \([a-z]*\)  .*/-\1/p'); do
    [ -s "$prefix/share/man/man1/nflow$command.1" ] || { echo "nflow$command.1 is not installed"; exit 1; }
done
if command -v bash >/dev/null; then
    bash -c '. "$1/share/bash-completion/completions/nflow"
        COMP_WORDS=("$1/bin/nflow" train --fl) COMP_CWORD=2; _nflow; [ "${COMPREPLY[*]}" = --flow ] || exit 1
        COMP_WORDS=("$1/bin/nflow" dia) COMP_CWORD=1; _nflow; [ "${COMPREPLY[*]}" = diagnose ] || exit 1
        COMP_WORDS=("$1/bin/nflow" train --flow r) COMP_CWORD=3; _nflow; [ "${COMPREPLY[*]}" = "realnvp radial" ] || exit 1
        COMP_WORDS=("$1/bin/nflow" train --flow = r) COMP_CWORD=4; _nflow; [ "${COMPREPLY[*]}" = "realnvp radial" ] || exit 1
        COMP_WORDS=("$1/bin/nflow" train --flow =) COMP_CWORD=3; _nflow; [ "${COMPREPLY[*]}" = "realnvp planar radial cnf" ]' sh "$prefix" ||
        { echo "bash completion does not complete"; exit 1; }
fi
if grep -rlF "$PWD" "$prefix/include" "$prefix/lib" "$prefix/bin" "$prefix/share"; then # debug information and run paths too
    echo "an installed file names the build tree"
    exit 1
fi
make --no-print-directory BUILD="$1" PREFIX="$prefix" uninstall >/dev/null
left=$(find "$prefix" -type f -name '*nflow*' -o -type l -o -name nflow)
if [ -n "$left" ]; then
    echo "uninstall left: $left"
    exit 1
fi
echo "install: shared and static programs and nflow run; uninstall leaves nothing"
