#!/bin/sh
# Every example in a short form, as a test: each must end with status 0, and say no to an argument that it does not know.
# usage: run-examples.sh FOLDER-OF-PROGRAMS
set -u
programs=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0
run() {
    if ${WRAP:-} "$programs/$@" >"$scratch/output" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: example %s\n' "$*"
        cat "$scratch/output"
    fi
}
refuse() {
    if timeout 10 "$programs/$@" >"$scratch/output" 2>&1 || [ $? -eq 124 ]; then
        failed=$((failed + 1))
        printf 'FAILED: example %s did not refuse its arguments\n' "$*"
    else
        passed=$((passed + 1))
    fi
}
said() { # what the last one refused
    grep -qF -- "$1" "$scratch/output" && return
    failed=$((failed + 1))
    printf 'FAILED: it does not say "%s"\n' "$1"
    cat "$scratch/output"
}
cd "$scratch" || exit 1
run demo --epochs 3 --output demo
awk 'BEGIN { print "time,y"; for (i = 0; i < 200; i++) printf "%.1f,%.3f\n", 1.7e9 + 18 * i, sin(i * i) }' >far.csv
run demo --data far.csv --epochs 2 --output far
run fit_and_sample
run embed
run stack
run save_and_load
run planar_density --epochs 4 --layers 8 --output planar
run planar_energy --steps 300 --output energy
run planar_vae 60
run cnf_density --epochs 2 --rows 300 --output cnf
run cnf_density --epochs 2 --rows 300 --hyper
run cnf_matching --rows 200 --seconds 0.1
refuse demo --nonsense
said 'no such option'
refuse demo --epochs
said 'its value is missing'
refuse planar_density --nonsense
refuse planar_energy --nonsense
refuse planar_vae nonsense
refuse cnf_density --nonsense
refuse cnf_matching --set nonsense
for word in -1 0 '' 1x 18446744073709551615 99999999999999999999; do # numbers that are none, or beyond all patience
    refuse demo --epochs "$word"
    refuse planar_density --epochs "$word"
    refuse planar_density --layers "$word"
    refuse planar_energy --steps "$word"
    refuse planar_vae "$word"
    refuse cnf_density --epochs "$word"
    refuse cnf_density --rows "$word"
    refuse cnf_matching --rows "$word"
done
for word in -1 0 '' 1x nan inf; do
    refuse demo --seconds "$word"
    refuse cnf_matching --seconds "$word"
done
run planar_energy --steps 5 --output "o'x"
if PATH=$scratch "$programs/planar_energy" --steps 5 --output none >output 2>&1 && grep -q 'gnuplot is not installed' output; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    printf 'FAILED: planar_energy does not say that there is no gnuplot\n'
fi
for picture in demo.png far.png "o'x.svg" planar-two_moons.png energy.png cnf-boomerang.png; do
    if command -v gnuplot >/dev/null && [ ! -s "$picture" ]; then
        failed=$((failed + 1))
        printf 'FAILED: %s was not drawn\n' "$picture"
    fi
done
printf '%d of %d example runs passed\n' $passed $((passed + failed))
[ $failed -eq 0 ]
