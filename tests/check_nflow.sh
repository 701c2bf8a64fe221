#!/bin/sh
# The built nflow as a user has it: arguments, exit statuses, messages, pipes, interrupts. Its words go to a file where there is no terminal.
# usage: check_nflow.sh PROGRAM
set -u
nflow=$1
pages=$(cd "$(dirname "$0")/../tools/man" && pwd)
exports=$(cd "$(dirname "$0")/import" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
passed=0
failed=0
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$*"
    sed 's/^/    /' output errors 2>/dev/null | head -n 20
}
pass() { passed=$((passed + 1)); }

# status STATUS WORDS [-- TEXT]: nflow with these words ends with this status, and says TEXT on the standard error (or, for 0, anywhere).
status() {
    wanted=$1
    shift
    line=" $*"
    text=
    case $line in *' :: '*) text=${line##* :: } ;; esac
    count=0
    for word; do [ "$word" = :: ] && break; count=$((count + 1)); done
    set -- "$@" end
    i=0
    all=$#
    while [ $i -lt "$all" ]; do # the words before :: alone
        word=$1
        shift
        [ $i -lt $count ] && [ "$word" != end ] && set -- "$@" "$word"
        i=$((i + 1))
    done
    "$nflow" "$@" >output 2>errors </dev/null
    got=$?
    if [ $got -ne "$wanted" ]; then
        fail "nflow $line: status $got, not $wanted"
    elif [ -n "$text" ] && ! grep -qF -- "$text" output errors; then
        fail "nflow $line: it does not say \"$text\""
    else
        pass
    fi
}
lines() { # NUMBER FILE
    if [ "$(wc -l <"$2")" -eq "$1" ]; then pass; else fail "$2 has $(wc -l <"$2") lines, not $1"; fi
}

