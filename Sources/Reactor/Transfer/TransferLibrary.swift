// libcurl, loaded at run time. Invariant: only a program that sends something loads it, because it costs a considerable
// share of the process's memory. Used by TransferClient.

import CReactor

/// The loaded library.
@EventLoop
public final class TransferLibrary {
  /// The reason why it could not be loaded, from the system's loader.
  public struct Missing: Error, CustomStringConvertible {
    public let description: String
  }

  /// The library stays loaded until the process ends.
  private let table: UnsafeMutablePointer<creactor_curl>

  /// Loads libcurl.so.4, from Debian's package libcurl4.
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

  /// The loaded version, such as "libcurl/7.88.1 OpenSSL/3.0.19 …".
  public var version: String { table.pointee.version().map { String(cString: $0) } ?? "" }

  /// libcurl's text for one of its codes.
  func text(of code: Int32) -> String { table.pointee.easy_strerror(code).map { String(cString: $0) } ?? "\(code)" }

  /// A URL as libcurl parses it, so that there is no second opinion about its host.
  struct Address: Equatable {
    /// In lower case.
    let scheme: String
    /// A name, or an address without brackets.
    let host: String
    let port: String
    var hasUser = false
    /// What follows the user and a semicolon: the login mechanism for a mail server.
    var options: String?
  }

  /// Parses `url`; nil if libcurl does not accept it.
  func address(of url: String) -> Address? {
    parts(of: url, port: nil, UInt32(creactor_curl_url_default_port))
  }

  /// The same for a proxy, whose scheme may be unknown to transfers and whose default port is 1080.
  func address(ofProxy url: String) -> Address? {
    parts(of: url, port: url.hasPrefix("https:") ? "443" : "1080", UInt32(creactor_curl_url_any_scheme))
  }

  private func parts(of url: String, port defaultPort: String?, _ flags: UInt32) -> Address? {
    // For C a NUL would end the URL early.
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

  /// `url` with the user and password of `other`, or without any if that has none.
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

  /// `url` with this path, which for a mail server is the client's name in EHLO.
  func url(_ url: String, path: String) -> String? {
    guard let handle = table.pointee.url() else { return nil }
    defer { table.pointee.url_cleanup(handle) }
    let encode = UInt32(creactor_curl_url_encode)
    guard table.pointee.url_set(handle, Int32(CREACTOR_CURLUPART_URL.rawValue), url, 0) == 0,
      table.pointee.url_set(handle, Int32(CREACTOR_CURLUPART_PATH.rawValue), "/" + path, encode) == 0
    else { return nil }
    return text(of: handle)
  }

  /// The complete URL of a handle.
  private func text(of handle: UnsafeMutableRawPointer) -> String? {
    var text: UnsafeMutablePointer<CChar>?
    guard table.pointee.url_get(handle, Int32(CREACTOR_CURLUPART_URL.rawValue), &text, 0) == 0, let text
    else { return nil }
    defer { table.pointee.free(text) }
    return String(cString: text)
  }
}
