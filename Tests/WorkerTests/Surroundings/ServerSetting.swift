// Which values of PostgreSQL's settings a sweep is tried under: pg_settings says which settings and values there are,
// and a table here what is hostile of those whose values are text. Invariant: a text setting that the table does not
// know is a fault, so that a new version of PostgreSQL is looked at.

/// A setting that a user, a role, a database or its administrator can set.
struct ServerSetting: Sendable {
  let name: String
  let type: String
  let current: String
  let minimum: String?
  let maximum: String?
  let choices: [String]

  /// Answers the settings that ALTER DATABASE and ALTER ROLE may set. The others are the server's own, or a session
  /// begins with them (backend, superuser-backend).
  static let all = """
    SELECT name, vartype, setting, min_val, max_val, coalesce(array_to_string(enumvals, ','), '')
      FROM pg_settings WHERE context IN ('user', 'superuser') ORDER BY name COLLATE "C"
    """

  /// Settings that pg_settings leaves out.
  static let unlisted = ["role", "session_authorization", "seed"].map {
    ServerSetting(name: $0, type: "string", current: "", minimum: nil, maximum: nil, choices: [])
  }

  /// As SQL writes them.
  private func values(role: String) -> [String]? {
    switch type {
    case "bool": return ["'\(current == "on" ? "off" : "on")'"]
    case "enum": return choices.filter { $0 != current }.map { "'\($0)'" }
    case "integer", "real":
      // The most hostile value is next to the lowest one, which often means "off".
      let next = type == "integer" ? minimum.flatMap { Int($0) }.map { "\($0 + 1)" } : nil
      let all = [minimum, next, maximum].compactMap { $0 } + (Self.between[name] ?? [])
      return all.filter { $0 != current }.map { "'\($0)'" }
    default:
      return Self.texts[name]?.map { $0.replacing("$ROLE", with: role) }
    }
  }

  /// The values to try, for the role and for the database in turns; nil if the setting is unknown.
  func hostileValues(role: String) -> [HostileValue]? {
    values(role: role)?.enumerated().map { index, value in
      HostileValue(name: name, value: value, isForRole: (name.utf8.count + index) % 2 == 0)
    }
  }

  /// Values between those that the range's ends lead to.
  private static let between = [
    "statement_timeout": ["5000", "90000"], "lock_timeout": ["5", "100"], "idle_session_timeout": ["5000"],
    "idle_in_transaction_session_timeout": ["100"], "transaction_timeout": ["5000"],
    "max_stack_depth": ["200", "1024"], "work_mem": ["1024"], "extra_float_digits": ["0"],
    "client_connection_check_interval": ["200"], "temp_file_limit": ["1024"], "geqo_threshold": ["3"],
    "random_page_cost": ["1000"], "cpu_tuple_cost": ["100"], "jit_above_cost": ["10"],
  ]

  /// By name, the hostile values of settings whose values are text, as SQL writes them.
  private static let texts: [String: [String]] = [
    "DateStyle": ["ISO", "SQL", "Postgres", "German"].flatMap { style in
      ["DMY", "MDY", "YMD"].map { "'\(style), \($0)'" }
    },
    "TimeZone": [
      "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati", "Asia/Kathmandu", "Europe/Dublin",
      "posix/Europe/Berlin",
      "<+0530>-05:30", "<-0330>+03:30", "EST5EDT", "-12", "Etc/GMT+12", "UTC0", "AAA-23:59:59BBB,M3.2.0,M11.1.0",
    ].map { "'\($0)'" },
    "timezone_abbreviations": ["'Default'", "'Australia'", "'India'"],
    "application_name": ["'sb-worker 00000000 wraps-expired 9'", "'%s%n ü'", "''"],
    "client_encoding": [
      "UTF8", "LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252", "SJIS", "BIG5", "GBK", "GB18030", "UHC", "KOI8R",
    ].map { "'\($0)'" },
    "search_path": [
      "trap, public", "trap, public, pg_catalog", "trap, pg_catalog, public", "public, pg_catalog, trap",
      "pg_catalog, public", "public, pg_catalog", "pg_temp, trap, public", "nowhere, \"a b\", public",
      "\"$user\", public", "information_schema, public", "''", "nowhere",
    ],
    "default_table_access_method": ["'heap'"], "default_tablespace": ["'pg_default'", "'nowhere'"],
    "temp_tablespaces": ["pg_default", "nowhere", "''"],
    "default_text_search_config": ["'pg_catalog.german'", "'simple'"],
    "lc_messages": locales, "lc_monetary": locales, "lc_numeric": locales, "lc_time": locales,
    "local_preload_libraries": ["nothing"], "session_preload_libraries": ["auto_explain", "nothing"],
    "dynamic_library_path": ["'/nowhere'", "''"], "extension_destdir": ["'/nowhere'"],
    "extension_control_path": ["'/nowhere'"], "backtrace_functions": ["'errstart'"],
    "wal_consistency_checking": ["'all'"], "output_plugin_libraries": ["'nothing'", "''"],
    "restrict_nonsystem_relation_kind": ["'view'", "'view, foreign-table'"], "createrole_self_grant": ["'set'"],
    "plpgsql.extra_errors": ["'all'"], "plpgsql.extra_warnings": ["'all'"],
    "role": ["'none'", "'$ROLE_group'", "'$ROLE_nobody'"], "session_authorization": ["'$ROLE'", "'$ROLE_group'"],
    "seed": ["'0.5'"],
  ]

  private static let locales = ["'C'", "'POSIX'", "'C.UTF-8'"]

  /// Settings of which a server takes no value from a database or a role, each with the reason.
  static let refusedByServer = [
    "debug_discard_caches": "a server without assertions has one value only",
    "default_table_access_method": "a server without extensions has one value only",
    "default_toast_compression": "a server without LZ4 has one value only",
    "transaction_isolation": "is the present transaction's own", "transaction_read_only": "the same",
    "transaction_deferrable": "the same", "session_authorization": "is set by logging in", "seed": "needs a statement",
  ]
}

/// A value that is set for a role or a database.
struct HostileValue: Hashable, Sendable, CustomStringConvertible {
  let name: String
  /// As SQL writes it.
  let value: String
  let isForRole: Bool

  var description: String { "\(name) = \(value)" }
}
