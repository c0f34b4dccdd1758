// A wall clock for a server under test: a library preloaded into it, and a file with the clock's offset.
// Invariant: a step is in effect when `step` returns. Used by PrivateRedis.

import Foundation

/// Compiles Tests/Endpoints/stepped_clock.c into a server's directory.
public struct SteppedClock: Sendable {
  let directory: String

  /// Whether there is a C compiler: Swift includes one.
  public static let isAvailable = compiler != nil

  /// The compiler; nil if there is none.
  public static let compiler: String? = {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
    let candidates = ["clang", "cc", "gcc"].flatMap { name in path.split(separator: ":").map { "\($0)/\(name)" } }
    return candidates.first { FileManager.default.isExecutableFile(atPath: $0) }
  }()

  private static let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("Endpoints/stepped_clock.c").path

  func make() throws {
    guard let compiler = Self.compiler else { throw PrivateRedis.Failure(description: "no C compiler") }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: compiler)
    process.arguments = ["-shared", "-fPIC", "-O1", "-o", "\(directory)/clock.so", Self.source]
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw PrivateRedis.Failure(description: "\(compiler): status \(process.terminationStatus)")
    }
    try step(to: .zero)
  }

  /// Written in place: the server has the file mapped.
  func step(to offset: Duration) throws {
    let path = "\(directory)/offset"
    let bytes = withUnsafeBytes(of: Int64(offset.components.seconds)) { Data($0) }
    guard let file = FileHandle(forUpdatingAtPath: path) else { return try bytes.write(to: URL(fileURLWithPath: path)) }
    try file.write(contentsOf: bytes)
    try file.close()
  }
}
