# gnuplot -e 'data="scale.txt"; output="scale.svg"' bench/scale.gp
set terminal svg size 1000,720 font "sans,12" background "white"
set output output
set multiplot layout 2,2
set logscale x 2
set grid lc rgb "#dddddd"
set key bottom left samplen 2
set xlabel "processes"
set xrange [1:1024]
rows(name) = sprintf("< awk '$1 == \"%s\"' %s", name, data)
set ylabel "efficiency"
set yrange [0:1.05]
batches = "1024 4096 16384 65536 262144"
colours = "#c44e52 #dd8452 #55a868 #4c72b0 #8172b3"
do for [name in "small middle large"] {
    set title sprintf("%s: batch of ... rows; solid: same bits, dashed: fast", name)
    plot for [i=1:5] rows(sprintf("%s-%s", name, word(batches, i))) using 2:3 with linespoints lw 2 pt 7 ps 0.4 lc rgb word(colours, i) \
         title word(batches, i), \
         for [i=1:5] rows(sprintf("%s-%s", name, word(batches, i))) using 2:4 with lines dt 2 lc rgb word(colours, i) notitle, \
         0.8 with lines dt 3 lc rgb "#888888" notitle
}
set title "smallest batch with 80 %, rows"
set ylabel "rows"
set autoscale y
set logscale y 2
set key top left
plot for [i=1:3] rows(sprintf("%s-least", word("small middle large", i))) using 2:3 with linespoints lw 2 pt 7 ps 0.4 lc rgb word(colours, 2 * i - 1) \
     title word("small middle large", i), \
     for [i=1:3] rows(sprintf("%s-least", word("small middle large", i))) using 2:4 with lines dt 2 lc rgb word(colours, 2 * i - 1) notitle
unset multiplot
