// A private PostgreSQL server: created in a temporary directory, on a free loopback port.
// Invariant: each server has a guard, a shell in its own session that waits on a socket from this process.
// However this process ends, the socket closes, and the guard stops the server and removes the directory.

import Foundation
import Glibc
import Synchronization

/// A PostgreSQL server that belongs to this test process.
///
/// Most tests create a database on the shared server: `try await PrivatePostgres.shared.freshDatabase()`. Tests that
/// freeze, stop or restart a server start their own with `PrivatePostgres.start()` and `stop()` it at the end.
public final class PrivatePostgres: Sendable {
  /// A superuser; logs in without a password.
  public static let user = "postgres"
  /// A role that needs a password (SCRAM), and the password, which needs escaping in a URL.
  public static let lockedUser = "locked"
  public static let lockedPassword = "s3cr/t p@ss%"

  /// A role that needs a password (SCRAM).
  public struct Role: Sendable {
    let name: String
    let password: String

    public init(name: String, password: String) {
      self.name = name
      self.password = password
    }
  }

  /// The loopback port on which it listens.
  public let port: Int
  let directory: String
  let settings: [String]
  let role: Role
  private let state = Mutex(State())

  private struct State {
    var watch: GuardedProcess?
    var databases = 0
  }

  private static let sharedStart = Mutex<Task<PrivatePostgres, any Error>?>(nil)

  /// The server that all tests of this process share, started on first use. Tests must not stop or freeze it.
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

  /// Creates and starts another server, with additional `settings` ("name=value"). `role` is the only role with a
  /// password.
  public static func start(
    settings: [String] = [], role: Role = Role(name: lockedUser, password: lockedPassword)
  ) async throws -> PrivatePostgres {
    try await offLoop {
      var lastError: (any Error)?
      // Another process can take the port before it is bound.
      for _ in 0..<3 {
        do {
          let server = try PrivatePostgres(port: Int(freePort()), settings: settings, role: role)
          try server.launch(isNew: true)
          return server
        } catch {
          lastError = error
        }
      }
      throw lastError!
    }
  }

  /// The same with a certificate of the tests' authority for 127.0.0.1 and localhost, so that clients can use TLS.
  public static func startWithTLS(settings: [String] = []) async throws -> PrivatePostgres {
    let files = try await TestAuthority.shared().files(of: .good)
    // The server accepts only a key that its account owns.
    if geteuid() == 0, let account = getpwnam("postgres") {
      chown(files.key, account.pointee.pw_uid, account.pointee.pw_gid)
    }
    return try await start(
      settings: ["ssl=on", "ssl_cert_file=\(files.certificate)", "ssl_key_file=\(files.key)"] + settings)
  }

