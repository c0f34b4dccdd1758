// A private Redis server: on a free loopback port, in its own directory, without persistence.
// Invariant: a watchdog shell owns the server and reads a pipe from this process; when the pipe closes, however this
// process ended, it kills the server and removes the directory.

import Foundation
import Synchronization

/// A private redis-server that can be frozen, stopped and started again on its port.
public final class PrivateRedis: Sendable {
  /// One server without a password, for tests that neither harm it nor rely on its being empty.
  public static let shared: PrivateRedis = {
    do { return try PrivateRedis() } catch { fatalError("no private redis-server: \(error)") }
  }()

  public struct Failure: Error, CustomStringConvertible {
    public let description: String
  }

  public let port: UInt16
  /// Its TLS port; nil if it has no certificate.
  public let tlsPort: UInt16?
  public let password: String?
  /// Its data directory, removed when it ends.
  public let directory: String
  private let settings: [String]
  private let isSentinel: Bool
  private let clock: SteppedClock?
  private let running = Mutex<Running?>(nil)

  private struct Running {
    var watchdog: pid_t
    var server: pid_t
    var pipe: Int32
  }

  /// Starts a server and waits until it answers.
  ///
  /// - Parameters:
  ///   - password: the default user's password.
  ///   - user: an additional user with all rights, name and password.
  ///   - tls: its certificate and key, and the authority of the servers that it connects to.
  ///   - settings: additional lines of redis.conf.
  ///   - isSentinel: start a Redis Sentinel, which watches nothing yet.
  ///   - hasSteppedClock: let `stepClock` step its wall clock.
  public init(
    password: String? = nil, user: (name: String, password: String)? = nil,
    tls: (files: (certificate: String, key: String), authority: String)? = nil, settings: [String] = [],
    isSentinel: Bool = false, hasSteppedClock: Bool = false
  ) throws {
    self.password = password
    self.isSentinel = isSentinel
    port = try freePort()
    directory = "\(NSTemporaryDirectory())private-redis-\(getpid())-\(port)"
    var lines = [
      "port \(port)", "bind 127.0.0.1", "save \"\"", "appendonly no", "daemonize no", "dir \(directory)",
      "logfile \(directory)/log", "enable-debug-command yes",
    ]
    if let password { lines.append("requirepass \(password)") }
    if let user { lines.append("user \(user.name) on >\(user.password) ~* &* +@all") }
    tlsPort = try tls.map { _ in try freePort() }
    if let tls, let tlsPort {
      lines += [
        "tls-port \(tlsPort)", "tls-cert-file \(tls.files.certificate)", "tls-key-file \(tls.files.key)",
        "tls-ca-cert-file \(tls.authority)", "tls-auth-clients no",
      ]
    }
    self.settings = lines + settings
    clock = hasSteppedClock ? SteppedClock(directory: directory) : nil
    try start()
  }

  deinit {
    stop()
  }

  /// redis://127.0.0.1:port, with the default user's password if it has one.
  public var url: String {
    "redis://\(password.map { ":\($0)@" } ?? "")127.0.0.1:\(port)"
  }

  /// The server's process id; nil while it is stopped.
  public var processIdentifier: pid_t? {
    running.withLock { $0?.server }
  }

  /// Starts the stopped server again, empty, on the same port.
  public func start() throws {
    try running.withLock { running in
      guard running == nil else { return }
      running = try launch()
    }
  }

  /// Kills the server; its connections are closed by the kernel.
  public func stop() {
    running.withLock { running in
      guard let stopped = running else { return }
      running = nil
      close(stopped.pipe)
      var status: Int32 = 0
      waitpid(stopped.watchdog, &status, 0)
    }
  }

  public func restart() throws {
    stop()
    try start()
  }

  /// Sets the offset of its wall clock from the host's.
  public func stepClock(to offset: Duration) throws {
    try clock?.step(to: offset)
  }

  /// Freezes the server: its connections stay, the kernel still accepts new ones, nothing answers.
  public func pause() {
    running.withLock { running in _ = running.map { kill($0.server, SIGSTOP) } }
  }

