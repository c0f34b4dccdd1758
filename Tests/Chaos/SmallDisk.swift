// A small in-memory file system for tables: a disk that the harness can fill.
// Invariant: it is mounted only in a private mount namespace, and so disappears with this process. Made by Cluster.

import Foundation
import TestSupport

/// A mounted tmpfs owned by PostgreSQL's account.
struct SmallDisk: Sendable {
  let path: String

  init(size: Int) throws {
    path = "\(NSTemporaryDirectory())small-disk-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    let owner = geteuid() == 0 ? getpwnam("postgres").map { ",uid=\($0.pointee.pw_uid),gid=\($0.pointee.pw_gid)" } : nil
    let options = "size=\(size),mode=0700" + (owner ?? "")
    guard mount("chaos", path, "tmpfs", 0, options) == 0 else {
      throw HarnessFault("no small file system: errno \(errno)")
    }
  }

  func remove() {
    // Whatever still uses it, it disappears with this process.
    _ = umount2(path, Int32(MNT_DETACH))
    try? FileManager.default.removeItem(atPath: path)
  }
}