  init(port: Int, settings: [String], role: Role) throws {
    self.port = port
    self.settings = settings
    self.role = role
    var template = Array("\(NSTemporaryDirectory())/private-postgres-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw PrivatePostgresError("mkdtemp: errno \(errno)") }
    directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  /// A connection URL; `query` is appended unchanged ("a=b&c=d").
  public func url(
    user: String = PrivatePostgres.user, password: String? = nil, database: String = "postgres", query: String = ""
  ) -> String {
    Self.url(port: port, user: user, password: password, database: database, query: query)
  }

  static func url(port: Int, user: String, password: String?, database: String, query: String) -> String {
    let allowed = CharacterSet.alphanumerics
    let secret = password.map { ":" + ($0.addingPercentEncoding(withAllowedCharacters: allowed) ?? "") } ?? ""
    return "postgresql://\(user)\(secret)@127.0.0.1:\(port)/\(database)" + (query.isEmpty ? "" : "?\(query)")
  }

  /// The directory of its unix domain socket.
  public var socketDirectory: String { directory }

  /// The server's log so far.
  public func log() throws -> String {
    try String(contentsOfFile: "\(directory)/log", encoding: .utf8)
  }

  /// Creates an empty database and returns its URL.
  public func freshDatabase(encoding: String = "UTF8") async throws -> String {
    let number = state.withLock { state in
      state.databases += 1
      return state.databases
    }
    // An encoding other than the template's needs template0 and a locale without an encoding.
    let options = encoding == "UTF8" ? "" : " ENCODING '\(encoding)' LOCALE 'C' TEMPLATE template0"
    _ = try await psql("CREATE DATABASE fresh_\(number)\(options)")
    return url(database: "fresh_\(number)")
  }

  /// Runs `sql` with psql and returns its output: rows as lines, columns separated by `|`.
  ///
  /// - Throws: psql's stderr.
  @discardableResult
  public func psql(
    _ sql: String, database: String = "postgres", user: String = PrivatePostgres.user, password: String? = nil
  ) async throws -> String {
    try await psql(sql, through: url(user: user, password: password, database: database))
  }

  /// The same through another URL, such as a pooler's.
  public func psql(_ sql: String, through url: String) async throws -> String {
    return try await offLoop { try Self.psqlAtOnce(sql, through: url) }
  }

  /// The same, blocking the calling thread.
  public static func psqlAtOnce(_ sql: String, through url: String) throws -> String {
    try run([program("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
  }

  /// Freezes all its processes (SIGSTOP): to clients the server hangs.
  public func pause() {
    // The parent first, so that no new process appears between the listing and the signal.
    guard let parent = state.withLock({ $0.watch?.server }) else { return }
    kill(parent, SIGSTOP)
    for child in children(of: parent) { kill(child, SIGSTOP) }
  }

  /// Resumes a frozen server.
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

  /// Starts it after `halt()`, on the same port with the same data; `settings` last until it is halted again.
  public func startAgain(settings: [String] = []) async throws {
    try await offLoop { try self.launch(isNew: false, settings: settings) }
  }

  /// Stops it at once and starts it on the same port with the same data.
  public func restart() async throws {
    await halt()
    try await startAgain()
  }

  /// Restarts it as a hot standby, which is read-only until `pg_promote()`.
  public func demote() async throws {
    await halt()
    let directory = directory
    try await offLoop {
      try Data().write(to: URL(fileURLWithPath: "\(directory)/data/standby.signal"))
      try self.launch(isNew: false)
    }
  }

  /// Halts it, runs a shell command in its data directory as its owner, and starts it again.
  public func whileHalted(_ command: String) async throws {
    await halt()
    let directory = directory
    try await offLoop {
      let owner = ["/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
      let shell = ["/bin/sh", "-euc", "cd '\(directory)/data'; PATH='\(Self.binaries)':$PATH; \(command)"]
      _ = try run((geteuid() == 0 ? owner : []) + shell)
    }
    try await startAgain()
  }

  /// Stops it for good and removes its data.
  public func stop() async {
    let watch = state.withLock { $0.watch.take() }
    await offLoop {
      watch?.end(keepingData: false)
      try? FileManager.default.removeItem(atPath: self.directory)
    }
  }

  func launch(isNew: Bool, settings further: [String] = []) throws {
    var arguments = ["/bin/sh", "-c", Self.script, "private-postgres", directory, String(port)]
    arguments += [isNew ? "new" : "old", Self.binaries, role.name, role.password]
    let usual = [
      "listen_addresses=127.0.0.1", "port=\(port)", "unix_socket_directories=\(directory)", "fsync=off",
      "full_page_writes=off", "shared_buffers=32MB", "max_connections=100", "logging_collector=off",
      "log_min_messages=fatal",
    ]
    for setting in usual + settings + further { arguments += ["-c", setting] }
    let watch = try GuardedProcess(arguments)
    state.withLock { $0.watch = watch }
  }

  /// For `GuardedProcess`.
  private static let script = """
    set -u
    directory=$1 port=$2 age=$3 binaries=$4 role=$5 password=$6
    shift 6
    trap '' INT TERM HUP PIPE
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
        'host all,replication all samehost trust' >"$directory/data/pg_hba.conf"
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

  static let binaries: String = {
    let fromEnvironment = ProcessInfo.processInfo.environment["POSTGRES_BIN"].map { [$0] } ?? []
    let installed = (13...20).reversed().map { "/usr/lib/postgresql/\($0)/bin" }
    return (fromEnvironment + installed).first { access("\($0)/postgres", X_OK) == 0 } ?? "/usr/bin"
  }()

  /// The path of one of the programs that came with the server, such as pgbench.
  public static func program(_ name: String) -> String { "\(binaries)/\(name)" }
}

/// The error text of a private server or a program run for it.
public struct PrivatePostgresError: Error, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
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
