# The equation that inverts a planar layer, and how the root finder meets it. From the root of the repository:
#     gnuplot docs/figures/planar_inverse.gp > docs/figures/planar_inverse.svg
set terminal svg size 960,400 font "sans-serif,13" background "#ffffff"
set multiplot layout 1,2 margins 0.07,0.98,0.14,0.9 spacing 0.1
set grid lc rgb "#dddddd"
set key top left reverse Left samplen 2
set samples 160

s1 = 0.02
s2 = 5.0
F(t, s) = t + (s - 1) * tanh(t)

set title "t + (s - 1) tanh t increases for every s > 0"
set xlabel "t"
set ylabel "y" offset 1
plot [-4:4][-6:6] F(x, s1) lw 2 lc rgb "#b2182b" title "s = 0.02, nearly flat at 0", \
     F(x, 1) lw 2 lc rgb "#888888" title "s = 1", \
     F(x, s2) lw 2 lc rgb "#2166ac" title "s = 5, steep at 0"

# y = 0.3 and s = 0.02: the bracket [y, y + (1 - s)] and the root in it.
y = 0.3
low = y
high = y + 1 - s1
r = 1.2
do for [k = 1:60] { r = r - (F(r, s1) - y) / (tanh(r)**2 + s1 * (1 - tanh(r)**2)) }
set title "The bracket of the root, s = 0.02, y = 0.3"
set ylabel "t + (s - 1) tanh t - y" offset 1
set key top left
set object 1 rectangle from low, graph 0 to high, graph 1 fc rgb "#d1e5f0" fs solid 0.6 noborder behind
set arrow 1 from 0, 0 to 2.2, 0 nohead lc rgb "#444444"
plot [0:2.2][-0.6:1.4] F(x, s1) - y lw 2 lc rgb "#b2182b" title "residual", \
     x - y lw 1 dt 2 lc rgb "#2166ac" title "bounds: t - y and t - y - (1 - s)", \
     x - y - (1 - s1) lw 1 dt 2 lc rgb "#2166ac" notitle, \
     "+" using (r):(0) every ::0::0 with points pt 7 ps 1 lc rgb "#000000" title sprintf("root, t = %.4f", r)
unset multiplot
