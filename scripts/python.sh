#!/bin/sh
# The Python that has these modules, among PYTHON, the python3 of the PATH and the system's.
# usage: python.sh MODULE...
for python in "${PYTHON:-python3}" python3 /usr/bin/python3; do
    if "$python" -c "import $(echo "$*" | tr ' ' ',')" 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
exit 1
