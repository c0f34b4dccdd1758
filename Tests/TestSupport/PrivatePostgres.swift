// A PostgreSQL server of the tests' own: made in a temporary directory, on a free port of loopback.
// Invariant: each server has a guard, a shell in a session of its own that waits on a socket from this process.
// However this process ends, the socket closes, and the guard stops the server and removes the directory.

import Foundation
import Glibc
import Synchronization

/// A PostgreSQL server that belongs to this test process.
///
/// Most tests take a database of their own on the shared one: `try await PrivatePostgres.shared.freshDatabase()`. Tests
/// that freeze, stop or restart a server start their own with `PrivatePostgres.start()` and `stop()` it in the end.
public final class PrivatePostgres: Sendable {
  /// A superuser; logs in without a password.
  public static let user = "postgres"
  /// A role that has to give its password (SCRAM), and the password, which needs escaping in a URL.
  public static let lockedUser = "locked"
  public static let lockedPassword = "s3cr/t p@ss%"

  /// The loopback port on which it listens.
  public let port: Int
  private let directory: String
  private let settings: [String]
  private let state = Mutex(State())

  private struct State {
    var watch: ServerGuard?
    var databases = 0
  }

  private static let sharedStart = Mutex<Task<PrivatePostgres, any Error>?>(nil)

  /// The server that all tests of this process share, started at the first use. Nobody stops or freezes it.
  public static var shared: PrivatePostgres {
    get async throws {
      let start = sharedStart.withLock { started in
        if let started { return started }
        let task = Task.detached { try await PrivatePostgres.start() }
        started = task
        return task
      }
      return try await start.value
    }
  }

  /// Makes and starts another server, with `settings` ("name=value") beside the tests' usual ones.
  public static func start(settings: [String] = []) async throws -> PrivatePostgres {
    try await offLoop {
      var lastError: (any Error)?
      // Someone else can take the port between its choice and its use.
      for _ in 0..<3 {
        do {
          let server = try PrivatePostgres(port: Int(freePort()), settings: settings)
          try server.launch(isNew: true)
          return server
        } catch {
          lastError = error
        }
      }
      throw lastError!
    }
  }

