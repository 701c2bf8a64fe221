#!/bin/sh
# What check-cross needs, from Debian: cross compilers, Check and jansson of the foreign architectures, and qemu's user mode. Where they cannot be
# had, says why, leaves the architectures as they were, and fails.
set -u

packages='gcc-i686-linux-gnu gcc-s390x-linux-gnu libc6-dev-i386-cross libc6-dev-s390x-cross qemu-user'
for arch in i386 s390x; do
    packages="$packages libjansson-dev:$arch check:$arch libsubunit-dev:$arch"
done

there() {
    for command in i686-linux-gnu-gcc s390x-linux-gnu-gcc qemu-s390x; do
        command -v $command >/dev/null 2>&1 || return 1
    done
    for command in i686-linux-gnu-gcc s390x-linux-gnu-gcc; do # the compilers do without headers of their own, and find this machine's
        echo '#include <dirent.h>' | $command -E - >/dev/null 2>&1 || return 1
    done
    for folder in i386-linux-gnu s390x-linux-gnu; do
        for library in jansson check subunit; do
            ls /usr/lib/$folder/lib$library.* >/dev/null 2>&1 || return 1
        done
    done
}
there && exit 0

if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ] || [ "$(id -u)" -ne 0 ]; then
    echo "not there, and only root on x86-64 Debian can install it: $packages"
    exit 1
fi
added=
for arch in i386 s390x; do
    if ! dpkg --print-foreign-architectures | grep -qx $arch; then
        dpkg --add-architecture $arch
        added="$added $arch"
    fi
done
export DEBIAN_FRONTEND=noninteractive
echo "installing: $packages"
# An index that cannot be fetched fails the update, but need not be one of theirs: what counts is whether the packages are there in the end.
apt-get update >/dev/null 2>&1 || true
# shellcheck disable=SC2086 # a list of packages
if apt-get install -y --no-install-recommends $packages >/dev/null 2>&1 && there; then
    exit 0
fi
for arch in $added; do
    dpkg --remove-architecture "$arch" 2>/dev/null || true
done
apt-get update >/dev/null 2>&1 || true
echo "cannot be installed here: $packages"
exit 1
