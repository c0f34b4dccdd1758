// A private PgBouncer in front of a server: on a free loopback port, its files in a temporary directory.
// Invariant: a guard, a shell in its own session that waits on a socket from this process, stops it however this
// process ends. Used by tests of the worker behind a pooler.

import Foundation
import Synchronization

/// A PgBouncer that belongs to this test process. Call `stop()` at the end; otherwise its guard stops it.
public final class PrivatePgBouncer: Sendable {
  /// When a server session is given to another client.
  public enum Mode: String, Sendable, CaseIterable {
    case session, transaction, statement
  }

  /// How clients log in.
  public enum Login: String, Sendable {
    /// Without a password.
    case trust
    /// `PrivatePostgres.lockedUser` with its password; nobody else.
    case scram = "scram-sha-256"
  }

  /// The loopback port on which it listens.
  public let port: Int
  private let process: GuardedProcess

  /// Whether the program is installed.
  public static var isInstalled: Bool { access(program, X_OK) == 0 }
  private static let program = "/usr/sbin/pgbouncer"

  /// Starts one in front of `server`, or of whatever listens on `upstream`. `poolSize`: server sessions per user and
  /// database. `users` can log in without a password if `login` is trust. `settings` are lines of its configuration
  /// ("name = value").
  public static func start(
    to server: PrivatePostgres, mode: Mode, login: Login = .trust, users: [String] = [PrivatePostgres.user],
    poolSize: Int = 1, upstream: Int? = nil, settings: [String] = []
  ) async throws -> PrivatePgBouncer {
    try await offLoop {
      var lastError: (any Error)?
      // Another process can take the port before it is bound.
      for _ in 0..<3 {
        do {
          let lines = [
            "pool_mode = \(mode.rawValue)", "auth_type = \(login.rawValue)", "default_pool_size = \(poolSize)",
          ]
          return try PrivatePgBouncer(
            port: Int(freePort()), upstream: upstream ?? server.port, users: users, lines + settings)
        } catch {
          lastError = error
        }
      }
      throw lastError!
    }
  }

  private init(port: Int, upstream: Int, users: [String], _ lines: [String]) throws {
    self.port = port
    var template = Array("\(NSTemporaryDirectory())/private-pgbouncer-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw PrivatePostgresError("mkdtemp: errno \(errno)") }
    let directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    let configuration =
      ([
        "[databases]", "* = host=127.0.0.1 port=\(upstream)", "[pgbouncer]", "listen_addr = 127.0.0.1",
        "listen_port = \(port)", "unix_socket_dir =", "auth_file = \(directory)/users",
      ] + lines).joined(separator: "\n") + "\n"
    try configuration.write(toFile: "\(directory)/ini", atomically: false, encoding: .utf8)
    var known = "\"\(PrivatePostgres.lockedUser)\" \"\(PrivatePostgres.lockedPassword)\"\n"
    for user in users { known += "\"\(user)\" \"\"\n" }
    try known.write(toFile: "\(directory)/users", atomically: false, encoding: .utf8)
    process = try GuardedProcess([
      "/bin/sh", "-c", Self.script, "private-pgbouncer", directory, String(port), Self.program,
      PrivatePostgres.program("pg_isready"),
    ])
  }

  /// A connection URL; `query` is appended unchanged.
  public func url(
    user: String = PrivatePostgres.user, password: String? = nil, database: String = "postgres", query: String = ""
  ) -> String {
    PrivatePostgres.url(port: port, user: user, password: password, database: database, query: query)
  }

  /// Runs a console command, such as RECONNECT. `settings` must have made the superuser its administrator.
  public func order(_ text: String) async throws {
    let url = url(database: "pgbouncer")
    try await offLoop { _ = try run([PrivatePostgres.program("psql"), "-X", "-q", "-d", url, "-c", text]) }
  }

  /// Stops it at once.
  public func stop() async {
    await offLoop { self.process.end(keepingData: false) }
  }

  /// PgBouncer refuses to run as root.
  private static let script = """
    set -u
    directory=$1 port=$2 program=$3 is_ready=$4
    trap '' INT TERM HUP PIPE
    cd /
    as_owner() { exec "$@"; }
    if [ "$(id -u)" = 0 ]; then
      chown -R postgres "$directory"
      as_owner() { exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
    fi
    (as_owner "$program" -q "$directory/ini") >"$directory/log" 2>&1 &
    pooler=$!
    until "$is_ready" -q -h 127.0.0.1 -p "$port" || [ $? = 1 ]; do
      kill -0 "$pooler" 2>/dev/null || { echo failed; cat "$directory/log" >&2; rm -rf "$directory"; exit 1; }
      sleep 0.02
    done
    echo "$pooler"
    read -r order
    kill -KILL "$pooler" 2>/dev/null
    wait "$pooler"
    rm -rf "$directory"
    """
}