  private init(port: Int, settings: [String]) throws {
    self.port = port
    self.settings = settings
    var template = Array("\(NSTemporaryDirectory())/private-postgres-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw PrivatePostgresError("mkdtemp: errno \(errno)") }
    directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  /// A connection URL; `query` is appended as it is ("a=b&c=d").
  public func url(
    user: String = PrivatePostgres.user, password: String? = nil, database: String = "postgres", query: String = ""
  ) -> String {
    let allowed = CharacterSet.alphanumerics
    let secret = password.map { ":" + ($0.addingPercentEncoding(withAllowedCharacters: allowed) ?? "") } ?? ""
    return "postgresql://\(user)\(secret)@127.0.0.1:\(port)/\(database)" + (query.isEmpty ? "" : "?\(query)")
  }

  /// The directory of its unix domain socket.
  public var socketDirectory: String { directory }

  /// Makes an empty database and returns its URL.
  public func freshDatabase() async throws -> String {
    let number = state.withLock { state in
      state.databases += 1
      return state.databases
    }
    _ = try await psql("CREATE DATABASE fresh_\(number)")
    return url(database: "fresh_\(number)")
  }

  /// Runs `sql` with psql and returns its output: rows as lines, columns separated by `|`.
  ///
  /// - Throws: what psql wrote on stderr.
  @discardableResult
  public func psql(_ sql: String, database: String = "postgres") async throws -> String {
    let url = url(database: database)
    return try await offLoop {
      try run([Self.program("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
    }
  }

  /// Freezes all its processes (SIGSTOP): clients see a server that hangs.
  public func pause() {
    // The parent first, so that no new process appears between the look and the signal.
    guard let parent = state.withLock({ $0.watch?.server }) else { return }
    kill(parent, SIGSTOP)
    for child in children(of: parent) { kill(child, SIGSTOP) }
  }

  /// Lets a frozen server run again.
  public func resume() {
    guard let parent = state.withLock({ $0.watch?.server }) else { return }
    for child in children(of: parent) { kill(child, SIGCONT) }
    kill(parent, SIGCONT)
  }

  /// Stops it at once and keeps its data: clients are refused from now on, until `startAgain()`.
  public func halt() async {
    let watch = state.withLock { $0.watch.take() }
    await offLoop { watch?.end(keepingData: true) }
  }

  /// Starts it after `halt()`, on the same port with the same data.
  public func startAgain() async throws {
    try await offLoop { try self.launch(isNew: false) }
  }

  /// Stops it at once and starts it on the same port with the same data.
  public func restart() async throws {
    await halt()
    try await startAgain()
  }

  /// Starts it again as a hot standby, which can be read from only, until `pg_promote()`.
  public func demote() async throws {
    await halt()
    let directory = directory
    try await offLoop {
      try Data().write(to: URL(fileURLWithPath: "\(directory)/data/standby.signal"))
      try self.launch(isNew: false)
    }
  }

  /// Stops it for good and removes its data.
  public func stop() async {
    let watch = state.withLock { $0.watch.take() }
    await offLoop {
      watch?.end(keepingData: false)
      try? FileManager.default.removeItem(atPath: self.directory)
    }
  }

  private func launch(isNew: Bool) throws {
    var arguments = ["/bin/sh", "-c", ServerGuard.script, "private-postgres", directory, String(port)]
    arguments += [isNew ? "new" : "old", Self.binaries, Self.lockedUser, Self.lockedPassword]
    let usual = [
      "listen_addresses=127.0.0.1", "port=\(port)", "unix_socket_directories=\(directory)", "fsync=off",
      "full_page_writes=off", "shared_buffers=32MB", "max_connections=100", "logging_collector=off",
      "log_min_messages=fatal",
    ]
    for setting in usual + settings { arguments += ["-c", setting] }
    let watch = try ServerGuard(arguments)
    state.withLock { $0.watch = watch }
  }

  static let binaries: String = {
    let fromEnvironment = ProcessInfo.processInfo.environment["POSTGRES_BIN"].map { [$0] } ?? []
    let installed = (13...20).reversed().map { "/usr/lib/postgresql/\($0)/bin" }
    return (fromEnvironment + installed).first { access("\($0)/postgres", X_OK) == 0 } ?? "/usr/bin"
  }()

  static func program(_ name: String) -> String { "\(binaries)/\(name)" }
}

/// What a private server, or a program run for it, said when it failed.
public struct PrivatePostgresError: Error, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// The shell that starts a server, waits until this process closes its socket, and stops the server.
private final class ServerGuard: Sendable {
  let server: pid_t
  private let shell: pid_t
  private let leash: Int32

  /// Reads one word from the socket: "keep" stops the server and keeps its data; the end of the file, which is also how
  /// the death of this process looks, removes them.
  static let script = """
    set -u
    directory=$1 port=$2 age=$3 binaries=$4 role=$5 password=$6
    shift 6
    trap '' INT TERM HUP
    cd /
    as_owner() { exec "$@"; }
    if [ "$(id -u)" = 0 ]; then
      chown postgres "$directory"
      as_owner() { exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
    fi
    if [ "$age" = new ]; then
      (as_owner "$binaries/initdb" --no-sync -A trust -U postgres --locale=C.UTF-8 -E UTF8 -D "$directory/data") \
        >"$directory/log" 2>&1 || { echo failed; rm -rf "$directory"; exit 1; }
      printf '%s\\n' "host all $role 127.0.0.1/32 scram-sha-256" 'local all all trust' \
        'host all all samehost trust' >"$directory/data/pg_hba.conf"
    fi
    (as_owner "$binaries/postgres" -D "$directory/data" "$@") >>"$directory/log" 2>&1 &
    server=$!
    until "$binaries/pg_isready" -q -h 127.0.0.1 -p "$port"; do
      kill -0 "$server" 2>/dev/null || { echo failed; cat "$directory/log" >&2; rm -rf "$directory"; exit 1; }
      sleep 0.02
    done
    if [ "$age" = new ]; then
      "$binaries/psql" -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres \
        -c "CREATE ROLE $role LOGIN PASSWORD '$password'" >>"$directory/log" 2>&1
    fi
    echo "$server"
    read -r order || order=remove
    for status in /proc/[0-9]*/stat; do
      { read -r line <"$status"; } 2>/dev/null || continue
      rest=${line##*) }
      rest=${rest#* }
      [ "${rest%% *}" = "$server" ] && kill -CONT "${line%% *}" 2>/dev/null
    done
    kill -CONT "$server" 2>/dev/null
    kill -QUIT "$server" 2>/dev/null
    wait "$server"
    [ "$order" = keep ] || rm -rf "$directory"
    """

  init(_ arguments: [String]) throws {
    let (near, far) = try connectedPair()
    leash = near
    shell = try spawn(arguments, input: far, output: far)
    close(far)
    let answer = readAll(near, untilNewline: true)
    guard let server = pid_t(answer) else {
      close(leash)
      waitForEnd(of: shell)
      throw PrivatePostgresError("the private PostgreSQL did not start")
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
      let rest = ServerGuard.living.withLock { $0 }
      for leash in rest.values { close(leash) }
      for shell in rest.keys { waitForEnd(of: shell) }
    }
  }()
}

/// POSIX_SPAWN_SETSID, which Glibc's module does not show.
private let setSession: Int16 = 0x80

/// A connected pair of sockets. Close-on-exec from the start, or another program that this process starts would hold
/// them open.
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
private func run(_ arguments: [String]) throws -> String {
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

private func children(of parent: pid_t) -> [pid_t] {
  guard let names = try? FileManager.default.contentsOfDirectory(atPath: "/proc") else { return [] }
  return names.compactMap { name in
    guard let number = pid_t(name), let stat = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
      let close = stat.lastIndex(of: ")")
    else { return nil }
    let fields = stat[close...].split(separator: " ")
    return fields.count > 2 && pid_t(fields[2]) == parent ? number : nil
  }
}
