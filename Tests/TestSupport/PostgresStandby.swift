// A hot standby of a private PostgreSQL server: a second server with a copy of its data, which streams from it.

import Glibc

extension PrivatePostgres {
  /// Starts a hot standby of this server, with its settings. It is read-only until `pg_promote()`. `tablespaces` has
  /// the directory of the standby's copy for each one of this server's.
  public func startStandby(tablespaces: [String: String] = [:]) async throws -> PrivatePostgres {
    try await offLoop {
      let standby = try PrivatePostgres(port: Int(freePort()), settings: self.settings, role: self.role)
      var owner: [String] = []
      if geteuid() == 0, let account = getpwnam("postgres") {
        chown(standby.directory, account.pointee.pw_uid, account.pointee.pw_gid)
        owner = ["/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
      }
      let copy =
        [
          Self.program("pg_basebackup"), "--dbname=\(self.url())", "--pgdata=\(standby.directory)/data",
          "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync",
        ] + tablespaces.map { "--tablespace-mapping=\($0.key)=\($0.value)" }
      _ = try run(owner + copy)
      try standby.launch(isNew: false)
      return standby
    }
  }

  /// Makes every commit wait for the standby from now on. When it returns, the standby has all earlier ones, too.
  public func synchronizeStandby() async throws {
    try await psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    try await psql("SELECT pg_reload_conf()")
    var attempts = 0
    while try await psql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "0" {
      attempts += 1
      guard attempts < 600 else { throw PrivatePostgresError("the standby does not stream") }
      try await Task.sleep(for: .milliseconds(50))
    }
    // A commit, so it waits itself.
    try await psql("SELECT pg_logical_emit_message(true, 'standby', '')")
  }
}
