// The built worker as a process: its environment, output, signals and end.
// Invariant: it never outlives the test process, even if that crashes. Used by the worker's tests.

import Foundation
import Synchronization

/// A started worker. `start` it, watch it with `eventually`, and end it with `stop()` or a signal and `waitForExit()`.
///
/// Only reading files under /proc blocks the caller's thread; everything can be called on the loop.
public final class WorkerProcess: Sendable {
  /// How a process ended.
  public enum Ending: Equatable, Sendable {
    /// It returned this status.
    case exited(Int32)
    /// This signal ended it.
    case signalled(Int32)
  }

  /// One line of the worker's log.
  public struct LogLine: Sendable, CustomStringConvertible {
    /// The line without its line ending.
    public let text: String

    /// The line with this text.
    public init(text: String) {
      self.text = text
    }

    /// Its JSON object; nil if it is not one, which a test should report.
    public var fields: [String: Any]? {
      (try? JSONSerialization.jsonObject(with: Data(text.utf8))) as? [String: Any]
    }
    public var level: String? { self["level"] }
    public var message: String? { self["msg"] }
    public var description: String { text }
    /// A string field.
    public subscript(field: String) -> String? { fields?[field] as? String }
  }

  /// The process's id.
  public let id: pid_t
  /// The port of its probes on 127.0.0.1, as `start` chose it.
  public let probePort: UInt16
  private let end = End()
  /// Holds its output and log as files, so they survive however it ends.
  private let directory: URL

  /// Starts the worker built with the tests, and returns without waiting for it.
  ///
  /// The environment is only `environment`, with PATH, a sanitizer's options and, unless given, SB_WORKER_LOCAL_ADDR on
  /// a free port.
  ///
  /// - Throws: if the executable is missing or the process cannot be started.
  public static func start(
    _ arguments: [String] = ["run"], environment: [String: String], executable: String = WorkerProcess.executable
  ) async throws -> WorkerProcess {
    var environment = environment
    let probePort = try freePort()
    let inherited = ProcessInfo.processInfo.environment
    for name in ["PATH", "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"] {
      environment[name] = environment[name] ?? inherited[name]
    }
    environment["SB_WORKER_LOCAL_ADDR"] = environment["SB_WORKER_LOCAL_ADDR"] ?? "127.0.0.1:\(probePort)"
    let variables = environment.map { "\($0)=\($1)" }
    let command = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--", executable] + arguments
    let parcel = Parcel<WorkerProcess>()
    try await withCheckedThrowingContinuation { (started: CheckedContinuation<Void, any Error>) in
      // The thread that starts the process must live as long as it: the kernel ties PDEATHSIG to the thread.
      Thread.detachNewThread {
        do {
          let (id, end) = try launch(command, variables, probePort, handOver: parcel)
          started.resume()
          end.awaitEnd(of: id)
        } catch {
          started.resume(throwing: error)
        }
      }
    }
    return parcel.take()
  }

  /// Returns the process to its only owner; dropping it ends the process.
  private static func launch(
    _ command: [String], _ variables: [String], _ probePort: UInt16, handOver parcel: Parcel<WorkerProcess>
  ) throws -> (pid_t, End) {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("worker-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    let id = try spawn(
      command, variables,
      output: directory.appendingPathComponent("output").path, log: directory.appendingPathComponent("log").path)
    let process = WorkerProcess(id: id, probePort: probePort, directory: directory)
    parcel.put(process)
    return (id, process.end)
  }

  private init(id: pid_t, probePort: UInt16, directory: URL) {
    self.id = id
    self.probePort = probePort
    self.directory = directory
  }

  /// The built worker, beside the test bundle.
  public static var executable: String {
    // Under `swift test` the bundle's path is an argument; the runner itself is in the toolchain.
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
    return URL(fileURLWithPath: bundle).deletingLastPathComponent().appendingPathComponent("secrets-bridge-worker").path
  }

  // MARK: What it wrote

  /// The complete lines of its log so far.
  public var log: [LogLine] {
    let isWhole = ending != nil
    var lines = text(of: "log").components(separatedBy: "\n")
    let rest = lines.removeLast()
    if isWhole, !rest.isEmpty { lines.append(rest) }
    return lines.map(LogLine.init(text:))
  }

  /// Its standard output so far.
  public var output: String { text(of: "output") }

  /// Everything written to both so far, to search for planted secrets.
  public var everything: String { text(of: "output") + text(of: "log") }

  private func text(of file: String) -> String {
    let content = FileManager.default.contents(atPath: directory.appendingPathComponent(file).path)
    return String(decoding: content ?? Data(), as: UTF8.self)
  }

  // MARK: Its life

  /// How it ended; nil while it runs.
  public var ending: Ending? { end.ending }

  /// Sends a signal, such as SIGTERM, SIGKILL, SIGSTOP or SIGCONT; does nothing after its end.
  public func signal(_ number: Int32) {
    end.ifNone { _ = kill(id, number) }
  }

