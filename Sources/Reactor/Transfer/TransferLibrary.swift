// libcurl, loaded while the program runs. Invariant: it is in the process only where somebody sends something, for it
// costs a good part of what the rest costs. Used by TransferClient.

import CReactor

/// The loaded library.
@EventLoop
public final class TransferLibrary {
  /// Why it could not be loaded, in the words of the system's loader.
  public struct Missing: Error, CustomStringConvertible {
    public let description: String
  }

  /// The library itself stays loaded for as long as the process lives.
  private let table: UnsafeMutablePointer<creactor_curl>

  /// Loads libcurl.so.4, which Debian's package libcurl4 has.
  public init() throws(Missing) {
    table = .allocate(capacity: 1)
    table.initialize(to: creactor_curl())
    if let reason = creactor_curl_load(table) { throw Missing(description: String(cString: reason)) }
    guard table.pointee.global_init(Int(creactor_curl_global_default)) == creactor_curl_ok else {
      throw Missing(description: "libcurl cannot be initialised")
    }
  }

  isolated deinit {
    table.deallocate()
  }

  var curl: UnsafePointer<creactor_curl> { UnsafePointer(table) }

  /// What is loaded, such as "libcurl/7.88.1 OpenSSL/3.0.19 …".
  public var version: String { table.pointee.version().map { String(cString: $0) } ?? "" }

  /// libcurl's words for one of its codes.
  func text(of code: Int32) -> String { table.pointee.easy_strerror(code).map { String(cString: $0) } ?? "\(code)" }

  /// A URL as libcurl understands it: there is no second opinion about which host is meant.
  struct Address: Equatable {
    /// In small letters.
    let scheme: String
    /// A name, or an address without brackets.
    let host: String
    let port: String
    var hasUser = false
    /// What stands behind the user and a semicolon: of a mail server how to log in.
    var options: String?
  }

  /// Takes `url` apart; nil where libcurl would not take it.
  func address(of url: String) -> Address? {
    parts(of: url, port: nil, UInt32(creactor_curl_url_default_port))
  }

  /// The same for a proxy, whose scheme is none that a transfer can have and whose port is 1080 where it has none.
  func address(ofProxy url: String) -> Address? {
    parts(of: url, port: url.hasPrefix("https:") ? "443" : "1080", UInt32(creactor_curl_url_any_scheme))
  }

  private func parts(of url: String, port defaultPort: String?, _ flags: UInt32) -> Address? {
    // A NUL would end the URL early for C.
    guard !url.utf8.contains(0), let handle = table.pointee.url() else { return nil }
    defer { table.pointee.url_cleanup(handle) }
    func part(_ part: creactor_curl_url_part) -> String? {
      var text: UnsafeMutablePointer<CChar>?
      guard table.pointee.url_get(handle, Int32(part.rawValue), &text, flags) == 0, let text else { return nil }
      defer { table.pointee.free(text) }
      return String(cString: text)
    }
    guard table.pointee.url_set(handle, Int32(CREACTOR_CURLUPART_URL.rawValue), url, flags) == 0,
      let scheme = part(CREACTOR_CURLUPART_SCHEME), var host = part(CREACTOR_CURLUPART_HOST),
      let port = part(CREACTOR_CURLUPART_PORT) ?? defaultPort
    else { return nil }
    if host.first == "[", host.last == "]" {
      host.removeFirst()
      host.removeLast()
    }
    return Address(
      scheme: scheme.lowercased(), host: host, port: port, hasUser: part(CREACTOR_CURLUPART_USER) != nil,
      options: part(CREACTOR_CURLUPART_OPTIONS))
  }

  /// `url` with the user and password of `other`, or without any where that has none.
  func url(_ url: String, withLoginOf other: String) -> String? {
    guard let handle = table.pointee.url(), let source = table.pointee.url() else { return nil }
    defer {
      table.pointee.url_cleanup(handle)
      table.pointee.url_cleanup(source)
    }
    let whole = Int32(CREACTOR_CURLUPART_URL.rawValue)
    guard table.pointee.url_set(handle, whole, url, 0) == 0, table.pointee.url_set(source, whole, other, 0) == 0
    else { return nil }
    for part in [CREACTOR_CURLUPART_USER, CREACTOR_CURLUPART_PASSWORD] {
      var text: UnsafeMutablePointer<CChar>?
      _ = table.pointee.url_get(source, Int32(part.rawValue), &text, 0)
      defer { table.pointee.free(text) }
      guard table.pointee.url_set(handle, Int32(part.rawValue), text, 0) == 0 else { return nil }
    }
    return text(of: handle)
  }

  /// `url` with this path, which of a mail server is what the client calls itself.
  func url(_ url: String, path: String) -> String? {
    guard let handle = table.pointee.url() else { return nil }
    defer { table.pointee.url_cleanup(handle) }
    let encode = UInt32(creactor_curl_url_encode)
    guard table.pointee.url_set(handle, Int32(CREACTOR_CURLUPART_URL.rawValue), url, 0) == 0,
      table.pointee.url_set(handle, Int32(CREACTOR_CURLUPART_PATH.rawValue), "/" + path, encode) == 0
    else { return nil }
    return text(of: handle)
  }

  /// The whole URL of a handle.
  private func text(of handle: UnsafeMutableRawPointer) -> String? {
    var text: UnsafeMutablePointer<CChar>?
    guard table.pointee.url_get(handle, Int32(CREACTOR_CURLUPART_URL.rawValue), &text, 0) == 0, let text
    else { return nil }
    defer { table.pointee.free(text) }
    return String(cString: text)
  }
}
