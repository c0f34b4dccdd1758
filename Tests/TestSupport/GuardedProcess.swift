// A server as the child of a shell that stops it however this process ends.
// Invariant: only the socket to the shell keeps the server alive. Used by PrivatePostgres and PrivatePgBouncer.

import Foundation
import Glibc
import Synchronization

/// The shell that starts a server, waits until this process closes its socket, and stops the server. It writes the
/// server's process id when the server is ready, then reads one word: "keep" stops the server and keeps its data; end
/// of file, which this process's death also causes, removes the data.
final class GuardedProcess: Sendable {
  /// The server's own process.
  let server: pid_t
  private let shell: pid_t
  private let leash: Int32

  init(_ arguments: [String]) throws {
    let (near, far) = try connectedPair()
    leash = near
    shell = try spawn(arguments, input: far, output: far)
    close(far)
    let answer = readAll(near, untilNewline: true)
    guard let server = pid_t(answer) else {
      close(leash)
      waitForEnd(of: shell)
      throw PrivatePostgresError("\(arguments.count > 3 ? arguments[3] : "a server") did not start")
    }
    self.server = server
    Self.living.withLock { $0[shell] = leash }
    _ = Self.stopAllAtExit
  }

  func end(keepingData: Bool) {
    guard Self.living.withLock({ $0.removeValue(forKey: shell) }) != nil else { return }
    if keepingData { _ = write(leash, "keep\n", 5) }
    close(leash)
    waitForEnd(of: shell)
  }

  private static let living = Mutex<[pid_t: Int32]>([:])

  private static let stopAllAtExit: Void = {
    _ = atexit {
      let rest = GuardedProcess.living.withLock { $0 }
      for leash in rest.values { close(leash) }
      for shell in rest.keys { waitForEnd(of: shell) }
    }
  }()
}

/// POSIX_SPAWN_SETSID, which Glibc's module does not show.
private let setSession: Int16 = 0x80

/// A connected pair of sockets. Close-on-exec from the start, because other programs that this process starts would
/// otherwise hold them open.
private func connectedPair() throws -> (near: Int32, far: Int32) {
  var ends: [Int32] = [0, 0]
  guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
    throw PrivatePostgresError("socketpair: errno \(errno)")
  }
  return (ends[0], ends[1])
}

/// Starts a program in a session of its own, so that a terminal's Ctrl-C does not reach it.
private func spawn(_ arguments: [String], input: Int32, output: Int32) throws -> pid_t {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  posix_spawn_file_actions_adddup2(&actions, input, 0)
  posix_spawn_file_actions_adddup2(&actions, output, 1)
  posix_spawn_file_actions_adddup2(&actions, output, 2)
  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  posix_spawnattr_setflags(&attributes, setSession | Int16(POSIX_SPAWN_SETSIGMASK))
  var none = sigset_t()
  sigemptyset(&none)
  posix_spawnattr_setsigmask(&attributes, &none)
  var list: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
  list.append(nil)
  defer { for item in list { free(item) } }
  var child: pid_t = 0
  let status = posix_spawn(&child, arguments[0], &actions, &attributes, list, environ)
  guard status == 0 else { throw PrivatePostgresError("cannot start \(arguments[0]): errno \(status)") }
  return child
}

/// Runs a program to its end and returns its output without the last newline.
func run(_ arguments: [String]) throws -> String {
  let (near, far) = try connectedPair()
  let child = try spawn(arguments, input: far, output: far)
  close(far)
  let text = readAll(near, untilNewline: false)
  close(near)
  guard waitForEnd(of: child) == 0 else { throw PrivatePostgresError(text) }
  return text
}

private func readAll(_ descriptor: Int32, untilNewline: Bool) -> String {
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4096)
  while true {
    let count = read(descriptor, &buffer, buffer.count)
    if count < 0 && errno == EINTR { continue }
    if count <= 0 { break }
    bytes += buffer[..<count]
    if untilNewline && bytes.contains(10) { break }
  }
  while bytes.last == 10 { bytes.removeLast() }
  return String(decoding: bytes, as: UTF8.self)
}

@discardableResult
private func waitForEnd(of child: pid_t) -> Int32 {
  var status: Int32 = 0
  while waitpid(child, &status, 0) < 0 && errno == EINTR {}
  return status
}