  /// Waits until it ends.
  ///
  /// - Throws: `NeverHappened` with the end of its log if it still runs after `limit`.
  @discardableResult
  public func waitForExit(within limit: Duration = .seconds(20)) async throws -> Ending {
    let deadline = ContinuousClock.now.advanced(by: limit)
    return try await offLoop {
      while ContinuousClock.now < deadline {
        if let ending = self.ending { return ending }
        usleep(2_000)
      }
      let tail = self.log.suffix(5).map(\.text).joined(separator: "\n")
      throw NeverHappened(description: "the worker still runs after \(limit); its log ends with:\n\(tail)")
    }
  }

  /// Ends it with SIGTERM, then with SIGKILL if it still runs after `limit`.
  @discardableResult
  public func stop(within limit: Duration = .seconds(20)) async throws -> Ending {
    signal(SIGCONT)
    signal(SIGTERM)
    do {
      return try await waitForExit(within: limit)
    } catch {
      signal(SIGKILL)
      try await waitForExit()
      throw error
    }
  }

  deinit {
    signal(SIGKILL)
    // A log left in the temporary directory does not fail the test.
    try? FileManager.default.removeItem(at: directory)
  }

  // MARK: What the kernel says of it

  /// Its number of threads from /proc/PID/status; nil after its end.
  public var threadCount: Int? { statusField("Threads:") }

  /// Its voluntary context switches since the start; nil after its end.
  public var voluntarySwitches: Int? { statusField("voluntary_ctxt_switches:") }

  /// Its number of open descriptors; nil after its end.
  public var descriptorCount: Int? {
    try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/fd").count
  }

  private func statusField(_ name: String) -> Int? {
    guard ending == nil, let status = try? String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8) else {
      return nil
    }
    guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix(name) }) else { return nil }
    return Int(line.dropFirst(name.count).drop { $0 == " " || $0 == "\t" }.prefix { $0.isNumber })
  }

  // MARK: Its probes

  /// Queries one of its probes.
  ///
  /// - Throws: `SocketError` if nothing listens or no answer arrived within `limit`.
  public func get(_ path: String, within limit: Duration = .seconds(5)) async throws -> HTTPAnswer {
    try await httpGet(port: probePort, path: path, within: limit)
  }

  /// The status of a probe, or 0 without an answer: a condition for `eventually`.
  public func status(of path: String) async -> Int {
    (try? await get(path))?.status ?? 0
  }
}

/// A process's end, set by the thread that waits for it; it does not keep the `WorkerProcess` alive.
private final class End: Sendable {
  private let state = Mutex<WorkerProcess.Ending?>(nil)

  var ending: WorkerProcess.Ending? { state.withLock { $0 } }

  func ifNone(_ body: () -> Void) {
    state.withLock { if $0 == nil { body() } }
  }

  func awaitEnd(of id: pid_t) {
    // First without reaping, so that our signals cannot reach another process that got the same id.
    var information = siginfo_t()
    while waitid(P_PID, id_t(id), &information, WEXITED | WNOWAIT) != 0, errno == EINTR {}
    state.withLock { ending in
      var status: Int32 = 0
      waitpid(id, &status, 0)
      ending = status & 0x7f == 0 ? .exited((status >> 8) & 0xff) : .signalled(status & 0x7f)
    }
  }
}

/// The system call that failed and its errno.
public struct SystemCallFailed: Error, CustomStringConvertible {
  public let number: Int32
  public let description: String

  init(_ call: String, _ number: Int32 = errno) {
    self.number = number
    description = "\(call): \(String(cString: strerror(number)))"
  }
}

/// Starts a process that writes into these new files, with no inherited descriptor and default signal handling.
private func spawn(_ arguments: [String], _ variables: [String], output: String, log: String) throws -> pid_t {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
  posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o600)
  posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
  closeFrom(3, &actions)

  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  var signals = sigset_t()
  sigemptyset(&signals)
  posix_spawnattr_setsigmask(&attributes, &signals)
  sigfillset(&signals)
  posix_spawnattr_setsigdefault(&attributes, &signals)
  posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

  var argumentPointers = arguments.map { strdup($0) } + [nil]
  var variablePointers = variables.map { strdup($0) } + [nil]
  defer { for pointer in argumentPointers + variablePointers { free(pointer) } }
  var id: pid_t = 0
  let failure = posix_spawn(&id, arguments[0], &actions, &attributes, &argumentPointers, &variablePointers)
  guard failure == 0 else { throw SystemCallFailed("posix_spawn", failure) }
  return id
}

/// A GNU extension that Swift's Glibc module does not expose.
private func closeFrom(_ descriptor: Int32, _ actions: inout posix_spawn_file_actions_t) {
  typealias Function = @convention(c) (UnsafeMutablePointer<posix_spawn_file_actions_t>, Int32) -> Int32
  guard let symbol = dlsym(nil, "posix_spawn_file_actions_addclosefrom_np") else { return }
  _ = unsafeBitCast(symbol, to: Function.self)(&actions, descriptor)
}
