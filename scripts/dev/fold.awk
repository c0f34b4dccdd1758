# perf script's samples (-F comm,ip,sym) as folded stacks: "outermost;…;innermost count", one line a stack.
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
  # What is not known by name is of no use to the reader, one frame of it is enough.
  if (name == "[unknown]" && frames[depth] == "[unknown]" && depth > 0) next
  frames[++depth] = name
}
END {
  emit()
  for (stack in counts) print stack, counts[stack]
}
