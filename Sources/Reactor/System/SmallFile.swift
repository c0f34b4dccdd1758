// A file that is read whole at boot, such as one that holds a credential. Invariant: reading never waits and never
// reads more than its limit. Called before the loop runs.

import CReactor

/// Reads a small regular file.
public enum SmallFile {
  /// Why a file could not be read, in words that may be logged; the file's content is not in them.
  public struct Unreadable: Error, Equatable {
    public let reason: String
  }

  /// The content of the file at `path`.
  ///
  /// - Throws: `Unreadable` also for what is no regular file (a pipe could keep us waiting) or has more bytes than
  ///   `byteLimit`.
  public static func contents(of path: String, byteLimit: Int) throws(Unreadable) -> [UInt8] {
    guard !path.utf8.contains(0) else { throw Unreadable(reason: "no such file or directory") }
    let descriptor = creactor_open_read(path)
    guard descriptor >= 0 else { throw failure(-descriptor) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & mode_t(S_IFMT) == mode_t(S_IFREG) else {
      throw Unreadable(reason: "not a regular file")
    }
    // One byte more tells a file that is too long.
    var bytes = [UInt8](repeating: 0, count: byteLimit + 1)
    var length = 0
    while length < bytes.count {
      let count = bytes.withUnsafeMutableBytes {
        creactor_read(descriptor, $0.baseAddress! + length, $0.count - length)
      }
      guard count >= 0 else { throw failure(Int32(-count)) }
      if count == 0 { break }
      length += count
    }
    guard length <= byteLimit else { throw Unreadable(reason: "longer than \(byteLimit) bytes") }
    return Array(bytes[..<length])
  }

  private static func failure(_ number: Int32) -> Unreadable {
    let text = String(cString: strerror(number))
    return Unreadable(reason: text.prefix(1).lowercased() + text.dropFirst())
  }
}
