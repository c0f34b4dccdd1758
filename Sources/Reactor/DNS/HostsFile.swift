// Names from /etc/hosts (hosts(5)). Pure but for reading the file. Used by NameResolver.

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

  /// Without the root's dot, and in lower case (ASCII).
  private static func folded(_ name: String) -> [UInt8] {
    var bytes = Array(name.utf8)
    if bytes.last == ASCII.dot { bytes.removeLast() }
    return bytes.map { $0 &- 0x41 < 26 ? $0 | 0x20 : $0 }
  }
}
