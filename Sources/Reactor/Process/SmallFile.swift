// Reads a whole file at startup, such as one with a credential. Invariant: reading never blocks and never exceeds its
// limit. Called before the loop runs.

import CReactor

/// Reads a small regular file.
public enum SmallFile {
  /// Why a file could not be read, in words that may be logged and do not include its content.
  public struct Unreadable: Error, Equatable {
    public let reason: String
  }

  /// Whether there is anything at `path`, readable or not.
  public static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

  /// The content of the file at `path`.
  ///
  /// - Throws: `Unreadable`, also if it is not a regular file (a pipe could block) or is longer than `byteLimit`.
  public static func contents(of path: String, byteLimit: Int) throws(Unreadable) -> [UInt8] {
    guard !path.utf8.contains(0) else { throw Unreadable(reason: "no such file or directory") }
    let descriptor = creactor_open_read(path)
    guard descriptor >= 0 else { throw failure(-descriptor) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw failure(EIO) }
    if let kind = otherKind(status.st_mode) { throw Unreadable(reason: "it is \(kind), not a regular file") }
    var bytes: [UInt8] = []
    // In pieces, because the reported length is 0 for some files, and the limit may be far above it.
    var piece = [UInt8](repeating: 0, count: 4096)
    while bytes.count <= byteLimit {
      let count = creactor_read(descriptor, &piece, piece.count)
      guard count >= 0 else { throw failure(Int32(-count)) }
      if count == 0 { return bytes }
      bytes += piece[..<count]
    }
    throw Unreadable(reason: "it is longer than \(byteLimit) bytes")
  }

  /// The kind of a file that is not regular.
  private static func otherKind(_ mode: mode_t) -> String? {
    switch mode & mode_t(S_IFMT) {
    case mode_t(S_IFREG): nil
    case mode_t(S_IFDIR): "a directory"
    case mode_t(S_IFIFO): "a pipe"
    default: "a device or socket"
    }
  }

  private static func failure(_ number: Int32) -> Unreadable {
    let text = String(cString: strerror(number))
    let reason = text.prefix(1).lowercased() + text.dropFirst()
    // In a container the user is often not the expected one.
    let user = number == EACCES ? " for the user with id \(geteuid()), which this process runs as" : ""
    return Unreadable(reason: reason + user)
  }
}
