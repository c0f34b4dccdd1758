# Draws sorted folded stacks as a flame graph in SVG: width is the share of samples, callers are below.
# awk -v title=TEXT -f flamegraph.awk FOLDED. Called by scripts/perf-record.
function escaped(text) {
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  gsub(/>/, "\\&gt;", text)
  gsub(/"/, "\\&quot;", text)
  return text
}
# The colour is derived from the name, so a function has the same one in every graph.
function colour(name,  index_, sum) {
  sum = 0
  for (index_ = 1; index_ <= length(name); index_ += 3) {
    sum = (sum * 31 + index(alphabet, substr(name, index_, 1))) % 997
  }
  return sprintf("rgb(%d,%d,%d)", 205 + sum % 50, 80 + int(sum / 7) % 130, 30 + int(sum / 13) % 50)
}
# Closes the open frames from `level` up; each was open since `since[level]`.
function close_from(level,  depth) {
  for (depth = open; depth >= level; depth--) {
    drawn++
    depth_of[drawn] = depth
    name_of[drawn] = opened[depth]
    from[drawn] = since[depth]
    to[drawn] = position
  }
  open = level - 1
}
BEGIN {
  alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:()<>[]"
  width = 1200
  height = 17
}
{
  count = $NF
  sub(/ [0-9]+$/, "")
  parts = split($0, frame, ";")
  same = 0
  while (same < parts && same < open && opened[same + 1] == frame[same + 1]) same++
  close_from(same + 1)
  for (depth = same + 1; depth <= parts; depth++) {
    opened[depth] = frame[depth]
    since[depth] = position
  }
  open = parts
  if (parts > deepest) deepest = parts
  position += count
}
END {
  close_from(1)
  total = position
  bottom = (deepest + 1) * height + 40
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" " \
    "font-family=\"monospace\" font-size=\"11\">\n", width, bottom + 10, width, bottom + 10
  printf "<rect width=\"100%%\" height=\"100%%\" fill=\"#fffdf6\"/>\n"
  printf "<text x=\"8\" y=\"18\" font-size=\"14\">%s: %d samples</text>\n", escaped(title), total
  for (index_ = 1; index_ <= drawn; index_++) {
    wide = (to[index_] - from[index_]) / total * width
    if (wide < 0.3) continue
    left = from[index_] / total * width
    top = bottom - depth_of[index_] * height
    name = name_of[index_]
    printf "<g><title>%s: %.2f%%</title><rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"/>", \
      escaped(name), (to[index_] - from[index_]) / total * 100, left, top, wide - 0.2, height - 1, colour(name)
    room = int(wide / 6.7) - 1
    if (room >= 3) {
      if (length(name) > room) name = substr(name, 1, room - 1) "…"
      printf "<text x=\"%.2f\" y=\"%d\">%s</text>", left + 2, top + 12, escaped(name)
    }
    print "</g>"
  }
  print "</svg>"
}
