#!/bin/sh
# What the tests reached, from the counters below BUILD: fails below 97 % of the library's lines, and for branches of src/io that scripts/branches.allow does not
# tell the reason of. Branches are those of the source: calls that do not return and the compiler's own are left out.
# usage: coverage.sh BUILD
set -eu
build=$1
command -v gcovr >/dev/null || { echo "gcovr is missing: install gcovr"; exit 1; }
gcovr --root . --object-directory "$build" --filter 'src/' --exclude-throw-branches --exclude-unreachable-branches --fail-under-line ${FAIL_UNDER:-97} \
    "$build/src" "$build"/engine-* >"$build/lines.txt" || { cat "$build/lines.txt"; echo "line coverage is below 97 %"; exit 1; }
grep -E '^TOTAL' "$build/lines.txt" | sed 's/^TOTAL/lines of the library:/'
gcovr --root . --object-directory "$build" --filter 'src/io/' --branches --exclude-unreachable-branches --json "$build/branches.json" "$build/src" >/dev/null
python3 - "$build/branches.json" <<'END'
import json, sys
allowed = {}
for line in open("scripts/branches.allow"):
    line = line.strip()
    if line and not line.startswith("#"):
        file, count, text = line.split(" ", 2)
        text, reason = text.split("  -- ")
        allowed[(file, text.strip())] = int(count)
total = taken = 0
missing, used = [], set()
for file in json.load(open(sys.argv[1]))["files"]:
    source = open(file["file"]).read().split("\n")
    for line in file["lines"]:
        counts = [branch["count"] for branch in line.get("branches", [])]
        total += len(counts)
        taken += sum(count > 0 for count in counts)
        left = counts.count(0)
        if not left:
            continue
        text = source[line["line_number"] - 1].strip()
        if left <= allowed.get((file["file"], text), 0):
            used.add((file["file"], text))
        else:
            missing.append(f'{file["file"]}:{line["line_number"]}: {text}')
print(f"branches of src/io: {taken} of {total}, and {len(used)} lines with the rest are explained")
for m in sorted(set(missing)):
    print(m)
for file, text in sorted(set(allowed) - used):
    print(f"scripts/branches.allow explains what is taken, or is no more: {file} {text}")
sys.exit(bool(missing))
END
