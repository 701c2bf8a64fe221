# gnuplot -e "folder='...'; output='...'" docs/gallery/fits.gp
load 'docs/gallery/style.gp'
load folder.'/fits.gp'
eval canvas(1080, 868)
set output output
set size square
array Set[3] = ['two_moons', 'pinwheel', 'checkerboard']
array About[3] = ['two moons', 'pinwheel', 'checkerboard']
array Flow[3] = ['planar', 'realnvp', 'cnf']
array Name[3] = ['planar, 64 layers', 'Real NVP, 12 couplings', 'continuous flow']
array Low[3] = [-1.6, -2.1, -4.6]
array High[3] = [2.6, 2.1, 4.6]
array Bottom[3] = [-1.25, -2.1, -4.6]
array Top[3] = [1.75, 2.1, 4.6]
set multiplot layout 3,4 margins 0.03,0.99,0.01,0.955 spacing 0.012,0.045
do for [s=1:3] {
    set xrange [Low[s]:High[s]]
    set yrange [Bottom[s]:Top[s]]
    set ylabel About[s] font ',13' offset 1.5,0
    set title 'the truth: entropy '.value(Set[s].'_entropy').' nats'
    set cbrange [0:*]
    plot folder.'/'.Set[s].'_truth.txt' with image, folder.'/'.Set[s].'_points.txt' with points pt 7 ps 0.2 lc rgb '#b5482a'
    unset ylabel
    do for [k=1:3] {
        name = Set[s].'_'.Flow[k]
        set title Name[k].': '.value(name.'_nll')
        eval contours(name)
        plot folder.'/'.name.'.txt' with image, folder.'/'.name.'_lines.txt' with lines lw 0.8 lc rgb '#60303030'
    }
}
unset multiplot
