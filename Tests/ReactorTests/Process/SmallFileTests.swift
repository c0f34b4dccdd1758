// Reading small files: the content, and every reason for a refusal.

import Foundation
import Testing

@testable import Reactor

@Suite struct SmallFileTests {
  private func withDirectory(_ body: (URL) throws -> Void) throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("small-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: directory) }
    try body(directory)
  }

  @Test func aFileUpToItsLimitIsReadWhole() throws {
    try withDirectory { directory in
      let file = directory.appendingPathComponent("file")
      try "secret\n".write(to: file, atomically: true, encoding: .utf8)
      #expect(try SmallFile.contents(of: file.path, byteLimit: 7) == Array("secret\n".utf8))
      #expect(throws: SmallFile.Unreadable(reason: "it is longer than 6 bytes")) {
        try SmallFile.contents(of: file.path, byteLimit: 6)
      }
    }
  }

  @Test func aFileOfManyPiecesIsReadWhole() throws {
    try withDirectory { directory in
      let file = directory.appendingPathComponent("file")
      for size in [0, 4_095, 4_096, 4_097, 1_000_000] {
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
        try Data(bytes).write(to: file)
        #expect(try SmallFile.contents(of: file.path, byteLimit: max(size, 1)) == bytes)
        guard size > 0 else { continue }
        #expect(throws: SmallFile.Unreadable.self) { try SmallFile.contents(of: file.path, byteLimit: size - 1) }
      }
    }
  }

  @Test func aFileThatMayNotBeReadSaysForWhom() throws {
    try withDirectory { directory in
      let file = directory.appendingPathComponent("file").path
      try "secret".write(toFile: file, atomically: true, encoding: .utf8)
      chmod(file, 0)
      // Root reads any file.
      guard geteuid() != 0 else { return }
      #expect(
        throws: SmallFile.Unreadable(
          reason: "permission denied for the user with id \(geteuid()), which this process runs as")
      ) { try SmallFile.contents(of: file, byteLimit: 10) }
    }
  }

  @Test func whatIsNoRegularFileIsRefusedAtOnce() throws {
    try withDirectory { directory in
      let pipe = directory.appendingPathComponent("pipe").path
      try #require(mkfifo(pipe, 0o600) == 0)
      for (path, kind) in [(pipe, "a pipe"), (directory.path, "a directory"), ("/dev/zero", "a device or socket")] {
        #expect(throws: SmallFile.Unreadable(reason: "it is \(kind), not a regular file")) {
          try SmallFile.contents(of: path, byteLimit: 10)
        }
      }
      #expect(throws: SmallFile.Unreadable(reason: "no such file or directory")) {
        try SmallFile.contents(of: directory.path + "/none", byteLimit: 10)
      }
    }
  }
}
