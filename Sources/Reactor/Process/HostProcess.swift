// What the operating system provides to this process: arguments, environment, exit. Called by main.

import CReactor

/// The process as the operating system sees it.
public enum HostProcess {
  /// The arguments of the command line, starting with the program's name. Invalid UTF-8 becomes U+FFFD.
  ///
  /// `CommandLine.arguments` reads /proc, and is empty if that is not mounted.
  public static var arguments: [String] {
    var words: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    let count = Int(creactor_arguments(&words))
    return UnsafeBufferPointer(start: words, count: count).compactMap { word in word.map { String(cString: $0) } }
  }

  /// The environment. Invalid UTF-8 becomes U+FFFD.
  public static var environment: [String: String] {
    var variables: [String: String] = [:]
    var next = creactor_environment()
    while let entry = next?.pointee {
      next = next?.advanced(by: 1)
      guard let equals = strchr(entry, Int32(UInt8(ascii: "="))) else { continue }
      let nameLength = UnsafePointer(equals) - UnsafePointer(entry)
      let name = UnsafeRawBufferPointer(start: entry, count: nameLength)
      // Of two variables with one name, getenv finds the first.
      let key = String(decoding: name, as: UTF8.self)
      if variables[key] == nil { variables[key] = String(cString: equals + 1) }
    }
    return variables
  }

  /// The effective user ID.
  public static var userID: UInt32 { geteuid() }

  /// The host's name; in a container its own.
  public static var hostName: String {
    var name = [CChar](repeating: 0, count: Int(HOST_NAME_MAX) + 1)
    guard gethostname(&name, name.count) == 0 else { return "unknown" }
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// An address of this host that others may reach, in the form in which a mail client without a name identifies itself
  /// (RFC 5321, 4.1.3): `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
  public static var addressLiteral: String {
    var list: UnsafeMutablePointer<ifaddrs>?
    guard getifaddrs(&list) == 0 else { return "[127.0.0.1]" }
    defer { freeifaddrs(list) }
    var ipv6: String?
    for entry in sequence(first: list, next: { $0?.pointee.ifa_next }) {
      guard let interface = entry?.pointee, interface.ifa_flags & UInt32(IFF_LOOPBACK) == 0,
        interface.ifa_flags & UInt32(IFF_UP) != 0, let address = interface.ifa_addr
      else { continue }
      guard let text = SocketAddress.hostText(address) else { continue }
      if Int32(address.pointee.sa_family) == AF_INET { return "[\(text)]" }
      // A link-local address is useless to others.
      if !text.hasPrefix("fe80:") { ipv6 = ipv6 ?? "[IPv6:\(text)]" }
    }
    return ipv6 ?? "[127.0.0.1]"
  }

  /// Whether this is process 1 of its namespace, as in a container: orphans become its children.
  public static var isFirst: Bool { getpid() == 1 }

  /// Reaps all exited children, so that none stays a zombie. Only for process 1: elsewhere the children belong to
  /// someone else.
  public static func reapChildren() {
    while waitpid(-1, nil, WNOHANG) > 0 {}
  }

  /// Opens /dev/null for each closed standard stream. Must be called first; otherwise the next descriptor, such as a
  /// server's connection, would become stderr and receive the log.
  public static func holdStandardStreams() {
    while true {
      let descriptor = creactor_open_null()
      if descriptor < 0 { return }
      if descriptor > StandardStream.error.rawValue {
        close(descriptor)
        return
      }
    }
  }

  /// Exits with this status.
  public static func exit(_ status: Int32) -> Never {
    CReactor.exit(status)
  }
}
