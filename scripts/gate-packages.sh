#!/bin/sh
# Install the packages of a gate's commands that are missing, when we may: as root, with apt-get. Otherwise name them and fail.
# usage: gate-packages.sh COMMAND PACKAGE [COMMAND PACKAGE]...
set -eu
missing=
while [ $# -ge 2 ]; do
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
    shift 2
done
[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 && exit 0
    apt-get update >/dev/null || true # an index that is missing may be of no use here
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "missing:$missing"
exit 1
