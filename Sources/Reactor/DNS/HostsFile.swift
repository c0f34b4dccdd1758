// Looks up names in /etc/hosts (hosts(5)). Invariant: an unreadable file counts as empty. Used by NameResolver.

/// The host's table of names.
enum HostsFile {
  /// The addresses of `name` in file order, ignoring case; empty if the file has none.
  static func addresses(of name: String, in path: String) -> [String] {
    let wanted = folded(name)
    var found: [String] = []
    for line in ResolverConfiguration.lines(of: path) {
      let words = ResolverConfiguration.words(of: line)
      guard let address = words.first, NameResolver.isNumericAddress(address), !found.contains(address) else {
        continue
      }
      if words.dropFirst().contains(where: { folded($0) == wanted }) { found.append(address) }
    }
    return found
  }

  /// In lower case (ASCII), without the trailing dot.
  private static func folded(_ name: String) -> [UInt8] {
    var bytes = Array(name.utf8)
    if bytes.last == ASCII.dot { bytes.removeLast() }
    return bytes.map { $0 &- 0x41 < 26 ? $0 | 0x20 : $0 }
  }
}
