# gnuplot -e "folder='...'; output='...'" docs/gallery/times.gp
load 'docs/gallery/style.gp'
load folder.'/paths.gp'
eval canvas(1290, 560)
set output output
set size square
set multiplot layout 2,5 margins 0.01,0.99,0.02,0.9 spacing 0.012,0.02 title 'A continuous flow on two moons: held-out NLL '.likelihood_nll.' nats' font ',15'
set xrange [-1.7:2.7]
set yrange [-1.5:2]
do for [k=0:4] {
    set title sprintf('t = %g', k / 4.0)
    plot sprintf('%s/time%d_points.txt', folder, k) with points pt 7 ps 0.28 lc rgb '#b5482a'
}
unset title
do for [k=0:4] {
    name = sprintf('time%d', k)
    eval contours(name)
    plot folder.'/'.name.'.txt' with image, folder.'/'.name.'_lines.txt' with lines lw 0.8 lc rgb '#60303030'
}
unset multiplot
