# gnuplot -e "folder='...'; output='...'" docs/gallery/paths.gp
load 'docs/gallery/style.gp'
load folder.'/paths.gp'
eval canvas(1290, 490)
set output output
set palette defined (0 '#b8bcc2', 0.35 '#8fb3d6', 0.7 '#2f74b5', 1 '#b5482a')
set cbrange [0:1]
set size square
array Way[3] = ['likelihood', 'matching', 'optimal']
array Name[3] = ['likelihood', 'flow matching', 'matching of optimal pairs']
set multiplot layout 1,3 margins 0.01,0.99,0.02,0.86 spacing 0.015 title "Where continuous flows carry their samples: from the base (grey) to the data (red)" font ',15'
set xrange [-1.5:2.5]
set yrange [-1.45:1.95]
do for [k=1:3] {
    set title Name[k].': held-out NLL '.value(Way[k].'_nll').' nats'
    file = folder.'/'.Way[k].'.txt'
    plot file using 1:2:3 with lines lw 1.1 lc palette, \
         file using 1:2 every 61::0 with points pt 7 ps 0.45 lc rgb '#8a8f96', \
         file using 1:2 every 61::60 with points pt 7 ps 0.5 lc rgb '#b5482a'
}
unset multiplot
