# Folds perf script's samples (-F comm,ip,sym) into stacks: "outermost;…;innermost count", one per line.
# Called by scripts/perf-record.
function emit(  index_, stack) {
  if (depth == 0) return
  stack = frames[depth]
  for (index_ = depth - 1; index_ >= 1; index_--) stack = stack ";" frames[index_]
  counts[stack]++
  depth = 0
}
NF == 0 { emit(); next }
/^[^ \t]/ { emit(); next }
{
  name = $0
  sub(/^[ \t]*[0-9a-f]+ /, "", name)
  gsub(/;/, ":", name)
  # Unknown symbols are of no use to the reader; one frame is enough.
  if (name == "[unknown]" && frames[depth] == "[unknown]" && depth > 0) next
  frames[++depth] = name
}
END {
  emit()
  for (stack in counts) print stack, counts[stack]
}
