# gnuplot -e "folder='...'; output='...'" docs/gallery/energies.gp
load 'docs/gallery/style.gp'
load folder.'/energies.gp'
eval canvas(1080, 864)
set output output
array X[5] = [0.055, 0.2475, 0.495, 0.7425, 0.99]
array Half[4] = [4, 6, 6, 6]
array Depth[3] = ['2', '8', '32']
set multiplot
do for [e=1:4] {
    left = e == 1 ? 0.045 : 0.225 + (e - 2) * 0.258
    right = left + (e == 1 ? 0.165 : 0.245)
    set xrange [-Half[e]:Half[e]]
    set yrange [-4:4]
    do for [k=0:3] {
        top = 0.955 - k * 0.24
        set lmargin at screen left
        set rmargin at screen right
        set tmargin at screen top
        set bmargin at screen top - 0.205
        name = k == 0 ? sprintf('energy%d_truth', e) : sprintf('energy%d_k%s', e, Depth[k])
        if (k == 0) { set title sprintf('energy %d: the target', e) } else { set title 'KL '.value(name.'_kl').' nats' }
        if (e == 1) { set ylabel (k == 0 ? 'target' : Depth[k].' layers') font ',13' offset 1.5,0 } else { unset ylabel }
        eval contours(name)
        plot folder.'/'.name.'.txt' with image, folder.'/'.name.'_lines.txt' with lines lw 0.8 lc rgb '#60303030'
    }
}
unset multiplot
