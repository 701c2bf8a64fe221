#!/bin/sh
# Every function, type and macro of the header has words of its own; members may go without where their name says it.
set -eu
missing=$(sed -e 's/^EXTRACT_ALL.*/EXTRACT_ALL = NO/' -e 's/^\(GENERATE_[HX].*\)= YES/\1= NO/' -e 's/^WARN_AS_ERROR.*/WARN_AS_ERROR = NO/' docs/Doxyfile |
    doxygen - 2>&1 | grep 'is not documented' | grep -v '(variable)' | sed 's/.*\(warning\|error\): //' | sort -u || true)
if [ -n "$missing" ]; then
    echo "$missing"
    exit 1
fi