# ---- help
status 2 :: usage:
status 0 --help :: train
status 0 --version :: nflow
status 0 help train :: --context-columns
status 2 trian :: there is no such command
isa=${NFLOW_ISA-}
export NFLOW_ISA=avx2
status 0 data two_moons -n 2 :: 'NFLOW_ISA is avx2, which is no instruction set'
NFLOW_ISA=base
status 0 data two_moons -n 2
lines 0 errors
NFLOW_ISA=$isa
commands=$("$nflow" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p')
for command in $commands; do
    status 0 "$command" --help :: usage: nflow "$command"
    if [ "$(awk 'length > 80' output | wc -l)" -ne 0 ]; then fail "nflow $command --help is wider than 80 columns"; else pass; fi
    # Help and manual page have the same options.
    sed -n 's/^  \(-., \|    \)\(--[a-z0-9-]*\).*/\2/p' output | grep -vx -e --help | sort >in-help
    sed -n '/^\.SH OPTIONS/,/^\.SH E/p' "$pages/nflow-$command.1" | sed 's/\\f[BIRP]//g; s/\\//g' | grep -o -e '--[a-z][a-z0-9-]*' | grep -vx -e --help | sort -u >in-page
    if cmp -s in-help in-page && [ -s in-help ]; then pass; else diff in-help in-page >output; fail "nflow-$command.1 and --help have other options"; fi
    status 2 "$command" --nonsense :: there is no such option
done

# ---- data
status 0 data --list :: two_moons
status 2 data :: which set
status 2 data nothing :: there is no such set
status 0 data two_moons -n 400 -o moons.csv
lines 401 moons.csv
status 0 data two_moons -n 400 -o moons.npy
status 1 data two_moons -o missing/moons.csv :: No such file or directory

# ---- train: what is refused
status 2 train moons.csv :: -o MODEL is missing
status 2 train -o m.safetensors :: something is missing
status 1 train missing.csv -o m.safetensors :: missing.csv: No such file or directory
status 1 train moons.csv -o missing/m.safetensors :: make the folder first
mkdir folder locked
status 1 train moons.csv -o folder :: 'folder: this is a folder'
long=$(printf '%0256d' 0)
status 1 train moons.csv -o "$long" :: 'File name too long: the model could not be saved there'
ln -s nowhere/m.safetensors astray
status 1 train moons.csv -o astray :: 'No such file or directory: the model could not be saved there'
: >locked/m.safetensors
chmod 666 locked/m.safetensors
chmod 555 locked
chmod 755 .
as=
if [ "$(id -u)" -eq 0 ]; then as='setpriv --reuid 65534 --regid 65534 --clear-groups'; fi
if $as test -x "$nflow" 2>/dev/null; then # a file that can be written in a folder where none can be made, and a new one
    $as "$nflow" train moons.csv -e 1 -q -o locked/m.safetensors >output 2>errors
    if [ $? -eq 0 ] && [ -s locked/m.safetensors ]; then pass; else fail "a file in a locked folder is not written"; fi
    $as "$nflow" train moons.csv -o locked/new.safetensors >output 2>errors
    if [ $? -eq 1 ] && grep -q 'locked/new.safetensors: Permission denied: the model could' errors; then pass; else fail "a folder without permission is not noticed"; fi
fi
chmod 755 locked
ln -s moons.csv moons-link.csv
status 1 train moons.csv -o moons.csv :: 'the model would take the place of its data'
status 1 train moons.csv -o ./moons-link.csv :: 'the model would take the place of its data'
"$nflow" train - -o moons.csv <moons.csv >output 2>errors && fail "the model took the place of its data"
lines 401 moons.csv
status 2 train moons.csv -o m.safetensors --flow glow :: one of realnvp
status 2 train moons.csv -o m.safetensors --matching :: --flow cnf
status 2 train moons.csv -o m.safetensors --hidden 64x :: a width
status 2 train moons.csv -o m.safetensors -F cnf -l 3 :: a cnf has one layer
status 1 train moons.csv -o m.safetensors --columns x3 :: it has x1, x2
status 1 train moons.csv -o m.safetensors --context-columns x1 --columns 1,2 :: is a context
: >empty.csv
status 1 train empty.csv -o m.safetensors :: it has no rows
printf 'a,b\n1,2\n' >one.csv
status 1 train one.csv -o m.safetensors :: it has 1 row, and a fit needs at least 20
awk -F, 'NR == 1 { print $0 ",kind" } NR > 1 { print $0 "," (NR % 2 ? "even" : "odd") }' moons.csv >kinds.csv
status 0 train kinds.csv -o kinds.safetensors --epochs 1 :: left out, because they hold no numbers: kind
# Numbers as much of Europe writes them.
tr ,. ';,' <moons.csv | sed 's/$/;7,5/; 1s/;7,5/;c/; 5s/;7,5/;7/' >commas.csv
status 1 train commas.csv -o m.safetensors :: 'left out, because they hold no numbers: x1, x2; numbers are written with a decimal point'
status 1 train commas.csv -o m.safetensors --columns x1,c :: ', not a number: write numbers with a decimal point, and without commas'
# Years as names are numbers, and such a line is a row; this is said.
awk -F, 'NR == 1 { print "kind,2019,2020" } NR > 1 { print "a," $0 }' moons.csv >years.csv
status 0 train years.csv -o years.safetensors --epochs 1 :: 'hold no numbers: column 1; the first line is a row, for some of its fields are numbers'
{ # an array of 20 rows, whose second column is nan
    printf '\223NUMPY\1\0\100\0%-63s\n' "{'descr': '<f8', 'fortran_order': True, 'shape': (20, 2), }"
    for _ in 1 2 3 4 5 6 7 8 9 10; do printf '\0\0\0\0\0\0\360\77\0\0\0\0\0\0\0\100'; done
    for _ in 1 2 3 4 5 6 7 8 9 10; do printf '\0\0\0\0\0\0\370\177\0\0\0\0\0\0\370\177'; done
} >nans.npy
status 0 train nans.npy -o m.safetensors --epochs 1 :: 'hold no numbers: column 2'
if grep -q 'first line' errors; then fail "an array has no first line"; else pass; fi
status 1 train kinds.csv -o m.safetensors --columns x1,kind :: 'column 3 (kind) is "odd"'
sed '30s/.*/0.5,oops/' moons.csv >bad.csv
status 1 train bad.csv -o m.safetensors :: 'bad.csv: line 30, column 2 (x2) is "oops", not a number'
status 0 train bad.csv -o m.safetensors --epochs 1 --drop-missing :: left out 1 row with
# Notes of several lines in a table, and a name of two.
awk -F, 'NR == 1 { print "\"x\n1\",x2,note" } NR > 1 { print $0 ",\"it was\n\"\"" NR "\"\", they said\"" }' moons.csv >notes.csv
status 0 train notes.csv -o notes.safetensors --epochs 1 :: left out, because they hold no numbers: note
status 0 info notes.safetensors :: 'columns     x 1, x2'
status 1 train notes.csv -o m.safetensors --columns x2,note :: 'line 3, column 3 (note) is "it was "2", they said", not a number'
awk -F, '{ print $0 "," (NR == 1 ? "same" : 7) }' moons.csv >same.csv
status 1 train same.csv -o m.safetensors :: the column same is 7 in every row
awk -F, 'NR == 1 { print "x1,huge,tiny,far" } NR > 1 { printf "%s,%se170,%se-170,%se35\n", $1, $2, $2, $2 }' moons.csv >extreme.csv
status 1 train extreme.csv -o m.safetensors --columns x1,huge :: 'extreme.csv: the column huge holds'
status 1 train extreme.csv -o m.safetensors --columns x1 -c huge :: 'extreme.csv: the column huge holds'
status 1 train extreme.csv -o m.safetensors --columns x1,tiny :: 'extreme.csv: all of the column tiny lies within'
status 0 train extreme.csv -o m.safetensors --columns x1,far -e 1 :: held-out NLL
status 1 train extreme.csv -o m.safetensors --columns x1 -c far --precision single :: 'the column far holds'
rm m.safetensors
status 1 train moons.csv -o m.safetensors --rate 1e30 :: nothing to save
if [ -e m.safetensors ]; then fail "an untrained model is saved"; else pass; fi
awk -F, '{ print $0 "," (NR == 1 ? "sum" : $1 + $2) }' CONVFMT=%.17g moons.csv >sum.csv
status 0 train sum.csv -o m.safetensors --epochs 1 :: linear functions of others
if [ -e m.safetensors ]; then pass; else fail "no model was saved"; fi
printf '\223NUMPY\1\0\20\0{"shape": (9,9)} ' >lies.npy
status 1 train lies.npy -o m.safetensors :: NPY header

# ---- train and use, for each kind of flow, from a file and from a pipe
for flow in realnvp planar radial cnf; do
    status 0 train moons.csv -o $flow.safetensors --flow $flow --epochs 2 -s 3 :: held-out NLL
    status 0 info $flow.safetensors :: $flow on moons.csv, 400 rows, 40 held out
    "$nflow" sample $flow.safetensors -n 50 | "$nflow" logprob $flow.safetensors - >output 2>errors
    lines 51 output
done
cp realnvp.safetensors kept.safetensors
for command in 'sample kept.safetensors' 'logprob kept.safetensors moons.csv' 'transform kept.safetensors moons.csv'; do
    status 1 $command -o kept.safetensors :: 'the table would take the place of the model'
done
if cmp -s kept.safetensors realnvp.safetensors; then pass; else fail "a table took the place of the model"; fi
status 0 train moons.csv -o all.safetensors -v 0 --epochs 2 :: training NLL
if grep -q 'held-out' errors; then fail "nothing is held out, and a held-out NLL told"; else pass; fi
status 0 info all.safetensors :: nats a row in training
if grep -q 'NLL.*held out' output; then fail "info tells a held-out NLL"; else pass; fi
status 0 train moons.csv -o all.safetensors -v 0 --epochs 2 --json :: '"held_out_nll":null'
status 0 train moons.csv -o again.safetensors --epochs 2 -s 3 -q -t 1
if [ -s errors ]; then fail "-q is not quiet"; else pass; fi
if cmp -s again.safetensors realnvp.safetensors; then pass; else fail "the same command gives another model"; fi
"$nflow" train - -o - -q --epochs 2 -s 3 <moons.csv 2>errors | "$nflow" info - >output 2>>errors
if grep -q 'standard input' output; then pass; else fail "train - -o - | info -"; fi
status 0 train moons.npy -o npy.safetensors --epochs 2 -q -F cnf --matching
"$nflow" train moons.csv -o m.safetensors --epochs 3 --json >output 2>errors
if [ "$(grep -c '"event": *"epoch"' output)" -eq 3 ] && tail -n 1 output | grep -q '"event": *"done"' && [ ! -s errors ]; then pass; else fail "train --json"; fi

# The held-out likelihood that train tells is that of logprob: whitening and contexts are in the model.
awk -F, 'NR == 1 { print "a,price,given" } NR > 1 { printf "%.17g,%.17g,%.17g\n", $1, 1000 * $1 + 30 * $2 + 5000, 1990 + 10 * $2 }' moons.csv >units.csv
honest() { # TABLE MODEL WORDS: train TABLE with these words, nearly all of it held out
    table=$1
    file=$2
    shift 2
    status 0 train "$table" -o "$file" -v 0.9 --json "$@"
    told=$(tail -n 1 output | sed 's/.*"held_out_nll":\([-0-9.e]*\).*/\1/')
    status 0 logprob "$file" "$table" --mean --json
    found=$(sed 's/.*"mean_nll": \([-0-9.e]*\).*/\1/' output)
    if awk -v a="$told" -v b="$found" 'BEGIN { near = 0.3 + 0.005 * b; exit !(b != "" && a - b < near && b - a < near) }'; then pass; else fail "train $table $* tells an NLL of $told, logprob of $found"; fi
}
honest units.csv units.safetensors -c given --epochs 5
# Far from 0, where single precision sees steps of 128: whitened or not, one column, a context, and more columns than are whitened.
awk -F, 'NR == 1 { print "time,x2" } NR > 1 { printf "%.17g,%.17g\n", 1.7e9 + 10 * $1, $2 }' moons.csv >far.csv
awk 'BEGIN { for (c = 1; c < 258; c++) printf "%sv%d", (c > 1 ? "," : ""), c; print ""; srand(7); for (r = 0; r < 300; r++) for (c = 1; c < 258; c++) printf "%.12g%s", 1.7e9 + 10 * rand(), (c < 257 ? "," : "\n") }' >wide.csv
honest far.csv far.safetensors --columns time --epochs 5
honest far.csv far.safetensors --columns x2 -c time --epochs 5
honest far.csv far.safetensors --no-whitening --epochs 5
honest far.csv far.safetensors --precision single --epochs 5
status 0 train far.csv -o far.safetensors --precision single --epochs 5 :: too far from 0
status 0 train far.csv -o far.safetensors --precision single --epochs 5 -v 0 --columns x2 -c time :: too far from 0
for precision in single double; do
    status 0 train units.csv -o units.safetensors -c given --precision $precision --epochs 5
    if grep -q 'too far from 0' errors; then fail "a good model is complained of"; else pass; fi
done
honest wide.csv wide.safetensors --epochs 1 --flow planar --layers 1
awk -F, 'NR > 1 { print $2 ";" $3 ";" $1 } NR == 1 { print "price;given;a" }' units.csv >turned.csv
"$nflow" logprob units.safetensors turned.csv >turned.txt
"$nflow" logprob units.safetensors units.csv >straight.txt
if cmp -s turned.txt straight.txt; then pass; else fail "columns are not found by name"; fi
status 2 sample units.safetensors :: takes a context of 1 number '(given)'
status 0 sample units.safetensors -n 3 -c 1995 :: a,price,given
status 2 sample units.safetensors -n 3 -c 1,2 :: takes 1
status 0 sample units.safetensors -n 2 -C units.csv -o many.csv
lines 801 many.csv
status 2 sample realnvp.safetensors -c 1 :: takes no context
awk -F, '{ print (NR == 1 ? "w" : 1 + NR % 3) "," $0 }' moons.csv >weights.csv
status 0 train weights.csv -o m.safetensors -w w --epochs 1 :: 2 columns
"$nflow" train weights.csv -o small.safetensors -w w --epochs 2 -q
awk -F, 'NR == 1 { print } NR > 1 { printf "%.17ge307,%s,%s\n", $1, $2, $3 }' weights.csv >weighty.csv
status 0 train weighty.csv -o large.safetensors -w w --epochs 2 :: held-out NLL
"$nflow" logprob small.safetensors moons.csv --mean >small.txt
"$nflow" logprob large.safetensors moons.csv --mean | sed 's/large/small/' >large.txt
if cmp -s small.txt large.txt; then pass; else fail "weights of another size make another model"; fi
awk -F, '{ print (NR == 1 ? "w" : NR % 10 == 0) "," $0 }' moons.csv >sparse.csv
status 0 train sparse.csv -o sparse.safetensors -w w --epochs 3 :: left out 360 rows of weight 0
status 0 info sparse.safetensors :: 40 rows, 4 held out
awk -F, '{ print (NR == 1 ? "w" : NR % 100 == 0) "," $0 }' moons.csv >rare.csv
status 1 train rare.csv -o sparse.safetensors -w w :: it has 4 rows with a weight
awk -F, '{ print (NR == 1 ? "w" : 0) "," $0 }' moons.csv >weightless.csv
status 1 train weightless.csv -o sparse.safetensors -w w :: all weights are 0
awk -F, 'NR == 1 { print } NR > 1 { printf "%.1f,%.1f\n", $1, $2 }' moons.csv >rounded.csv
status 0 train rounded.csv -o m.safetensors --epochs 1 :: repeat few values
status 0 train rounded.csv -o m.safetensors --epochs 1 --jitter all :: uniform, 0.1 wide
awk 'NR == 1 { print } NR > 1 { for (i = 0; i < 4; i++) print }' moons.csv >chain.csv
status 0 train chain.csv -o m.safetensors --epochs 1 :: 1200 of 1600 rows repeat another
# Rounded rows meet by chance, in one column all the more: that is no chain.
awk 'BEGIN { print "a"; for (i = 1; i <= 1000; i++) printf "%.3f\n", (i * 0.6180339887 % 1) * 0.7 + 0.01 * (i % 7) }' >meeting.csv
awk 'BEGIN { srand(1); print "a,b"; for (i = 1; i <= 1000; i++) printf "%d,%d\n", rand() * 150, rand() * 10 }' >pairs.csv
for words in meeting.csv 'pairs.csv --context-columns b'; do
    # shellcheck disable=SC2086
    status 0 train $words -o m.safetensors --epochs 1 :: 1000 rows of 1 column
    if grep -q 'repeat another' errors; then fail "rounded rows are taken for a chain: $words"; else pass; fi
done
# What is said to be typed can be typed.
for names in '' '"a, b",c' '"it'"'"'s",a-1' '"a column that has so many letters that they are cut off",'; do
    { [ "$names" ] && echo "$names"; tail -n +2 rounded.csv; } >named.csv
    "$nflow" train named.csv -o m.safetensors --epochs 1 2>errors
    jitter=$(sed -n "s/.*'\(--jitter .*\)' spreads.*/\1/p" errors)
    eval "status 0 train named.csv -o m.safetensors --epochs 1 $jitter :: uniform, 0.1 wide"
    if [ "$(grep -c '^nflow train: jitter of' errors)" -eq 2 ]; then pass; else fail "$jitter is not of both columns"; fi
done

# ---- names: one for each column
awk -F, '{ print (NR == 1 ? "" : NR - 2) "," $0 }' moons.csv >index.csv # as pandas writes it
status 0 train index.csv -o index.safetensors --epochs 1 :: 'another: column 1 as x1_'
status 0 info index.safetensors :: x1_, x1, x2
status 0 logprob index.safetensors index.csv
cp output by-name.txt
status 0 logprob index.safetensors index.csv --columns 1-3
if cmp -s output by-name.txt; then pass; else fail "a column of the table is used twice"; fi
status 0 train index.csv -c 1 -o m.safetensors --epochs 1
status 0 info m.safetensors :: 'given       x1_'
sed '1s/.*/a,a/' moons.csv >twice.csv
status 0 train twice.csv -o m.safetensors --epochs 1 :: 'column 1 as x1, column 2 as x2'
status 0 logprob m.safetensors twice.csv
status 1 train twice.csv -o m.safetensors --columns a :: 'more than one column is called "a": say which one by its number'
awk -F, '{ print $0 "," $1 }' moons.csv >thrice.csv
status 1 logprob realnvp.safetensors thrice.csv :: 'more than one column is called "x1": say which to take with --columns'
status 0 logprob realnvp.safetensors thrice.csv --columns 1,2

printf '# a table\n\303\251,gr\366\337e\n' >latin.csv
sed 1d moons.csv >>latin.csv
status 1 train latin.csv -o m.safetensors --epochs 1 :: 'latin.csv: line 2, column 2: its name is not in UTF-8: convert the table'
LC_ALL=C awk -F, '{ print $0 "," (NR == 2 ? "product" : $1 * $2) }' latin.csv >mixed.csv
status 0 train mixed.csv --columns 1,3 -o m.safetensors --epochs 1
status 0 logprob m.safetensors mixed.csv

sed 's/,.*//' moons.csv | sed '1s/.*/"my ""value"""/' >blank.csv
status 0 train blank.csv -o blank.safetensors --epochs 1 :: 1 column
"$nflow" sample blank.safetensors -n 3 | "$nflow" logprob blank.safetensors - >output 2>errors
lines 4 output

# Columns that are added differ from those that are there, and are found again.
sed '1s/.*/z2,log_det/' moons.csv >z.csv
status 0 train z.csv -o z.safetensors --epochs 1
status 0 transform z.safetensors z.csv --append --log-det -o added.csv
if [ "$(head -n 1 added.csv)" = z2,log_det,z1,z2_,log_det_ ]; then pass; else fail "added columns are called $(head -n 1 added.csv)"; fi
"$nflow" transform z.safetensors added.csv --to data --digits 9 | sed 1d >back.txt
"$nflow" transform z.safetensors z.csv | "$nflow" transform z.safetensors - --to data --digits 9 | sed 1d >straight.txt
if cmp -s back.txt straight.txt; then pass; else fail "added columns are not what is carried back"; fi
sed '1s/.*/a,score_a/' moons.csv >score.csv
status 0 train score.csv -o score.safetensors --epochs 1
status 0 score score.safetensors score.csv -a :: a,score_a,score_a_,score_score_a
sed '1s/.*/a,log_prob/' moons.csv >score.csv
status 0 train score.csv -o score.safetensors --epochs 1
status 0 logprob score.safetensors score.csv -a :: a,log_prob,log_prob_
status 0 sample score.safetensors --log-prob :: a,log_prob,log_prob_

# ---- places: a table without names has its columns where the training table had them
same() { if cmp -s "$1" "$2"; then pass; else fail "$3"; fi; }
awk -F, 'NR > 1 { print 1990 + 10 * $2 "," $1 "," $2 * $2 "," 1 }' moons.csv >places.csv
status 0 train places.csv -c 1 -w 4 -o places.safetensors --epochs 2 -q
"$nflow" info places.safetensors --json | tr -d ' \n' >output
if grep -qF '"places":{"of":4,"columns":[2,3],"context_columns":[1]}' output; then pass; else fail "info --json does not say where the columns stood"; fi
status 0 logprob places.safetensors places.csv
cp output places.txt
(echo x1,x2,x3,x4 && cat places.csv) >named.csv
status 0 logprob places.safetensors named.csv
same output places.txt "columns without names are not found where they were"
cut -d, -f1-3 places.csv >three.csv
status 0 logprob places.safetensors three.csv
same output places.txt "columns without names are not found in their order"
status 0 logprob places.safetensors three.csv --columns 2,3
same output places.txt "the context is not the column beside those that are given"
status 1 logprob places.safetensors places.csv --columns 2,3 :: '2 columns are left for the context, and places.safetensors takes 1: say which with --context-columns'
status 0 logprob places.safetensors places.csv --columns 2,3 --context-columns 1
same output places.txt "the context is not the column that is given"
awk -F, '{ print $1 "," $1 }' named.csv >contexts.csv
status 1 sample places.safetensors -C contexts.csv :: 'more than one column is called "x1"'
if grep -q -e --context-columns errors; then fail "sample is told to take an option that it has not"; else pass; fi
sed '1s/.*/a,b,c,d/' named.csv >other.csv
status 1 logprob places.safetensors other.csv --columns b,c :: 'there is no column "x1", which is a context of places.safetensors; say which it is'
status 0 logprob places.safetensors other.csv --columns b,c --context-columns a
same output places.txt "the context is not the column of the name that is given"
status 1 logprob places.safetensors other.csv --columns b,c --context-columns c :: 'the column "c" would be both data and context'
status 1 logprob places.safetensors other.csv --columns b,c --context-columns a,d :: 'these are 2, and places.safetensors takes 1'
status 2 logprob realnvp.safetensors moons.csv --context-columns 1 :: takes no context
status 1 diagnose places.safetensors other.csv --columns b,c --context-columns b :: both data and context
status 1 logprob places.safetensors named.csv --columns 1,2 :: 'the column "x1" would be both data and context'
status 0 logprob places.safetensors places.csv --append :: x1,x2,x3,log_prob
status 0 sample places.safetensors -n 2 -C places.csv -s 4 -o places.npy
status 0 logprob places.safetensors places.npy
cp output places.txt
"$nflow" sample places.safetensors -n 2 -C named.csv -s 4 | "$nflow" logprob places.safetensors - >output
same output places.txt "sample writes its columns in another order than they are read in"
cut -d, -f1 places.csv | "$nflow" sample places.safetensors -n 2 -C - -s 4 | "$nflow" logprob places.safetensors - >output
same output places.txt "contexts alone are not taken as they are"
"$nflow" transform places.safetensors named.csv -a | "$nflow" transform places.safetensors - --to data -o back.csv
"$nflow" transform places.safetensors places.csv | paste -d, - named.csv | cut -d, -f1-3 >latent.csv
sed 1d latent.csv | "$nflow" transform places.safetensors - --to data >output
same output back.csv "the latent space has places of the data"
"$nflow" transform places.safetensors places.csv >latent.csv
if [ "$(head -n 1 latent.csv)" = z1,z2,x1 ]; then pass; else fail "the columns of the latent space are $(head -n 1 latent.csv)"; fi
"$nflow" transform places.safetensors latent.csv --to data --log-det -o there.csv
"$nflow" transform places.safetensors latent.csv --to data -o there.npy
if [ "$(head -n 1 there.csv)" = x1,x2,x3,log_det ]; then pass; else fail "the columns of the data are $(head -n 1 there.csv)"; fi
"$nflow" logprob places.safetensors there.csv >back.csv
status 0 logprob places.safetensors there.npy
same output back.csv "the context does not go along to the data"
status 0 logprob places.safetensors there.csv --mean --digits 5
cp output back.csv
status 0 logprob places.safetensors places.csv --mean --digits 5
same output back.csv "the context does not go along to the latent space"
"$nflow" transform places.safetensors latent.csv --to data -f npy | "$nflow" transform places.safetensors - -f npy |
    "$nflow" transform places.safetensors - --to data --digits 6 >output
"$nflow" transform places.safetensors latent.csv --to data --digits 6 >back.csv
same output back.csv "the context does not go along without names"
status 0 train places.csv --columns 3,2 -o turned.safetensors --epochs 2 -q
"$nflow" transform turned.safetensors places.csv | "$nflow" transform turned.safetensors - --to data -f npy >there.npy
status 0 logprob turned.safetensors there.npy --mean --digits 5
cp output back.csv
status 0 logprob turned.safetensors places.csv --mean --digits 5
same output back.csv "data are not written where the model has them"

# ---- evaluating
status 1 logprob moons.csv realnvp.safetensors :: this is not a model file
status 1 logprob realnvp.safetensors one.csv :: there is no column '"x1"'
status 1 logprob realnvp.safetensors bad.csv :: line 30
status 2 logprob - - :: only one of the files
status 2 logprob realnvp.safetensors :: something is missing
status 0 transform realnvp.safetensors moons.csv -o z.csv
status 0 transform realnvp.safetensors z.csv --to data -o back.npy
status 0 logprob realnvp.safetensors back.npy --mean --json
cp output one.txt
status 0 logprob realnvp.safetensors moons.csv --mean --json
if [ "$(sed 's/\(nll": [-0-9.]\{10\}\).*/\1/' one.txt)" = "$(sed 's/\(nll": [-0-9.]\{10\}\).*/\1/' output)" ]; then pass; else fail "transform and back"; fi
status 0 logprob realnvp.safetensors moons.csv --mean -f json
cp output two.txt
status 0 logprob realnvp.safetensors moons.csv -m -o three.json
status 0 logprob realnvp.safetensors moons.csv -m --json
if cmp -s output two.txt && cmp -s output three.json; then pass; else fail "logprob --mean has its own output"; fi
status 0 logprob realnvp.safetensors moons.csv -m -o mean.csv
if [ "$(head -n 1 mean.csv)" = rows,bad_rows,mean_nll,standard_error ] && grep -q "$(sed 's/.*nll": \([-0-9.]*\).*/\1/' two.txt)" mean.csv; then pass; else fail "logprob -m -o mean.csv"; fi
status 2 logprob realnvp.safetensors moons.csv --mean --append :: --mean and --append
status 2 plot realnvp.safetensors --terminal -o terminal.png :: leave out --output
status 2 plot realnvp.safetensors --terminal --size 800x600 :: leave out --output
status 0 transform realnvp.safetensors moons.csv --append --log-det :: x1,x2,z1,z2,log_det
status 0 score realnvp.safetensors moons.csv --append :: x1,x2,score_x1,score_x2
status 0 logprob realnvp.safetensors moons.csv --json :: '"columns": ["log_prob"]'
status 0 info realnvp.safetensors --json :: '"columns"'
latin=$(printf 'l\344.safetensors')
if cp realnvp.safetensors "$latin" 2>/dev/null; then status 0 info "$latin" --json :: '"file": "l?.safetensors"'; fi
status 0 info realnvp.safetensors --tensors :: layers.0.net.0.weight
status 1 info moons.csv :: not a model file
if [ -c /dev/zero ] && (ulimit -v 4000000 && "$nflow" --version) >/dev/null 2>&1; then # a sanitizer wants more addresses than that
    (ulimit -v 4000000; "$nflow" info /dev/zero) >output 2>errors
    if grep -q 'does not begin with {' errors; then pass; else fail "nflow info reads /dev/zero to no end"; fi
fi
status 1 import moons.csv -o imported.safetensors :: no safetensors file
status 1 import realnvp.safetensors -o imported.safetensors :: a model of nflow already
status 1 import missing.safetensors -o imported.safetensors :: No such file
status 2 import realnvp.safetensors :: where to
status 0 import "$exports/cnf.safetensors" -o imported.safetensors --t0 1 --t1 2 --base-variance 3 :: hypernetwork CNF
status 0 info imported.safetensors --json :: '"t0": 1.0'
status 0 import "$exports/cnf.safetensors" -o imported.safetensors
status 0 info imported.safetensors --json :: '"t1": 10.0'
# It has no names; what is written for it is found among other columns all the same.
status 0 import "$exports/zuko_nice.safetensors" -o given.safetensors
"$nflow" sample given.safetensors -n 5 -c .5,-1 --log-prob -o drawn.csv
"$nflow" sample given.safetensors -n 5 -c .5,-1 -o plain.csv
"$nflow" logprob given.safetensors plain.csv >back.csv
status 0 logprob given.safetensors drawn.csv
same output back.csv "a model without names does not find the columns that it writes beside others"
"$nflow" transform given.safetensors drawn.csv --log-det >there.csv
status 0 transform given.safetensors there.csv --to data --digits 9
cp output back.csv
"$nflow" transform given.safetensors plain.csv | "$nflow" transform given.safetensors - --to data --digits 9 >output
same output back.csv "a model without names does not find its context beside others"
sed '1s/x1/y/' drawn.csv >other.csv
status 1 logprob given.safetensors other.csv :: 'it has 6 columns, and given.safetensors takes 3 and 2 of context'
for option in t0 t1 base-variance; do
    status 2 import "$exports/nflows_actnorm.safetensors" -o imported.safetensors --$option 1 :: "--$option: "
done
cp "$exports/nflows_actnorm.safetensors" exported.safetensors
status 1 import exported.safetensors -o ./exported.safetensors :: would take the place
if cmp -s "$exports/nflows_actnorm.safetensors" exported.safetensors; then pass; else fail "import wrote over what it read"; fi
status 0 diagnose realnvp.safetensors :: checks failed
awk -F, 'NR == 1 { print } NR > 1 { print $1 + 3 "," $2 }' moons.csv >moved.csv
status 3 diagnose realnvp.safetensors moved.csv :: 'of column x1'
if grep -q '^FAILED .* of column x1$' output && ! grep -q 'row 0' output; then pass; else fail "diagnose counts rows from 0, or says more of the column"; fi
if [ "$(awk 'length > 80' output | wc -l)" -ne 0 ]; then fail "nflow diagnose is wider than 80 columns"; else pass; fi
# A row has the number that it has in the table, also behind rows that were left out.
sed '1!d' moved.csv >behind.csv
sed 's/.*/NA,NA/; 40q' moved.csv >>behind.csv
sed 1d moved.csv >>behind.csv
"$nflow" diagnose realnvp.safetensors moved.csv | awk '/at row/ {sub(/.*at row /, ""); print $1 + 40}' >expected
"$nflow" diagnose realnvp.safetensors behind.csv --drop-missing 2>errors | awk '/at row/ {sub(/.*at row /, ""); print $1 + 0}' >output
if cmp -s expected output && [ -s output ]; then pass; else fail "diagnose counts the rows that --drop-missing left, not the table's"; fi
# The same of JSON, which has all checks.
"$nflow" diagnose realnvp.safetensors behind.csv --drop-missing --json 2>errors >output
sed -n 's/.*"row": \([0-9]*\).*/\1/p' output | cmp -s expected - && pass || fail "diagnose --json has other rows"
if [ "$(grep -c '"verdict"' output)" -eq 13 ] && grep -q '"column": "x1"' output; then pass; else fail "diagnose --json leaves out checks or the column"; fi
status 3 diagnose realnvp.safetensors --significance 1 :: 'at least 1 '
status 2 diagnose realnvp.safetensors moved.csv --significance 0 :: --significance 0: this should be above 0
status 2 diagnose realnvp.safetensors moved.csv --significance 1.5 :: --significance 1.5: this should be above 0
status 2 diagnose units.safetensors :: needs data
printf 'x1,x2\n1,2\n,2\n,3\n1e300,1\n' >far.csv
status 1 logprob realnvp.safetensors far.csv --drop-missing :: first row 4
if [ -w /dev/full ]; then
    "$nflow" data two_moons >/dev/full 2>errors
    if [ $? -eq 1 ] && grep -q 'No space left' errors; then pass; else fail "a full disk is not noticed"; fi
fi

# ---- files are replaced whole or not at all, and where they are
cp moons.csv keep.csv
chmod 640 keep.csv
for limited in keep.csv new.npy realnvp.safetensors; do
    cp $limited before 2>/dev/null || rm -f before
    (
        ulimit -f 8
        trap '' XFSZ
        if [ $limited = realnvp.safetensors ]; then "$nflow" train moons.csv -q --epochs 1 -o $limited; else "$nflow" sample realnvp.safetensors -n 100000 -o $limited; fi
    ) >output 2>errors
    if [ $? -eq 1 ] && grep -q "$limited: File too large" errors; then pass; else fail "$limited: a write that fails is not said"; fi
    if [ ! -e before ] && [ ! -e $limited ] || cmp -s before $limited; then pass; else fail "$limited is written in part"; fi
done
status 0 sample realnvp.safetensors -n 7 -o keep.csv
lines 8 keep.csv
if [ "$(ls -l keep.csv | cut -c1-10)" = -rw-r----- ]; then pass; else fail "a table has another mode"; fi
mkdir -p folder
ln -s folder/real.csv link.csv
for rows in 1 2; do # the link leads nowhere, and then to a file
    status 0 sample realnvp.safetensors -n $rows -o link.csv
    lines $((rows + 1)) folder/real.csv
done
cp realnvp.safetensors folder/real.safetensors
ln -s folder/real.safetensors link.safetensors
status 0 train moons.csv -q --epochs 1 -o link.safetensors
if [ -h link.csv ] && [ -h link.safetensors ]; then pass; else fail "a link is replaced"; fi
if cmp -s realnvp.safetensors folder/real.safetensors; then fail "a model is not written where a link leads"; else pass; fi
if [ -e /dev/stdout ] && [ -e /dev/fd/1 ]; then
    (echo first && "$nflow" sample realnvp.safetensors -n 2 -o /dev/stdout) >output 2>errors
    lines 4 output
    status 0 train moons.csv -e 1 -q -o /dev/fd/3 3>open.safetensors
    status 0 info open.safetensors
    "$nflow" sample realnvp.safetensors -n 2 -o /dev/fd/3 3>output 2>errors
    lines 3 output
    "$nflow" sample realnvp.safetensors -n 2 -o /dev/stdout 2>errors | cat >output
    lines 3 output
fi
cp moons.csv keep.csv
"$nflow" data two_moons -n 1000000 -o keep.csv >output 2>errors &
job=$!
tries=0
while ! ls -A | grep -q nflow- && [ $tries -lt 600 ]; do
    tries=$((tries + 1))
    sleep 0.02
done
kill -TERM $job 2>/dev/null
wait $job 2>/dev/null
got=$?
if [ $got -eq 143 ]; then
    if cmp -s keep.csv moons.csv; then pass; else fail "a write that a signal ends is there in part"; fi
elif [ $got -ne 0 ]; then # 0: it was over before the signal came
    fail "a write that a signal ends: status $got"
fi
if ls -A . folder | grep -q nflow-; then fail "temporary files are left"; else pass; fi

# ---- pictures
status 0 plot realnvp.safetensors moons.csv -T --ascii :: samples of the flow
if [ "$(awk 'length > 80' output | wc -l)" -eq 0 ]; then pass; else fail "the view is wider than 80 columns"; fi
LC_ALL=C.UTF-8 "$nflow" plot realnvp.safetensors moons.csv -T -W latent >output 2>errors
if grep -q '│' output; then pass; else fail "no frame in UTF-8"; fi
status 0 plot realnvp.safetensors -T --ascii -W curve :: held-out loss
status 0 plot realnvp.safetensors moons.csv -T --ascii --columns x2 :: x2
awk -F, 'NR == 1 { print "time,x2" } NR > 1 { printf "%.17g,%.17g\n", 1.7e9 + 1200 * ($1 + 1), $2 }' moons.csv >far.csv
status 0 train far.csv -o far.safetensors --epochs 2 -s 3
status 0 plot far.safetensors far.csv -T --ascii :: time 169999
status 2 plot realnvp.safetensors moons.csv -o picture.gif :: .png, .svg or .pdf
status 1 plot realnvp.safetensors moons.csv --columns x3 :: it has x1, x2
status 2 plot realnvp.safetensors -W latent -T :: this needs data
if command -v gnuplot >/dev/null; then
    status 0 plot realnvp.safetensors moons.csv :: drew realnvp.png
    for what in overview density latent pairs curve; do
        status 0 plot realnvp.safetensors moons.csv -W $what -o $what.svg
        if grep -q '</svg>' $what.svg; then pass; else fail "$what.svg is no picture"; fi
    done
    status 0 plot units.safetensors units.csv -c 1995 -o units.pdf
    if head -c 5 units.pdf | grep -q %PDF-; then pass; else fail "units.pdf is no picture"; fi
    status 1 plot realnvp.safetensors -o missing/a.png :: 'missing/a.png: No such file'
    ln -s realnvp.png linked.png
    status 0 plot realnvp.safetensors moons.csv -W curve -o linked.png
    if [ -h linked.png ] && tail -c 12 realnvp.png | grep -q IEND; then pass; else fail "a picture takes the place of a link"; fi
    if [ -c /dev/full ]; then
        ln -s /dev/full full.png
        status 1 plot realnvp.safetensors moons.csv -W curve -o full.png :: 'full.png: No space left'
    fi
    cp realnvp.safetensors model.png
    status 1 plot model.png :: 'the picture would take the place of the model'
    # A signal leaves nothing in the temporary directory.
    mkdir temporary
    for seconds in 0.1 0.2 0.3 0.5; do
        TMPDIR=$PWD/temporary timeout -s TERM $seconds "$nflow" plot realnvp.safetensors moons.csv -q -o ended.png 2>errors
        if [ -z "$(ls temporary)" ]; then pass; else fail "nflow plot leaves $(ls temporary) after $seconds s"; fi
    done
    # Names of all kinds: cut between characters, well-formed XML, and no commands or folders of gnuplot's or the shell's.
    umlauts=a$(printf '\303\274%.0s' $(seq 40))
    odd=$(printf '|~\t\001\377\355\240\200\303\274<&>"`\047$(id)\\101')
    cp realnvp.safetensors "$umlauts.safetensors"
    status 0 plot "$umlauts.safetensors" moons.csv -o umlauts.svg
    status 0 plot realnvp.safetensors moons.csv --title "$odd" -o "$odd.svg"
    if [ -s "$odd.svg" ]; then pass; else fail "the picture is not where -o says"; fi
    if command -v python3 >/dev/null; then
        { cat moons.csv; echo 1e9,0; } >outlier.csv
        status 0 plot realnvp.safetensors outlier.csv -W density -o outlier.svg
        if python3 -c 'import base64, re, sys, zlib
png = base64.b64decode(re.search("base64,([^\x27]*)", open(sys.argv[1]).read()).group(1))
sys.exit(zlib.decompressobj().decompress(png[png.index(b"IDAT") + 4:])[1:4] != b"\xff\xff\xff")' outlier.svg; then pass; else fail "a density of 0 is not white"; fi
        for picture in umlauts.svg "$odd.svg"; do
            if python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$picture" 2>errors; then pass; else fail "$picture is not well-formed"; fi
        done
    fi
    # A column far from 0: its offset is told, the tics differ, and the data (of their colour) are not on one line.
    for what in pairs overview; do
        status 0 plot far.safetensors far.csv -W $what -o far.svg
        if grep -q 'time - 1700000000<' far.svg && grep -q '> *2000<' far.svg; then pass; else fail "far.svg of $what has no tics beside its offset"; fi
    done
    if [ "$(sed -n '/rgb( *31, *78, *121)/s/.*translate(\([0-9.]*\),.*/\1/p' far.svg | sort -u | wc -l)" -gt 300 ]; then pass; else fail "far.svg has its points on a line"; fi
fi

# ---- interrupts: the best model so far is saved, and --resume ends with the bits of a fit that was never stopped
status 0 train moons.csv -o whole.safetensors --epochs 60 -q
# Until the job in the background, whose words go to errors, has told of its first epochs, or half a minute has passed. What another has left
# there is gone before the job begins, not only once it has come so far as to empty the file.
wait_for_epochs() {
    tries=0
    while ! grep -q 'epoch  *[23]/' errors && [ $tries -lt 600 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
}
: >errors
(
    trap '' INT
    exec "$nflow" train moons.csv -o deaf.safetensors --epochs 60
) >output 2>errors &
job=$!
wait_for_epochs
kill -INT $job 2>/dev/null
wait $job
got=$?
if [ $got -eq 0 ]; then pass; else fail "an interrupt that is ignored ends a fit with $got"; fi
if cmp -s deaf.safetensors whole.safetensors; then pass; else fail "a fit that ignores an interrupt has another result"; fi
# A fit may be over (0), or be at saving, where a signal ends it (143), before the signal comes: then there is another.
tries_left=9
got=0
while [ $tries_left -gt 0 ] && { [ $got -eq 0 ] || [ $got -eq 143 ]; }; do
    tries_left=$((tries_left - 1))
    rm -f stopped.safetensors*
    : >errors
    "$nflow" train moons.csv -o stopped.safetensors --epochs 60 --resume >output 2>errors &
    job=$!
    wait_for_epochs
    kill -TERM $job 2>/dev/null
    wait $job
    got=$?
done
if [ $got -eq 130 ]; then
    if [ -s stopped.safetensors ] && [ -s stopped.safetensors.checkpoint ]; then pass; else fail "an interrupted fit is not saved"; fi
    status 0 info stopped.safetensors
    status 1 train moons.csv -o stopped.safetensors --epochs 61 --resume :: begun with other data or options
else
    fail "an interrupted fit ends with $got"
fi
status 0 train moons.csv -o stopped.safetensors --epochs 60 --resume
if cmp -s stopped.safetensors whole.safetensors && [ ! -e stopped.safetensors.checkpoint ] && [ ! -e stopped.safetensors.checkpoint.curve ]; then pass; else fail "a fit that was taken up differs"; fi
# A checkpoint lies beside a file, not in /dev; and the words of --json are not among the bytes of a model.
status 2 train moons.csv -o /dev/null --resume -e 1 :: --resume: the checkpoint
for place in - /dev/stdout; do
    "$nflow" train moons.csv -o $place --resume -e 1 2>errors | cat >output
    if grep -q -e '--resume: the checkpoint' errors; then pass; else fail "train -o $place --resume"; fi
    "$nflow" train moons.csv -o $place --json -e 1 2>errors | cat >output.safetensors
    if "$nflow" info output.safetensors >output && grep -q '"event"' errors; then pass; else fail "train -o $place --json does not write the model alone"; fi
done
# What is no checkpoint.
: >broken.safetensors.checkpoint
status 1 train moons.csv -o broken.safetensors --resume -e 2 :: "broken.safetensors.checkpoint: it is not what a fit leaves there"

# Killed again and again, with an older model in the place.
cp kinds.safetensors killed.safetensors
for kill in 1 2 3; do
    "$nflow" train moons.csv -o killed.safetensors --epochs 60 --resume -q 2>errors &
    job=$!
    sleep 0.2
    kill -KILL $job 2>/dev/null
    wait $job 2>/dev/null
done
status 0 train moons.csv -o killed.safetensors --epochs 60 --resume -q
if cmp -s killed.safetensors whole.safetensors && [ ! -e killed.safetensors.checkpoint ] && [ ! -e killed.safetensors.checkpoint.curve ]; then pass; else fail "a fit that was killed differs"; fi

printf 'nflow: %d of %d checks passed\n' $passed $((passed + failed))
[ $failed -eq 0 ]
