// Finds the known name that a misspelt one was meant to be. Pure. Used for unknown variables and options.

/// Finds the nearest of some names by edit distance.
enum NearestName {
  /// Longer names are not compared: the cost grows with the square of the length.
  private static let lengthLimit = 100

  /// The name in `known` with the fewest single-character edits; nil if none is close enough.
  static func of(_ name: String, among known: [String]) -> String? {
    guard name.utf8.count <= lengthLimit else { return nil }
    // If more than a quarter of the letters differ, it is another word.
    var best: (name: String, distance: Int)?
    for candidate in known {
      let distance = distance(name, candidate)
      guard distance <= max(2, candidate.utf8.count / 4), distance < best?.distance ?? .max else { continue }
      best = (candidate, distance)
    }
    return best?.name
  }

  /// The Levenshtein distance in bytes, with a swap of two neighbours as one edit.
  static func distance(_ left: String, _ right: String) -> Int {
    let left = Array(left.utf8)
    let right = Array(right.utf8)
    var twoBack: [Int] = []
    var previous = Array(0...right.count)
    for row in 0..<left.count {
      var current = [row + 1]
      for column in 0..<right.count {
        let isSame = left[row] == right[column]
        var cost = min(previous[column + 1] + 1, current[column] + 1, previous[column] + (isSame ? 0 : 1))
        if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
          cost = min(cost, twoBack[column - 1] + 1)
        }
        current.append(cost)
      }
      twoBack = previous
      previous = current
    }
    return previous[right.count]
  }

  /// `name`, shortened if it is too long to show.
  static func shortened(_ name: String) -> String {
    let start = name.prefix(lengthLimit)
    return start.utf8.count < name.utf8.count ? start + "…" : name
  }
}
