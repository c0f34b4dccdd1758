// The settings that say where the servers are, and where this one listens. None of them touches a server.
// Invariant: a URL is shown nowhere, for it may hold a password.

extension Setting where Value == String {
  static var databaseURL: Setting {
    Setting(
      name: "DATABASE_URL", kind: "PostgreSQL URL", absence: .fault,
      help: "The control plane's database: postgres://user:password@host:port/database?parameters", isSecret: true
    ) { text in
      hasScheme(text, ["postgres", "postgresql"]) ? .accepted(text) : .expected("a postgres:// or postgresql:// URL")
    }
  }

  static var redisURL: Setting {
    Setting(
      name: "REDIS_URL", kind: "Redis URL", absence: .fault,
      help: "The control plane's Redis: redis://user:password@host:port/database, or rediss:// for TLS.",
      isSecret: true
    ) { text in
      hasScheme(text, ["redis", "rediss"]) ? .accepted(text) : .expected("a redis:// or rediss:// URL")
    }
  }

  static var localAddress: Setting {
    Setting(
      name: "SB_WORKER_LOCAL_ADDR", kind: "address", absence: .text("127.0.0.1:8091"),
      help: "Where the probes and the metrics are served."
    ) { .accepted($0) }
  }

  private static func hasScheme(_ text: String, _ schemes: [String]) -> Bool {
    for scheme in schemes where text.hasPrefix(scheme + "://") { return true }
    return false
  }
}
