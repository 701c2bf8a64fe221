#!/bin/sh
# Debian's packages: built in a clean copy of what git tracks, linted, installed, tried by debian/tests, and removed. As root on a machine without
# them the packages are installed with apt-get; elsewhere they are unpacked into a folder, and tried there.
# usage: check-deb.sh [build]
set -eu
root=$PWD
out=$root/build/deb
sh scripts/deps.sh build deb
rm -rf "$out"
mkdir -p "$out/libnflow"
git ls-files -z | xargs -0 cp -dp --parents -t "$out/libnflow"
cd "$out/libnflow"

unset CC CFLAGS LDFLAGS MAKEFLAGS MFLAGS MAKELEVEL
DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:+$DEB_BUILD_OPTIONS }parallel=$(nproc)"
export DEB_BUILD_OPTIONS
dpkg-buildpackage -us -uc -b >"$out/build.log" 2>&1 || { tail -n 60 "$out/build.log"; exit 1; }
grep -E '^[0-9]+%: Checks:|test programs passed' "$out/build.log" || true
cd "$out"
rm -rf libnflow
ls -- *.deb
[ "${1:-}" = build ] && exit 0

lintian --info --display-info --fail-on error,warning,info -- *.changes

tests() {
    for test in build-program command; do
        scratch=$(mktemp -d)
        if ! AUTOPKGTEST_TMP=$scratch sh "$root/debian/tests/$test" >"$out/$test.log" 2>&1; then
            cat "$out/$test.log"
            echo "debian/tests/$test fails"
            return 1
        fi
        rm -rf "$scratch"
    done
    cat "$out/build-program.log"
}

if [ "$(id -u)" -eq 0 ] && ! dpkg -s libnflow0 >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    remove() { dpkg --purge nflow-tools libnflow-dev libnflow0 >/dev/null 2>&1; }
    trap remove EXIT
    apt-get install -y --no-install-recommends ./libnflow0_*.deb ./libnflow-dev_*.deb ./nflow-tools_*.deb >"$out/install.log" 2>&1 ||
        { tail -n 20 "$out/install.log"; exit 1; }
    dpkg -L libnflow0 libnflow-dev nflow-tools | sort -u | while read -r path; do if [ -f "$path" ]; then echo "$path"; fi; done >"$out/files"
    tests
    man -P cat nflow libnflow >/dev/null 2>&1 || ! command -v man >/dev/null || { echo "a manual page is not found"; exit 1; }
    remove
    trap - EXIT
    while read -r path; do
        if [ -e "$path" ]; then
            echo "$path was left behind"
            exit 1
        fi
    done <"$out/files"
    echo "packages: built, clean, installed, tried and removed ($(wc -l <"$out/files") files)"
else
    for package in *.deb; do
        case $package in *dbgsym*) ;; *) dpkg-deb -x "$package" tree ;; esac
    done
    library=$(dirname "$(find tree -name libnflow.so)")
    export PATH="$out/tree/usr/bin:$PATH" LD_LIBRARY_PATH="$out/$library" LIBRARY_PATH="$out/$library" C_INCLUDE_PATH="$out/tree/usr/include" \
        PKG_CONFIG_PATH="$out/$library/pkgconfig"
    tests
    echo "packages: built, clean, unpacked and tried"
fi
