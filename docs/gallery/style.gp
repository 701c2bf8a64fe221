# What the pictures of the gallery have in common: folder='...' holds the tables, output='...' is the PNG.
set encoding utf8
set key off
unset colorbox
unset xtics
unset ytics
set border 31 lw 0.8 lc rgb '#8a94a0'
set title font ',12' textcolor rgb '#1c2733' offset 0,-0.6
set palette defined (0 '#ffffff', 0.04 '#eef4fa', 0.2 '#c3d9ee', 0.45 '#6fa8d6', 0.7 '#2f74b5', 1 '#0c3566')
canvas(width, height) = sprintf("set terminal pngcairo size %d,%d font 'sans,11' background rgb 'white'", width, height)
# A density with the lines that 50, 90 and 99 % of its mass are within.
contours(name) = sprintf("set contour base; unset surface; set cntrparam levels discrete %s; set table '%s/%s_lines.txt'; splot '%s/%s.txt' with lines; ".\
    "unset table; unset contour; set surface", value(name.'_levels'), folder, name, folder, name)
