// Opens a connection from a configuration: tries each host and each of its addresses in turn. Invariant: libpq gets
// only numeric addresses, so it never resolves a name. Used by the pool and for single connections.

import CReactor

extension PostgresConnection {
  /// Opens a connection.
  ///
  /// Tries every address of every host until one accepts, each with a share of the remaining time. As in libpq, an
  /// error that any address would give, such as a wrong password, ends the attempt.
  ///
  /// - Parameters:
  ///   - clock: measures `deadline` and all of the connection's own limits.
  ///   - mustBeWritable: whether a server that cannot be written to counts as unavailable.
  /// - Throws: `PostgresError`, or `CancellationError` as soon as the task is cancelled.
  public static func connect(
    _ configuration: PostgresConfiguration, by deadline: MonotonicInstant, on clock: LoopClock,
    mustBeWritable: Bool = false
  ) async throws -> PostgresConnection {
    try await connect(
      configuration, by: deadline, on: clock, for: .use, mustBeWritable: mustBeWritable,
      canceller: PostgresCanceller(clock: clock))
  }

  /// What a connection is opened for, which decides its first statement. Until that is answered, nothing proves that
  /// there is a server: a pooler accepts connections without one.
  enum Purpose {
    /// To run statements: the first one identifies the session and learns which settings a transaction can set.
    case use
    /// To learn whether the server answers. Unlike setting up the session, this needs no catalogue lookups, which cost
    /// a new session milliseconds.
    case ping
  }

  /// With `mustBeWritable`, a server that cannot be written to is treated as unavailable, and the next one is tried.
  static func connect(
    _ configuration: PostgresConfiguration, by deadline: MonotonicInstant, on clock: LoopClock, for purpose: Purpose,
    mustBeWritable: Bool, canceller: PostgresCanceller
  ) async throws -> PostgresConnection {
    var failure: PostgresError?
    let hosts = configuration.hosts
    // "prefer-standby" takes two rounds: first the standbys, then any server.
    let rounds = configuration.sessionRounds
    for (round, session) in rounds.enumerated() {
      for (index, host) in hosts.enumerated() {
        let left = (rounds.count - round) * hosts.count - index
        do throws(PostgresError) {
          return try await connect(
            configuration, to: host, session: session, by: Limits(deadline, among: left, at: clock.now), on: clock,
            for: purpose, mustBeWritable: mustBeWritable, canceller: canceller)
        } catch {
          failure = moreTelling(failure, error)
          try Task.checkCancellation()
          guard isWorthAnotherAddress(error) else { throw error }
        }
      }
    }
    throw failure ?? PostgresError.unavailable(reason: "no host")
  }

  /// The deadlines of one of several attempts.
  struct Limits {
    /// When the socket must be connected: an equal share of the time, because packets to an address can be lost
    /// silently.
    var reached: MonotonicInstant
    /// When the connection must be open. TLS, a password and the first statement take several round trips, each up to a
    /// second between continents, so a reachable address gets four fifths of the remaining time.
    var open: MonotonicInstant

    /// The first of `count` attempts by `deadline`.
    init(_ deadline: MonotonicInstant, among count: Int, at now: MonotonicInstant) {
      let left = now.duration(to: deadline)
      reached = now.advanced(by: left / max(1, count))
      open = count > 1 ? now.advanced(by: left * 4 / 5) : deadline
    }

    func shared(among count: Int, at now: MonotonicInstant) -> Limits {
      var share = Limits(reached, among: count, at: now)
      share.open = Limits(open, among: count, at: now).open
      return share
    }

    mutating func end(by deadline: MonotonicInstant) {
      reached = min(reached, deadline)
      open = min(open, deadline)
    }
  }

  private static func connect(
    _ configuration: PostgresConfiguration, to host: PostgresHost, session: String?, by limits: Limits,
    on clock: LoopClock, for purpose: Purpose, mustBeWritable: Bool, canceller: PostgresCanceller
  ) async throws(PostgresError) -> PostgresConnection {
    let addresses = try await addresses(of: host, by: limits.reached, on: clock)
    var failure: PostgresError?
    for (index, address) in addresses.enumerated() {
      let candidate = configuration.parameters(host: host, address: address, session: session)
      var limits = limits.shared(among: addresses.count - index, at: clock.now)
      if let most = configuration.connectTimeout { limits.end(by: clock.now.advanced(by: most)) }
      do throws(PostgresError) {
        let connection = try await open(candidate, by: limits, on: clock, canceller: canceller)
        switch purpose {
        case .use: try await connection.setUpSession(configuration, by: limits.open)
        case .ping: try await connection.pingFirst(configuration, by: limits.open)
        }
        guard mustBeWritable, connection.isReadOnly else { return connection }
        connection.close()
        throw PostgresError.readOnly
      } catch {
        failure = moreTelling(failure, error)
        guard !Task.isCancelled, isWorthAnotherAddress(error) else { break }
      }
    }
    throw failure ?? .unavailable(reason: "host name not found")
  }

  /// Numeric addresses; nil for a host that needs none: a socket directory, or libpq's default.
  private static func addresses(
    of host: PostgresHost, by deadline: MonotonicInstant, on clock: LoopClock
  ) async throws(PostgresError) -> [String?] {
    if let address = host.address { return [address] }
    guard let name = host.name, !host.isLocalSocket else { return [nil] }
    do {
      return try await NameResolver.addresses(of: name, by: deadline, on: clock)
    } catch NameResolutionError.timedOut {
      throw .timedOut(.resolving)
    } catch let error as NameResolutionError {
      throw .unavailable(reason: error.publicReason)
    } catch {
      throw .timedOut(.resolving)
    }
  }

