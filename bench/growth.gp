# gnuplot -e 'data="growth.txt"; output="cost.svg"' bench/growth.gp
set terminal svg size 1200,680 font "sans,12" background "white"
set output output
set multiplot layout 2,3
set logscale xy
set format y "%.0s %cs"
set format x "10^{%T}"
set key bottom right samplen 2
set grid lc rgb "#dddddd"
set border 3
set tics nomirror
set ylabel "time of a call" offset 1
curve(name, column) = sprintf("< awk '$1 == \"%s\" { print $2, 1e-6 * $%d }' %s", name, column, data)
first(name, column) = real(system(sprintf("awk '$1 == \"%s\" { y = 1e-6 * $%d } END { print y }' %s", name, column, data)))
last(name) = real(system(sprintf("awk '$1 == \"%s\" { x = $2 } END { print x }' %s", name, data)))
# The slope that a curve should come to, through its last point of log_prob.
line(name, slope, x) = first(name, 3) * (x / last(name)) ** slope
do for [panel in "rows,1 dim,1 width,2 layers,1"] {
    name = substr(panel, 1, strstrt(panel, ",") - 1)
    slope = real(substr(panel, strstrt(panel, ",") + 1, strlen(panel)))
    set title (name eq "width" ? "width of the nets" : name eq "layers" ? "couplings" : name)
    set xrange [1:last(name) * 1.1]
    plot curve(name, 4) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#b5482a" title "training step", \
         curve(name, 3) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#1f4e79" title "log prob", \
         line(name, slope, x) with lines dt 2 lc rgb "#888888" title sprintf("slope %g", slope)
}
unset logscale
set xrange [0.5:8.5]
set yrange [0:*]
set format x "%g"
set format y "%.0s %cs"
set key top right
set title "threads"
plot curve("threads", 4) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#b5482a" title "training step", \
     curve("threads", 3) using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#1f4e79" title "log prob"
unset border
unset tics
unset title
unset key
unset xlabel
unset ylabel
set label 1 "Real NVP in single precision, one thread.\nWhat is not varied: 16 dimensions,\nwidth 128, 8 couplings, 1024 rows;\nagainst rows: 2, width 32, 4 couplings;\nagainst width: 256 rows;\nagainst threads: 8192 rows." at graph 0, 0.7 textcolor rgb "#44556b"
plot [0:1] [0:1] NaN
unset multiplot
