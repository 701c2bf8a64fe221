#!/bin/sh
# Run a static analyser over the library and the table reader, and fail for whatever scripts/analysers.allow does not tell the reason of.
# usage: analyse.sh gcc|tidy|cppcheck
set -eu
tool=$1
found=$(mktemp)
trap 'rm -f "$found" "$found.bad"' EXIT
flags="-std=gnu11 -Iinclude -Isrc -DNF_SINGLE_BUILD=0 -DNF_ISA=base"
once="src/core/*.c src/io/*.c src/api/*.c examples/csv.c"
jobs=$(nproc 2>/dev/null || echo 2)

# Each finding as "file check".
case $tool in
gcc) # of the engine, which allocates nothing, it would follow loops for hours
    # shellcheck disable=SC2086,SC2016
    ls $once | xargs -P "$jobs" -I{} sh -c 'gcc '"$flags"' -O2 -fanalyzer -c {} -o /dev/null 2>&1 | grep "warning:" || :' |
        sed -n 's|^\([^:]*\):[0-9:]* warning:.*\[\(-W[^]=]*\).*|\1 \2|p' | sort -u >"$found"
    ;;
tidy)
    # shellcheck disable=SC2086
    ls $once | xargs -P "$jobs" -I{} sh -c 'clang-tidy --quiet {} -- '"$flags"' 2>/dev/null || :' |
        sed -n "s#^$PWD/##; s#^\([^: ]*\):[0-9:]* warning:.*\[\(.*\)\]#\1 \2#p" | sort -u >"$found"
    ;;
cppcheck)
    # shellcheck disable=SC2086
    cppcheck --std=c11 --enable=warning,performance,portability --inline-suppr --quiet -j "$jobs" -Iinclude -Isrc -DNF_SINGLE_BUILD=0 -DNF_ISA=base \
        --template='{file} {id}' --suppress=missingIncludeSystem src examples/csv.c 2>&1 | grep -E '^[a-z]+/[^ ]+ [A-Za-z]+$' | sort -u >"$found" || :
    ;;
*)
    echo "usage: analyse.sh gcc|tidy|cppcheck"
    exit 1
    ;;
esac
: >"$found.bad"
while read -r file check; do
    awk -v tool="$tool" -v file="$file" -v check="$check" '$1 == tool && $2 == file && $3 == check {found = 1} END {exit !found}' scripts/analysers.allow ||
        echo "$tool: $file: $check" >>"$found.bad"
done <"$found"
if [ -s "$found.bad" ]; then
    cat "$found.bad"
    echo "run the analyser on these files for its words; a finding without cause goes to scripts/analysers.allow with the reason"
    exit 1
fi
echo "$tool: nothing but the $(wc -l <"$found") findings that are explained"
