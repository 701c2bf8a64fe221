#!/bin/sh
# What the pages say, tried: README.md, CONTRIBUTING.md, SECURITY.md and docs/*.md.
#
#   - A block of C (three backquotes and "c") with a main is a program: it is compiled with warnings as errors, against the .pc file of the build as
#     an outside program would be, and must end with status 0. When its first line is a comment that begins with a file name, blocks of sh
#     find it under that name.
#   - Any other block of C is a fragment, and stands in docs/fragment.c with the others of its page.
#   - Blocks of sh are run one after the other in an empty folder, with the built `nflow` on the path.
#   - Links and pictures lead to files that exist; each "make target" is a target.
#   - Man pages are without a warning from groff.
# What is too dear or changes the machine is indented, and not run. The examples of docs/bindings.md are run by bindings/check.sh, in folders of their own.
# docs/mpi.md is of programs that need an MPI and a queue: its C is compiled where there is an MPI, its batch script parsed.
# usage: check-docs.sh BUILD
set -eu
build=$1
cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/run"
export PKG_CONFIG_PATH="$build" LD_LIBRARY_PATH="$build" PATH="$build:$PATH" TERM=dumb
flags="-std=c11 -Wall -Wextra -Werror -O1"
programs=0 fragments=0 shells=0 links=0

say() {
    echo "$1"
    [ ! -f "$work/log" ] || tail -n 30 "$work/log"
    exit 1
}

# The blocks of a page, one file each: NUMBER.LANGUAGE, whose first line says where it stands.
split() {
    rm -rf "$work/blocks"
    mkdir "$work/blocks"
    awk -v folder="$work/blocks" '
        /^```/ && !open { open = 1; language = substr($0, 4); file = sprintf("%s/%03d.%s", folder, ++count, language ? language : "text")
                          printf "%d\n", NR + 1 > file; next }
        /^```/ { open = 0; close(file); next }
        open { print > file }
        END { if (open) { print "a block is not closed" > "/dev/stderr"; exit 1 } }' "$1"
}

mpi_page() { # page: its blocks are tried, but do not run
    for block in "$work"/blocks/*.sh; do
        [ -f "$block" ] || continue
        tail -n +2 "$block" | bash -n >"$work/log" 2>&1 || say "$1:$(head -n 1 "$block"): no script"
    done
    for module in ompi-c mpich; do
        pkg-config --exists $module 2>/dev/null || continue
        { printf '#include <mpi.h>\n#include <nflow_mpi.h>\n'; cat "$work/run/fragments.c"; } >"$work/run/mpi.c"
        # shellcheck disable=SC2046,SC2086
        $cc -std=c11 -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags $module libnflow | sed 's/-I/-isystem /g') "$work/run/mpi.c" >"$work/log" 2>&1 ||
            say "$1: its fragments do not build with $module"
    done
}

program() { # page block
    line=$(head -n 1 "$2")
    name=$(sed -n '2s|^/\* *\([A-Za-z0-9_]*\.c\).*|\1|p' "$2")
    name=${name:-program-$line.c}
    { echo "#line $line \"$1\""; tail -n +2 "$2"; } >"$work/run/$name"
    # shellcheck disable=SC2046,SC2086 # flags are words
    (cd "$work/run" && $cc $flags "$name" $(pkg-config --cflags --libs libnflow) -lm -o "${name%.c}" && "./${name%.c}") >"$work/log" 2>&1 ||
        say "$1:$line: the program does not build, or fails"
    programs=$((programs + 1))
}

page_fragments() { # page
    : >"$work/scope"
    : >"$work/body"
    for block in "$work"/blocks/*.c; do
        [ -f "$block" ] || continue
        if grep -q '^int main(' "$block"; then continue; fi
        line=$(head -n 1 "$block")
        if sed -n 2p "$block" | grep -q '^static'; then
            { echo "#line $line \"$1\""; tail -n +2 "$block"; } >>"$work/scope"
        else
            { echo "{"; echo "#line $line \"$1\""; tail -n +2 "$block"; echo "}"; } >>"$work/body"
        fi
        fragments=$((fragments + 1))
    done
    [ -s "$work/body" ] || return 0
    awk -v scope="$work/scope" -v body="$work/body" '
        function put(file,    line) { while ((getline line < file) > 0) print line; printf "#line %d \"docs/fragment.c\"\n", NR + 1 }
        /\/\* file scope \*\// { put(scope); next }
        /\/\* fragments \*\// { put(body); next }
        { print }' docs/fragment.c >"$work/run/fragments.c"
    [ "$1" != docs/mpi.md ] || return 0
    # shellcheck disable=SC2046,SC2086
    (cd "$work/run" && $cc $flags fragments.c $(pkg-config --cflags --libs libnflow) -lm -o fragments && ./fragments) >"$work/log" 2>&1 ||
        say "$1: its fragments do not build, or fail"
}

shell() { # page block
    line=$(head -n 1 "$2")
    (cd "$work/run" && tail -n +2 "$2" | sh -eu) >"$work/log" 2>&1 || say "$1:$line: the commands fail"
    shells=$((shells + 1))
}

check_links() { # page
    folder=$(dirname "$1")
    awk '/^```/ { code = !code; next } !code { gsub(/`[^`]*`/, ""); print }' "$1" | grep -o '](\([^)]*\))' | sed 's/^](//; s/)$//; s/#.*//' | sort -u >"$work/links"
    while read -r link; do
        case $link in
        '' | http*) continue ;;
        esac
        [ -e "$folder/$link" ] || say "$1: $link is not there"
    done <"$work/links"
    links=$((links + $(wc -l <"$work/links")))
}

makefiles=$(find . -name '*.mk' ! -path './build/*')
# "make word" in code, where the word is no variable or option.
check_targets() { # page
    grep -o '\(`\|^    \|[;&] \)make [a-z][a-z-]*' "$1" | sed 's/.*make //' | sort -u >"$work/targets"
    while read -r target; do
        # shellcheck disable=SC2086 # a list of files
        grep -q "^$target:\|^$target \|PHONY:.* $target\( \|\$\)" Makefile $makefiles || say "$1: there is no target $target"
    done <"$work/targets"
}

for page in README.md CONTRIBUTING.md SECURITY.md docs/*.md; do
    rm -f "$work/log"
    check_links "$page"
    check_targets "$page"
    [ "$page" != docs/bindings.md ] || continue
    split "$page"
    page_fragments "$page"
    if [ "$page" = docs/mpi.md ]; then
        mpi_page "$page"
        continue
    fi
    for block in "$work"/blocks/*.c "$work"/blocks/*.sh; do
        case $block in
        *.c) if [ -f "$block" ] && grep -q '^int main(' "$block"; then program "$page" "$block"; fi ;;
        *.sh) if [ -f "$block" ]; then shell "$page" "$block"; fi ;;
        esac
    done
done
rm -f "$work/log"
for page in docs/man/*.[1-8] tools/man/*.[1-8]; do
    [ -f "$page" ] || continue
    groff -man -Tutf8 -ww -z "$page" >"$work/log" 2>&1 || say "$page: groff fails"
    [ ! -s "$work/log" ] || say "$page: groff warns"
done
echo "docs: $programs programs and $fragments fragments of C, $shells blocks of sh run; $links links lead somewhere"
