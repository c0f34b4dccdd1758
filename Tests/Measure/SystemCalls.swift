// What strace writes: the totals of its summary, and the calls of its log. Pure.

enum SystemCallSummary {
  /// All calls of a summary (strace -c -U calls,name); nil where it has no such line.
  static func total(_ summary: String) -> Int? {
    for line in summary.split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count == 2, words[1] == "total" { return Int(words[0]) }
    }
    return nil
  }
}

/// The log of strace -f -yy.
struct SystemCallLog {
  private(set) var calls: [String: Int] = [:]
  /// What epoll_wait returned for: "a timer", a peer's name, or a descriptor's number.
  private(set) var wakeups: [String: Int] = [:]

  /// `peers`: what the connections are called, by a part of how strace writes their addresses.
  init(_ log: String, peers: [(address: String, name: String)]) {
    var ready: [Substring: Int] = [:]
    // strace names the descriptors of other calls by their peer; those of epoll_wait it does not.
    var names: [Substring: String] = [:]
    for line in log.split(separator: "\n") {
      if let number = Self.describedNumber(line), let peer = peers.first(where: { line.contains($0.address) }) {
        names[number] = peer.name
      }
      let call = line.drop { $0.isNumber }.drop { $0 == " " }.prefix { $0 != "(" }
      guard call.first?.isLowercase == true else { continue }
      calls[String(call), default: 0] += 1
      guard call == "epoll_wait" else { continue }
      if line.hasSuffix(") = 0") {
        wakeups["a timer", default: 0] += 1
      } else if let result = line.wholeMatch(of: /.*\) = [1-9].*/) {
        for match in result.output.matches(of: /u32=([0-9]+)/) { ready[match.output.1, default: 0] += 1 }
      }
    }
    for (number, count) in ready { wakeups[names[number] ?? "descriptor \(number)", default: 0] += count }
  }

  var all: Int { calls.values.reduce(0, +) }

  /// The number of a call's first argument if that is a descriptor that strace describes: 9 in "recvfrom(9<…>, …".
  private static func describedNumber(_ line: Substring) -> Substring? {
    line.firstMatch(of: /\((?:TCP:)?([0-9]+)<[^>]*>/)?.output.1
  }

  /// Lines of a count and a name, the highest count first.
  static func lines(_ counts: [String: Int]) -> [String] {
    counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { "\(String($0.value).right(8))  \($0.key)" }
  }
}