  private static func open(
    _ candidate: [PostgresParameter], by limits: Limits, on clock: LoopClock, canceller: PostgresCanceller
  ) async throws(PostgresError) -> PostgresConnection {
    let ended = OneShot<Result<PostgresConnection, any Error>>()
    let handshake = PostgresHandshake(candidate, by: limits, on: clock) { result in
      ended.fire(
        result.map { PostgresConnection($0, candidate: candidate, clock: clock, canceller: canceller) })
    }
    do {
      let result = await withTaskCancellationHandler {
        await ended.waitThroughCancellation()
      } onCancel: {
        EventLoop.perform { handshake.abandon() }
      }
      guard let result else { preconditionFailure("a handshake ends with a result") }
      return try result.get()
    } catch let error as PostgresError {
      throw error
    } catch {
      // Cancelled: the caller checks its task and throws.
      throw .timedOut(.connecting)
    }
  }

  /// The round trip before a connection is used: learns the session's identity, for cancel requests, and which settings
  /// a transaction can set. Does not change the session.
  func setUpSession(_ configuration: PostgresConfiguration, by deadline: MonotonicInstant) async throws(PostgresError) {
    let answer = try await first(PostgresStatement.sessionSetup, by: deadline)
    isSetUp = true
    let settings = configuration.serverSettings
    isReadOnly = answer.saysReadOnly(column: settings.isReadWrite ? 4 : 3)
    prelude = settings.prelude(checksClient: answer[row: 0, column: 2] == "t", isReadOnly: isReadOnly)
    // Not the process that the protocol named: a pooler is in between, and may lend the session to others.
    if answer.rowCount == 1, let process = answer[row: 0, column: 0], process == String(backendPID),
      let started = answer[row: 0, column: 1]
    {
      identity = PostgresBackendIdentity(
        processID: process, startedAt: started)
    }
  }

  private func pingFirst(
    _ configuration: PostgresConfiguration, by deadline: MonotonicInstant
  ) async throws(PostgresError) {
    isReadOnly = try await first(configuration.serverSettings.ping, by: deadline).saysReadOnly(column: 0)
  }

  /// Asks the server whether it cannot be written to.
  func askReadOnly(_ configuration: PostgresConfiguration, by deadline: MonotonicInstant) async throws -> Bool {
    let answers = try await pipeline(configuration.serverSettings.ping, by: deadline)
    return answers[answers.count - 1].saysReadOnly(column: 0)
  }

  /// Runs statements as a part of connecting and returns the last result. Closes a connection that does not answer.
  private func first(
    _ statements: [PostgresStatement], by deadline: MonotonicInstant
  ) async throws(PostgresError) -> PostgresResult {
    do {
      return try await pipeline(statements, by: deadline)[statements.count - 1]
    } catch {
      close()
      switch error as? PostgresError {
      case .timedOut: throw .timedOut(.connecting)
      case let error?: throw error
      case nil: throw .timedOut(.connecting)
      }
    }
  }

  /// Whether another address may succeed. False if the server itself refused the login.
  private static func isWorthAnotherAddress(_ error: PostgresError) -> Bool {
    switch error {
    case .server: false
    case .unavailable: error.sqlState == nil || error.sqlState == "57P03"
    default: true
    }
  }

  /// Which of several errors to report: first a server's answer or a local fault, then a timeout, then an unreachable
  /// address.
  private static func moreTelling(_ old: PostgresError?, _ new: PostgresError) -> PostgresError {
    func rank(_ error: PostgresError) -> Int {
      if case .timedOut = error { return 1 }
      return PostgresError.isAbsence(error.publicReason) ? 0 : 2
    }
    guard let old, rank(old) >= rank(new) else { return new }
    return old
  }
}

extension PostgresStatement {
  /// The cheapest statement that shows whether a server answers and can be written to: "on" on a hot standby and if
  /// transactions are read-only by default. It is not a query: that needs a snapshot, which a standby refuses to a
  /// session that is serializable by default, and could call a user's function.
  static let ping = PostgresStatement("SHOW transaction_read_only")

  /// The same if every transaction is made writable whatever the default is: "on" on a hot standby only.
  static let pingForRecovery = PostgresStatement("SELECT \(isInRecovery)")

  private static let isInRecovery =
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on'::pg_catalog.text ELSE 'off'::pg_catalog.text END"

  /// The first statements of a connection that is used.
  static let sessionSetup = [PostgresServerSettings.isolation, PostgresServerSettings.asLogin, sessionIdentity]

  /// The process, its start in µs since 1970, whether client_connection_check_interval can be set (PostgreSQL 14 or
  /// later, on Linux, and not set already), whether transactions are read-only, and whether the server is in recovery.
  ///
  /// Not from pg_stat_activity, whose other tables a new session would have to look up, which took a millisecond more.
  private static let sessionIdentity = PostgresStatement(
    """
    SELECT pg_catalog.pg_backend_pid(), \(PostgresBackendIdentity.microseconds),
           pg_catalog.current_setting('client_connection_check_interval'::pg_catalog.text, true)
             OPERATOR(pg_catalog.=) '0'::pg_catalog.text
           AND pg_catalog.strpos(pg_catalog.version(), 'linux'::pg_catalog.text)
             OPERATOR(pg_catalog.>) 0::pg_catalog.int4,
           pg_catalog.current_setting('transaction_read_only'::pg_catalog.text), \(isInRecovery)
      FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())
    """)
}

extension PostgresResult {
  /// A server's value of `transaction_read_only`.
  func saysReadOnly(column: Int) -> Bool { self[row: 0, column: column] == "on" }
}
