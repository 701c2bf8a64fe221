#!/bin/sh
# Run Check programs, JOBS at a time (as many as there are processors); print each one's summary line, and what failed, in the order given; fail if any did.
# usage: run-tests.sh PROGRAM...   WRAP="valgrind ..." puts a command before each.
# Files are made in memory where there is such a folder: the suites sync them thousands of times, and ask what is written in which order, not when a disk has it.
if [ -z "${TMPDIR:-}" ] && [ -d /dev/shm ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 1)}
NFLOW_RESULTS=$(mktemp -d)
export NFLOW_RESULTS
trap 'rm -rf "$NFLOW_RESULTS"' EXIT
trap 'exit 1' INT TERM

n=0
for program; do
    n=$((n + 1))
    printf '%d\n%s\n' $n "$program"
done | xargs -n 2 -P "$JOBS" sh -c 'CK_VERBOSITY=${CK_VERBOSITY:-normal} ${WRAP:-} "$2" >"$NFLOW_RESULTS/$1.out" 2>&1; echo $? >"$NFLOW_RESULTS/$1.rc"' sh

failed=0
n=0
for program; do
    n=$((n + 1))
    cat "$NFLOW_RESULTS/$n.out"
    status=$(cat "$NFLOW_RESULTS/$n.rc" 2>/dev/null || echo 255)
    if [ "$status" -ne 0 ]; then
        failed=$((failed + 1))
        printf 'FAILED: %s (exit status %d)\n' "$program" "$status"
    fi
done
printf '%d of %d test programs passed\n' $((n - failed)) $n
[ $failed -eq 0 ]
