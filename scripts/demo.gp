# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "intel='FILE.csv'; amd='FILE.csv'; out='FILE without suffix'" demo.gp
#
# Draw what the demonstration measured, as SVG and as PNG.

set datafile separator ','
set style line 1 linecolor rgb '#b0b0b0' linewidth 6
set style line 2 linecolor rgb '#202020' linewidth 2
set style line 3 linecolor rgb '#d04010' pointtype 7 pointsize 0.5
set style line 4 linecolor rgb '#2060b0' pointtype 6 pointsize 0.7
set style line 5 linecolor rgb '#2060b0' linewidth 1.5 dashtype 3
set style fill solid 0.15 noborder
set ylabel 'frequency (MHz)'
set xrange [0:*] noextend
set yrange [0:350]
set ytics 100
set grid ytics linecolor rgb '#e0e0e0'
set border 3
set tics nomirror

# Each line of a file is about the time since the one before.
draw(file) = sprintf("x = 0; plot '%s' using (w = column('seconds') - x, x = x + w, x - w / 2):(350 * column('shared')):(w) with boxes linecolor rgb '#808080' title 'a neighbour VM runs on this CPU', '' using 'seconds':'cpu_mhz' with fsteps linestyle 1 title 'CPU, by its true counters', '' using 'seconds':'guest_got_mhz' with fsteps linestyle 2 title 'what the guest got, by the host scheduler', '' using 'seconds':'turbostat_mhz' with fsteps linestyle 5 title 'host turbostat', '' using 'seconds':'host_sees_mhz' with points linestyle 4 title 'host /proc/cpuinfo', '' using 'seconds':'guest_sees_mhz' with points linestyle 3 title 'guest /proc/cpuinfo, over its last tick'", file)

do for [suffix in 'svg png'] {
	if (suffix eq 'svg') {
		set terminal svg size 900,720 font 'sans-serif,13' background '#ffffff'
	} else {
		set terminal pngcairo size 900,720 font 'sans-serif,10'
	}
	set output out.'.'.suffix
	set multiplot layout 2,1 margins 0.09,0.98,0.27,0.95 spacing 0.13
	set title 'A stock Linux guest on Intel'
	unset xlabel
	unset key
	eval draw(intel)
	set title 'A stock Linux guest on AMD'
	set xlabel 'time in the emulated machine (s)'
	set key at screen 0.5,0.01 center bottom vertical maxrows 6 samplen 2
	eval draw(amd)
	unset multiplot
}
unset output
