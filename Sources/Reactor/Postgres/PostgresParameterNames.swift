// The parameter names of connection URLs: libpq's, the Go driver's, the server's. Invariant: libpq's come from the
// libpq in use. Read by PostgresConfiguration.

import CReactor

/// The parameters of the libpq in use, and their values from the environment (PGHOST, PGSSLMODE, …).
struct PostgresKnownParameters: Sendable {
  var names: Set<String>
  /// Defaults, compiled in or from the environment.
  var values: [String: String]
  /// The variables of the environment that give a parameter its value, by parameter.
  var variables: [String: String]
  /// libpq's major version.
  var version: Int
  /// Whether ~/.postgresql/root.crt exists: libpq and the Go driver both use it.
  var hasOwnRootCertificate: Bool
  /// Whether ~/.postgresql/postgresql.crt exists, which libpq presents to servers.
  var hasOwnCertificate = true
  /// Whether others can read ~/.pgpass: libpq then ignores it, and warns on stderr at each connection.
  var hasOpenPasswordFile = false
  /// The files that libpq reads in the home directory, whether they exist or not.
  var homeFiles: [String] = []
  /// The settings that PGTZ, PGDATESTYLE and PGGEQO ask for.
  var settings: [PostgresSetting] = []

  /// Read once. Variables that libpq would send as start-up parameters are removed from the environment, because a
  /// pooler refuses such a parameter or applies the setting to other clients.
  static let ofLibpq: PostgresKnownParameters = {
    var known = PostgresKnownParameters(
      names: [], values: [:], variables: [:], version: Int(PQlibVersion() / 10_000), hasOwnRootCertificate: false)
    guard let options = PQconndefaults() else { return known }
    defer { PQconninfoFree(options) }
    var option = options
    while let keyword = option.pointee.keyword {
      let name = String(cString: keyword)
      known.names.insert(name)
      if let value = option.pointee.val { known.values[name] = String(cString: value) }
      if let variable = option.pointee.envvar, getenv(variable) != nil {
        known.variables[name] = String(cString: variable)
      }
      option += 1
    }
    // The home directory, as libpq determines it.
    let home =
      getenv("HOME").map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
      ?? getpwuid(geteuid()).map { String(cString: $0.pointee.pw_dir) }
    known.homeFiles = home.map { ["\($0)/.postgresql", "\($0)/.pgpass", "\($0)/.pg_service.conf"] } ?? []
    known.hasOwnRootCertificate = home.map { access("\($0)/.postgresql/root.crt", R_OK) == 0 } ?? false
    known.hasOwnCertificate = home.map { access("\($0)/.postgresql/postgresql.crt", F_OK) == 0 } ?? false
    var status = stat()
    if let path = known.values["passfile"] ?? home.map({ "\($0)/.pgpass" }), stat(path, &status) == 0 {
      known.hasOpenPasswordFile = status.st_mode & 0o170_000 != 0o100_000 || status.st_mode & 0o077 != 0
    }
    for (variable, setting) in [("PGTZ", "timezone"), ("PGDATESTYLE", "datestyle"), ("PGGEQO", "geqo")] {
      guard let value = getenv(variable) else { continue }
      known.settings.append(PostgresSetting(name: setting, value: String(cString: value)))
      unsetenv(variable)
    }
    unsetenv("PGOPTIONS")
    // libpq would prefer it to a socket in the URL. Where the address is meant, it is passed beside the host.
    unsetenv("PGHOSTADDR")
    return known
  }()
}

enum PostgresParameterNames {
  /// A path where no file can exist, which means "no file"; an empty path would mean libpq's default.
  static let noFile = "/dev/null/none"

  /// Debian's bundle of root certificates.
  static let systemRoots = "/etc/ssl/certs/ca-certificates.crt"

  /// Parameters with a fixed set of values. libpq refuses others only when it connects.
  static let values: [String: [String]] = [
    "sslmode": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    "gssencmode": ["disable", "prefer", "require"],
    "channel_binding": ["disable", "prefer", "require"],
    "target_session_attrs": ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"],
    "keepalives": ["0", "1"],
    "sslsni": ["0", "1"],
    "ssl_min_protocol_version": ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
    "ssl_max_protocol_version": ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
  ]

  /// Whether a text that libpq quotes is a parameter's name, or one of a parameter's fixed values.
  static func isPublic(_ text: String) -> Bool {
    values.contains { $0.key == text || $0.value.contains(text) } || whole.contains(text)
  }

  /// Parameters that name a file or directory which each connection reads.
  static let files = ["sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"]

  /// Parameters whose values name places, people or secrets.
  static let secret: Set<String> = [
    "dbname", "host", "hostaddr", "passfile", "password", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslpassword",
    "sslrootcert", "user",
  ]

