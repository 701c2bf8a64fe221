# gnuplot -e 'data="growth.txt"; output="cost.svg"' bench/growth.gp
set terminal svg size 1000,620 font "sans,12" background "white"
set output output
set multiplot layout 2,3
set logscale xy
set format y "%.0s %cs"
set format x "10^{%T}"
set key bottom right samplen 2
set grid lc rgb "#dddddd"
curve(name, column) = sprintf("< awk '$1 == \"%s\" { print $2, 1e-6 * $%d }' %s", name, column, data)
first(name, column) = real(system(sprintf("awk '$1 == \"%s\" { y = 1e-6 * $%d } END { print y }' %s", name, column, data)))
last(name) = real(system(sprintf("awk '$1 == \"%s\" { x = $2 } END { print x }' %s", name, data)))
# The slope that a curve should come to, through its last point of log_prob.
line(name, slope, x) = first(name, 3) * (x / last(name)) ** slope
do for [panel in "rows,1 dim,1 width,2 layers,1"] {
    name = substr(panel, 1, strstrt(panel, ",") - 1)
    slope = real(substr(panel, strstrt(panel, ",") + 1, strlen(panel)))
    set title name
    plot curve(name, 4) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#c44e52" title "training step", \
         curve(name, 3) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#4c72b0" title "log prob", \
         line(name, slope, x) with lines dt 2 lc rgb "#888888" title sprintf("slope %g", slope)
}
unset logscale x
set format x "%g"
set title "threads"
plot curve("threads", 4) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#c44e52" title "training step", \
     curve("threads", 3) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#4c72b0" title "log prob"
unset multiplot
