#!/bin/sh
# The page of what is refused, from the suites that meet it.
# usage: refused.sh TEST_SAFETENSORS TEST_FILE
set -eu
list=$(mktemp)
trap 'rm -f "$list"' EXIT
table() { # title, program
    : >"$list"
    CK_FORK=no CK_VERBOSITY=silent NFLOW_REFUSED=$list "$2" >/dev/null
    printf '\n## %s: %d\n\n| text | message |\n|---|---|\n' "$1" "$(wc -l <"$list")"
    sed 's/\(.*`.*\)||/\1\\|\\|/' "$list"
}
cat <<'END'
# Files that are refused

Made by `make refused` from the suites that load them; `make check-refused` compares. Each must be refused with these words (the name of the called function comes before them).
END
table "Headers of safetensors files" "$1"
table "Descriptions of a flow" "$2"
