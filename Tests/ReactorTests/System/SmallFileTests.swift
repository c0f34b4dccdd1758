// Small files read whole: the content, and every reason against it.

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
      #expect(throws: SmallFile.Unreadable(reason: "longer than 6 bytes")) {
        try SmallFile.contents(of: file.path, byteLimit: 6)
      }
    }
  }

  @Test func whatIsNoRegularFileIsRefusedAtOnce() throws {
    try withDirectory { directory in
      let pipe = directory.appendingPathComponent("pipe").path
      try #require(mkfifo(pipe, 0o600) == 0)
      for path in [pipe, directory.path, "/dev/zero"] {
        #expect(throws: SmallFile.Unreadable(reason: "not a regular file")) {
          try SmallFile.contents(of: path, byteLimit: 10)
        }
      }
      #expect(throws: SmallFile.Unreadable(reason: "no such file or directory")) {
        try SmallFile.contents(of: directory.path + "/none", byteLimit: 10)
      }
    }
  }
}
