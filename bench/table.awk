# The JSON lines of the benchmarks as tables: medians over the runs of each figure, its spread, the ratio to the FMA peak, and PyTorch's time over ours;
# the kernels with OpenBLAS's time over ours, the elementary functions and planar layers by the nanosecond.
# usage: awk -f bench/table.awk build/bench.jsonl
function field(name,    m) {
    if (match($0, "\"" name "\": *\"[^\"]*\"")) { m = substr($0, RSTART, RLENGTH); sub(/^[^:]*: *"/, "", m); sub(/"$/, "", m); return m }
    if (match($0, "\"" name "\": *[-0-9.e+]+")) { m = substr($0, RSTART, RLENGTH); sub(/^[^:]*: */, "", m); return m }
    return ""
}
function median(key,    n, i, j, t, a) {
    n = count[key]
    for (i = 1; i <= n; i++) a[i] = value[key, i] + 0
    for (i = 2; i <= n; i++) { t = a[i]; for (j = i - 1; j >= 1 && a[j] > t; j--) a[j + 1] = a[j]; a[j + 1] = t }
    return n ? a[int((n + 1) / 2)] : 0
}
function note(key, v) { if (v != "") value[key, ++count[key]] = v }
{
    by = field("by"); id = field("flow") " " field("size") " " field("real") " " field("threads") " " field("work")
    if (by == "processor") { note("peak " field("real"), field("gflops")); next }
    if (field("mib") != "") { memory[++memories] = sprintf("%-40s %8.1f MiB, %8.1f beside the rows", id, field("mib"), field("mib_beside_rows")); next }
    if (by == "openblas") { note(id " openblas", field("us")); next }
    if (field("ns") != "") { if (count[id " ns"] == 0) small[++smalls] = id; note(id " ns", field("ns")); note(id " of_forward", field("of_forward")); next }
    if (field("flow") == "dense") {
        if (count[id " us"] == 0) dense[++denses] = id
        note(id " us", field("us")); note(id " gflops", field("gflops")); note(id " peak", field("of_peak"))
        next
    }
    if (by == "libnflow") {
        if (!(id in seen)) { seen[id] = 1; order[++ids] = id }
        note(id " us", field("us")); note(id " peak", field("of_peak")); note(id " rows", field("rows_per_s"))
        if (field("us_low") == "") next
        if (low[id] == "" || field("us_low") + 0 < low[id]) low[id] = field("us_low") + 0
        if (field("us_high") + 0 > high[id]) high[id] = field("us_high") + 0
    } else if (by ~ /^torch/) {
        note(id " " by " " field("isa"), field("us")); builds[field("isa")] = 1
    }
}
function best(id, by,    b, t, m) {
    m = 0
    for (b in builds) { t = median(id " " by " " b); if (t > 0 && (m == 0 || t < m)) m = t }
    return m
}
function ratio(id, by, us,    t) { t = best(id, by); return t > 0 ? sprintf("%.1f", t / us) : "-" }
function kernels(    i, id, us) {
    if (denses)
        printf "\n%-50s %12s %12s %8s %10s\n", "dense size real threads product", "us", "GFLOP/s", "of peak", "x OpenBLAS"
    for (i = 1; i <= denses; i++) {
        id = dense[i]; us = median(id " us")
        printf "%-50s %12.4g %12.1f %8.3f %10s\n", id, us, median(id " gflops"), median(id " peak"), \
            count[id " openblas"] ? sprintf("%.2f", median(id " openblas") / us) : "-"
    }
    if (smalls) printf "\n%-50s %12s %12s\n", "function or layer", "ns", "of forward"
    for (i = 1; i <= smalls; i++)
        printf "%-50s %12.3f %12s\n", small[i], median(small[i] " ns"), \
            count[small[i] " of_forward"] ? sprintf("%.2f", median(small[i] " of_forward")) : "-"
}
END {
    if (!ids) { kernels(); exit }
    printf "FMA peak of one core: f32 %.1f, f64 %.1f GFLOP/s\n\n", median("peak f32"), median("peak f64")
    printf "%-42s %12s %22s %12s %8s %8s %8s\n", "flow size real threads work", "us", "quartiles", "rows/s", "of peak", "x eager", "x script"
    for (i = 1; i <= ids; i++) {
        id = order[i]; us = median(id " us"); p = median(id " peak"); r = median(id " rows")
        printf "%-42s %12.4g %22s %12s %8s %8s %8s\n", id, us, \
            low[id] == "" ? "-" : sprintf("%11.4g..%-9.4g", low[id], high[id]), r ? sprintf("%.4g", r) : "-", \
            p ? sprintf("%.3f", p) : "-", ratio(id, "torch-eager", us), ratio(id, "torch-script", us)
    }
    for (i = 1; i <= ids; i++) {
        id = order[i]
        if (best(id, "torch-adjoint") > 0)
            printf "%-42s PyTorch with adaptive steps and the adjoint equation: %.4g us, x %s\n", id, best(id, "torch-adjoint"), \
                ratio(id, "torch-adjoint", median(id " us"))
    }
    for (i = 1; i <= memories; i++) print memory[i]
    kernels()
}