  /// Parameters that are whole numbers.
  static let whole: Set<String> = [
    "connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
  ]

  /// Parameters that only pgx and pgxpool use, apart from the pool's limit and lifetime.
  static let ofGoDriver: Set<String> = [
    "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime_jitter", "pool_max_conn_idle_time",
    "pool_health_check_period", "default_query_exec_mode", "statement_cache_capacity", "statement_cache_mode",
    "description_cache_capacity", "min_read_buffer_size", "prefer_simple_protocol", "krbspn", "servicefile",
  ]

  /// Whether the plain name `name` is a setting of a session: one of PostgreSQL's, or an extension's (with a dot).
  static func isServerSetting(_ name: String) -> Bool {
    let lower = name.lowercased()
    if serverSettings.contains(lower) || atSessionStart.contains(lower) { return true }
    if let dot = name.utf8.firstIndex(of: UInt8(ascii: ".")) { return name.utf8.index(after: dot) < name.utf8.endIndex }
    return serverPrefixes.contains { lower.utf8.starts(with: $0.utf8) }
  }

  /// Settings that can be set only at the start of a session, or have no effect later (`pg_settings`, context
  /// backend and superuser-backend, and the lists of libraries to load).
  static let atSessionStart: Set<String> = [
    "ignore_system_indexes", "jit_debugging_support", "jit_profiling_support", "local_preload_libraries",
    "log_connections", "log_disconnections", "post_auth_delay", "session_preload_libraries",
  ]

  /// Whether `name` consists of letters, digits, underscores and dots, and begins with a letter or an underscore.
  static func isPlain(_ name: String) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool { (97...122).contains(byte | 0x20) || byte == UInt8(ascii: "_") }
    guard let first = name.utf8.first, isLetter(first) else { return false }
    return name.utf8.count <= nameByteLimit
      && name.utf8.allSatisfy { isLetter($0) || (48...57).contains($0) || $0 == UInt8(ascii: ".") }
  }

  /// The longest name that the server keeps, in bytes (NAMEDATALEN - 1).
  private static let nameByteLimit = 63

  private static let serverPrefixes = ["enable_", "geqo", "jit", "lc_", "log_", "vacuum_", "debug_", "track_"]

  /// PostgreSQL 13 to 18: what a session may set (`pg_settings`, context user or superuser).
  private static let serverSettings: Set<String> = [
    "allow_alter_system", "array_nulls", "backend_flush_after", "backslash_quote", "bytea_output",
    "check_function_bodies", "client_connection_check_interval", "client_min_messages", "commit_delay",
    "commit_siblings", "compute_query_id", "constraint_exclusion", "cpu_index_tuple_cost", "cpu_operator_cost",
    "cpu_tuple_cost", "createrole_self_grant", "cursor_tuple_fraction", "datestyle", "deadlock_timeout",
    "default_statistics_target", "default_table_access_method", "default_tablespace",
    "default_text_search_config", "default_toast_compression", "default_transaction_deferrable",
    "default_transaction_isolation", "default_transaction_read_only", "dynamic_library_path",
    "effective_cache_size", "effective_io_concurrency", "escape_string_warning", "event_triggers",
    "exit_on_error", "extra_float_digits", "from_collapse_limit", "gin_fuzzy_search_limit",
    "gin_pending_list_limit", "hash_mem_multiplier", "icu_validation_level", "idle_in_transaction_session_timeout",
    "idle_session_timeout", "intervalstyle", "join_collapse_limit", "lo_compat_privileges",
    "local_preload_libraries", "lock_timeout", "logical_decoding_work_mem", "maintenance_io_concurrency",
    "maintenance_work_mem", "max_parallel_maintenance_workers", "max_parallel_workers",
    "max_parallel_workers_per_gather", "max_stack_depth", "min_parallel_index_scan_size",
    "min_parallel_table_scan_size", "parallel_leader_participation", "parallel_setup_cost", "parallel_tuple_cost",
    "password_encryption", "plan_cache_mode", "quote_all_identifiers", "random_page_cost",
    "recursive_worktable_factor", "restrict_nonsystem_relation_kind", "role", "row_security", "search_path",
    "seq_page_cost", "session_authorization", "session_replication_role",
    "standard_conforming_strings", "statement_timeout", "stats_fetch_consistency", "synchronize_seqscans",
    "synchronous_commit", "tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval", "temp_buffers",
    "temp_file_limit", "temp_tablespaces", "timezone", "timezone_abbreviations", "trace_notify", "trace_sort",
    "transaction_buffers", "transaction_isolation", "transaction_read_only", "transaction_timeout",
    "transform_null_equals", "update_process_title", "wal_compression", "work_mem", "xmlbinary", "xmloption",
  ]
}
