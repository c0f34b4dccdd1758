// A hot standby of a private PostgreSQL server: a second server with a copy of its data, which streams from it.

import Glibc

extension PrivatePostgres {
  /// Starts a hot standby of this server. It is read-only until `pg_promote()`.
  public func startStandby() async throws -> PrivatePostgres {
    try await offLoop {
      let standby = try PrivatePostgres(port: Int(freePort()), settings: [], role: self.role)
      var owner: [String] = []
      if geteuid() == 0, let account = getpwnam("postgres") {
        chown(standby.directory, account.pointee.pw_uid, account.pointee.pw_gid)
        owner = ["/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
      }
      let copy = [
        Self.program("pg_basebackup"), "--dbname=\(self.url())", "--pgdata=\(standby.directory)/data",
        "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync",
      ]
      _ = try run(owner + copy)
      try standby.launch(isNew: false)
      return standby
    }
  }
}
