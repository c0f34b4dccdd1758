// Instructions by whose they are, read from a profile of callgrind. Pure.
// The format: https://valgrind.org/docs/manual/cl-format.html

enum CallgrindProfile {
  /// The instructions that were executed in functions of the object whose path ends with `object`, functions that these
  /// call in other objects left out.
  static func instructions(of object: String, in profile: String) -> Int {
    var names: [Substring: Substring] = [:]
    var current: Substring = ""
    var isOwn = false
    var isCost = false
    var sum = 0
    // A name is given at the first use of its number, which may be a callee's line.
    func name(_ text: Substring) -> Substring {
      guard text.first == "(", let end = text.firstIndex(of: ")") else { return text }
      let number = text[...end]
      let rest = text[text.index(after: end)...].drop { $0 == " " }
      if !rest.isEmpty { names[number] = rest }
      return names[number] ?? ""
    }
    for line in profile.split(separator: "\n") {
      // The line after calls= is the callee's cost, which is counted at the callee.
      if isCost {
        isCost = false
      } else if line.hasPrefix("calls=") {
        isCost = true
      } else if line.hasPrefix("cob=") {
        _ = name(line.dropFirst(4))
      } else if line.hasPrefix("ob=") {
        current = name(line.dropFirst(3))
      } else if line.hasPrefix("fn=") {
        isOwn = current.hasSuffix(object)
      } else if isOwn, let first = line.utf8.first, isPosition(first) {
        sum += cost(line)
      }
    }
    return sum
  }

  /// Whether a cost line begins so: with a number, a difference to the line before, or that line's number.
  private static func isPosition(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-")
      || byte == UInt8(ascii: "*")
  }

  /// The second word of a line.
  private static func cost(_ line: Substring) -> Int {
    let words = line.split(separator: " ", maxSplits: 2)
    return words.count > 1 ? Int(words[1]) ?? 0 : 0
  }
}
