#!/bin/sh
# Run Check programs one after the other; print each one's summary line, and what failed; fail if any did.
# usage: run.sh PROGRAM...   WRAP="valgrind ..." puts a command before each.
failed=0
programs=0
for program; do
    programs=$((programs + 1))
    output=$(CK_VERBOSITY=${CK_VERBOSITY:-normal} ${WRAP:-} "$program" 2>&1)
    status=$?
    printf '%s\n' "$output"
    if [ $status -ne 0 ]; then
        failed=$((failed + 1))
        printf 'FAILED: %s (exit status %d)\n' "$program" $status
    fi
done
printf '%d of %d test programs passed\n' $((programs - failed)) $programs
[ $failed -eq 0 ]