  public func resume() {
    running.withLock { running in _ = running.map { kill($0.server, SIGCONT) } }
  }

  /// What redis-cli prints for a command, without the last newline.
  @discardableResult
  public func cli(_ arguments: String...) throws -> String {
    try runCLI(arguments)
  }

  @discardableResult
  public func cli(_ arguments: [String]) throws -> String {
    try runCLI(arguments)
  }

  private func runCLI(_ arguments: [String]) throws -> String {
    var words = ["redis-cli", "-h", "127.0.0.1", "-p", "\(port)"]
    if let password { words += ["--no-auth-warning", "-a", password] }
    let ends = try Self.pipe()
    let child = try Self.spawn(words + arguments, standardInput: nil, standardOutput: ends[1])
    close(ends[1])
    let output = FileHandle(fileDescriptor: ends[0], closeOnDealloc: true).readDataToEndOfFile()
    var status: Int32 = 0
    waitpid(child, &status, 0)
    var text = String(decoding: output, as: UTF8.self)
    while text.hasSuffix("\n") { text.removeLast() }
    return text
  }

  private func launch() throws -> Running {
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    try Data((settings.joined(separator: "\n") + "\n").utf8).write(to: URL(fileURLWithPath: directory + "/redis.conf"))
    try clock?.make()
    let ends = try Self.pipe()
    let script = """
      ${2:+env "LD_PRELOAD=$2/clock.so" "STEPPED_CLOCK_FILE=$2/offset"} \\
        redis-server "$0/redis.conf" $1 </dev/null >/dev/null 2>&1 &
      read never
      kill -9 $! 2>/dev/null
      wait $! 2>/dev/null
      rm -rf "$0"
      """
    let watchdog = try Self.spawn(
      ["sh", "-c", script, directory, isSentinel ? "--sentinel" : "", clock == nil ? "" : directory],
      standardInput: ends[0], standardOutput: nil)
    close(ends[0])

    // Another server may have taken the address: ours is the one with our directory.
    for _ in 0..<1_000 {
      if let server = answeringServer() { return Running(watchdog: watchdog, server: server, pipe: ends[1]) }
      usleep(5_000)
    }
    let log = (try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? "no log"
    close(ends[1])
    var status: Int32 = 0
    waitpid(watchdog, &status, 0)
    throw Failure(description: "redis-server did not answer on port \(port): \(log)")
  }

  private func answeringServer() -> pid_t? {
    guard Self.accepts(port), let info = try? runCLI(["INFO", "server"]), info.contains("\(directory)/redis.conf")
    else { return nil }
    for line in info.split(whereSeparator: \.isNewline) where line.hasPrefix("process_id:") {
      return pid_t(line.dropFirst("process_id:".count))
    }
    return nil
  }

  /// Two connected descriptors that no child of another thread inherits: a substitute for pipe2, which Glibc's module
  /// lacks.
  private static func pipe() throws -> [Int32] {
    var ends: [Int32] = [-1, -1]
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw Failure(description: "socketpair: \(errno)") }
    return ends
  }

  private static func spawn(
    _ arguments: [String], standardInput: Int32?, standardOutput: Int32?
  ) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    if let standardInput { posix_spawn_file_actions_adddup2(&actions, standardInput, 0) }
    if let standardOutput { posix_spawn_file_actions_adddup2(&actions, standardOutput, 1) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // Its own process group: Ctrl-C ends the tests, and the closed pipe then ends this.
    // No blocked or ignored signals: a shell without SIGCHLD waits forever.
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    words.append(nil)
    defer { for word in words { free(word) } }
    var child: pid_t = 0
    let status = posix_spawnp(&child, arguments[0], &actions, &attributes, &words, environ)
    guard status == 0 else { throw Failure(description: "\(arguments[0]): \(String(cString: strerror(status)))") }
    return child
  }

  private static func accepts(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    defer { close(descriptor) }
    return withLoopbackAddress(port) { connect(descriptor, $0, $1) } == 0
  }
}
