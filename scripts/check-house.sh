#!/bin/sh
# The drawing of the house against the house: the arrows of docs/figures/house.svg are what src/ includes and what its object files link, no more and
# no less, and all of them point down.
# usage: check-house.sh BUILD
set -eu
build=$1
drawing=docs/figures/house.svg
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# LC_ALL: sort and join must agree.
export LC_ALL=C

# The room of a file below src/ (or of an object below the build): the folder, but that a room of the engine is its own.
room() { sed -e 's|^engine-[^/]*/|engine/|' -e 's|^engine/\([^/]*\)/.*|\1|' -e 's|/.*||'; }

# Includes between rooms. Of the headers in the engine's folder four serve all its rooms, and what a layer and its tile are is for the layers; the
# others are the engine's own. nflow.h serves everyone.
find src -name '*.[ch]' | while read -r file; do
    from=$(echo "${file#src/}" | room)
    sed -n 's/^#include "\(.*\)"/\1/p' "$file" | while read -r header; do
        path=$header
        [ -f "src/$path" ] || path=${file#src/}
        [ -f "src/$header" ] || path=${path%/*}/$header
        [ -f "src/$path" ] || continue
        case $file:$path in
        src/engine/*:engine/real.h | src/engine/*:engine/pieces.h | src/engine/*:engine/counters.h | src/engine/*:engine/tile_failure.h) continue ;;
        src/engine/*:engine/layer.h | src/engine/*:engine/tile.h) path=engine/layers/ ;;
        esac
        echo "$from-$(echo "$path" | room)"
    done
done | sort -u >"$work/includes"

# Symbols that one room uses and another defines; one build of the engine is as good as another.
engine=$(cd "$build" && ls -d engine-f64-* | head -n 1)
(cd "$build/src" && find . -name '*.o' | sed 's|^\./||' | sed "s|^|$build/src/ |"
    cd "../$engine" && find . -name '*.o' | sed "s|^\./|$build/$engine/ engine/|") | while read -r top object; do
    from=$(echo "$object" | room)
    nm "$top${object#engine/}" | awk -v room="$from" 'NF == 2 { print "uses", $2, room } NF == 3 && $2 ~ /[A-Z]/ { print "has", $3, room }'
done | sort -u >"$work/symbols"
awk '$1 == "has" { print $2, $3 }' "$work/symbols" >"$work/has"
awk '$1 == "uses" { print $2, $3 }' "$work/symbols" | join - "$work/has" | awk '{ print $2 "-" $3 }' | sort -u >"$work/links"

# Every function of the header is the api's, or one of core's that report what happened.
sed -n 's/^ *\(nf_[a-z0-9_]*\);.*/\1/p' src/libnflow.map | sort -u | join -v 1 - "$work/has" >"$work/nowhere"
sed -n 's/^ *\(nf_[a-z0-9_]*\);.*/\1/p' src/libnflow.map | sort -u | join - "$work/has" | awk '$2 != "api" && $2 != "core"' >>"$work/nowhere"
if [ -s "$work/nowhere" ]; then
    echo "exported, but not by api or core:"
    cat "$work/nowhere"
    exit 1
fi
# Programs see the header alone; the benchmarks of the engine's inside are the exception that says so in its name.
if find examples tools bindings bench src/mpi -name '*.[ch]' ! -path 'bench/engine_*' -exec grep -n '#include "\(api\|core\|io\|engine\)/' {} + 2>/dev/null; then
    echo "a program includes what is inside the library"
    exit 1
fi

sort -u "$work/includes" "$work/links" | awk -F- '$1 != $2' >"$work/real"
printf '%s\n' programs-nflow.h nflow.h-api >>"$work/real"
sort -o "$work/real" "$work/real"
sed -n 's/.*<path class="arrow" id="\([^"]*\)".*/\1/p' "$drawing" | sort >"$work/drawn"
if ! diff "$work/drawn" "$work/real" >"$work/difference"; then
    echo "the house of $drawing and src/ differ (<: drawn only, >: real only):"
    grep '^[<>]' "$work/difference"
    exit 1
fi

# A room's y is that of its rectangle; an arrow goes to a room that lies lower.
sed -n 's/.*<g id="\([^"]*\)"><rect x="[0-9]*" y="\([0-9]*\)".*/\1 \2/p' "$drawing" >"$work/rooms"
awk -F'[- ]' 'NR == FNR { y[$1] = $2; next } !($1 in y) || !($2 in y) || y[$1] >= y[$2] { print "not from a room down to a room: " $0; bad = 1 } END { exit bad }' \
    "$work/rooms" "$work/drawn"
echo "the house: $(wc -l <"$work/rooms") rooms, $(wc -l <"$work/drawn") arrows, as included and linked, all downward"
