# Plots lines "x y" as SVG, both axes logarithmic, each point labelled. awk -v title=TEXT -f plot.awk.
# Called by scripts/bench.
function log10(value) { return log(value) / log(10) }
function floor_of(value) { return value < int(value) ? int(value) - 1 : int(value) }
function place_x(value) { return 70 + (log10(value) - low_x) / (high_x - low_x) * 500 }
function place_y(value) { return 320 - (log10(value) - low_y) / (high_y - low_y) * 260 }
$1 > 0 && $2 > 0 {
  x[++count] = $1
  y[count] = $2
  if (count == 1 || $1 < least_x) least_x = $1
  if (count == 1 || $2 < least_y) least_y = $2
  if ($1 > most_x) most_x = $1
  if ($2 > most_y) most_y = $2
}
END {
  if (count == 0) exit 1
  low_x = floor_of(log10(least_x)); high_x = floor_of(log10(most_x) - 1e-9) + 1
  low_y = floor_of(log10(least_y)); high_y = floor_of(log10(most_y) - 1e-9) + 1
  if (high_x == low_x) high_x++
  if (high_y == low_y) high_y++
  print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"370\" font-family=\"sans-serif\" " \
    "font-size=\"12\">"
  print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
  printf "<text x=\"70\" y=\"30\" font-size=\"14\">%s</text>\n", title
  for (power = low_x; power <= high_x; power++) {
    at = place_x(10 ^ power)
    printf "<line x1=\"%.1f\" y1=\"60\" x2=\"%.1f\" y2=\"320\" stroke=\"#ddd\"/>", at, at
    printf "<text x=\"%.1f\" y=\"340\" text-anchor=\"middle\">%s</text>\n", at, 10 ^ power
  }
  for (power = low_y; power <= high_y; power++) {
    at = place_y(10 ^ power)
    printf "<line x1=\"70\" y1=\"%.1f\" x2=\"570\" y2=\"%.1f\" stroke=\"#ddd\"/>", at, at
    printf "<text x=\"62\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", at + 4, 10 ^ power
  }
  printf "<polyline fill=\"none\" stroke=\"#c2410c\" stroke-width=\"2\" points=\""
  for (number = 1; number <= count; number++) printf "%.1f,%.1f ", place_x(x[number]), place_y(y[number])
  print "\"/>"
  for (number = 1; number <= count; number++) {
    printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#c2410c\"/>", place_x(x[number]), place_y(y[number])
    printf "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n", place_x(x[number]) + 6, place_y(y[number]) - 6, y[number]
  }
  print "</svg>"
}
