#!/bin/sh
# Run Check programs one after the other; print each one's summary line, and what failed; fail if any did.
# usage: run-tests.sh PROGRAM...   WRAP="valgrind ..." puts a command before each.
# Files are made in memory where there is such a folder: the suites sync them thousands of times, and ask what is written in which order, not when a disk has it.
if [ -z "${TMPDIR:-}" ] && [ -d /dev/shm ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
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
