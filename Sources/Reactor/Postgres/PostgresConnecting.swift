// From a configuration to an open connection: each host, each of its addresses, in turn. Invariant: libpq gets numeric
// addresses only, so it never resolves a name itself. Called by the pool, and by who wants a single connection.

import CReactor

extension PostgresConnection {
  /// Opens a connection.
  ///
  /// Every address of every host is tried until one takes it, each with a share of the time that is left. An error that
  /// another address would give as well (a wrong password) ends it, as in libpq.
  ///
  /// - Parameters:
  ///   - clock: what `deadline` and all of the connection's own limits are measured on.
  ///   - mustBeWritable: whether a server that cannot be written to is as good as one that is away.
  /// - Throws: `PostgresError`, or `CancellationError` as soon as the task is cancelled.
  public static func connect(
    _ configuration: PostgresConfiguration, by deadline: MonotonicInstant, on clock: LoopClock,
    mustBeWritable: Bool = false
  ) async throws -> PostgresConnection {
    try await connect(
      configuration, by: deadline, on: clock, opening: .greeting, mustBeWritable: mustBeWritable,
      canceller: PostgresCanceller(clock: clock))
  }

  /// The first statement of a connection. Before one has been answered nothing shows that there is a server: a pooler
  /// takes connections by itself.
  enum Opening {
    /// For use: the connection learns who it is on the server, and the session its settings.
    case greeting
    /// To learn whether the server answers: a new session looks up nothing in its catalogues for it, which the greeting
    /// costs it milliseconds.
    case question
  }

  /// `mustBeWritable`: a server that cannot be written to is no more use than one that is away, and the next one is
  /// tried.
  static func connect(
    _ configuration: PostgresConfiguration, by deadline: MonotonicInstant, on clock: LoopClock, opening: Opening,
    mustBeWritable: Bool, canceller: PostgresCanceller
  ) async throws -> PostgresConnection {
    var failure: PostgresError?
    let hosts = configuration.hosts
    // "prefer-standby" is two rounds: the standbys, then anyone.
    let rounds = configuration.sessionRounds
    for (round, session) in rounds.enumerated() {
      for (index, host) in hosts.enumerated() {
        let left = (rounds.count - round) * hosts.count - index
        do throws(PostgresError) {
          return try await connect(
            configuration, to: host, session: session, by: Limits(deadline, among: left, at: clock.now), on: clock,
            opening: opening, mustBeWritable: mustBeWritable, canceller: canceller)
        } catch {
          failure = moreTelling(failure, error)
          try Task.checkCancellation()
          guard isWorthAnotherAddress(error) else { throw error }
        }
      }
    }
    throw failure ?? PostgresError.unavailable(reason: "no host")
  }

  /// Until when one of several attempts may take.
  struct Limits {
    /// The address has answered the socket by then: an equal share of the time, for one at which packets vanish.
    var reached: MonotonicInstant
    /// The connection is open by then. TLS, a password and the first statement take several round trips, of a second
    /// each to the other side of the earth: whoever has got so far may take four fifths of what is left.
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
    on clock: LoopClock, opening: Opening, mustBeWritable: Bool, canceller: PostgresCanceller
  ) async throws(PostgresError) -> PostgresConnection {
    let addresses = try await addresses(of: host, by: limits.reached, on: clock)
    var failure: PostgresError?
    for (index, address) in addresses.enumerated() {
      let candidate = configuration.parameters(host: host, address: address, session: session)
      var limits = limits.shared(among: addresses.count - index, at: clock.now)
      if let most = configuration.connectTimeout { limits.end(by: clock.now.advanced(by: most)) }
      do throws(PostgresError) {
        let connection = try await open(candidate, by: limits, on: clock, canceller: canceller)
        switch opening {
        case .greeting: try await connection.greet(configuration, by: limits.open)
        case .question: try await connection.askFirst(by: limits.open)
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

  /// Numeric addresses; nil stands for a host that needs none: a socket's directory, or libpq's default.
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
      // Cancelled: the caller looks at its task and says so.
      throw .timedOut(.connecting)
    }
  }

  /// The round trip before a connection is used: it learns who it is, for requests to cancel, and what transactions can
  /// set. Nothing of the session is changed.
  func greet(_ configuration: PostgresConfiguration, by deadline: MonotonicInstant) async throws(PostgresError) {
    let answer = try await first([PostgresServerSettings.asLogin, .greeting], by: deadline)
    isGreeted = true
    isReadOnly = answer.saysReadOnly(column: 3)
    prelude = configuration.serverSettings.prelude(checksClient: answer[row: 0, column: 2] == "t")
    // Another process than the protocol named: a pooler is in between, and it would be somebody else's soon.
    if answer.rowCount == 1, let process = answer[row: 0, column: 0], process == String(backendPID),
      let started = answer[row: 0, column: 1]
    {
      identity = PostgresBackendIdentity(
        processID: process, startedAt: started)
    }
  }

  private func askFirst(by deadline: MonotonicInstant) async throws(PostgresError) {
    isReadOnly = try await first([.question], by: deadline).saysReadOnly(column: 0)
  }

  /// Runs statements that belong to connecting, and returns the last one's result: a connection that does not answer
  /// them is closed.
  private func first(
    _ statements: [PostgresStatement], by deadline: MonotonicInstant
  ) async throws(PostgresError) -> PostgresResult {
    do {
      return try await pipeline([PostgresServerSettings.isolation] + statements, by: deadline)[statements.count]
    } catch {
      close()
      switch error as? PostgresError {
      case .timedOut: throw .timedOut(.connecting)
      case let error?: throw error
      case nil: throw .timedOut(.connecting)
      }
    }
  }

  /// Whether another address can do better: not where the server itself refused whoever asks.
  private static func isWorthAnotherAddress(_ error: PostgresError) -> Bool {
    switch error {
    case .server: false
    case .unavailable: error.sqlState == nil || error.sqlState == "57P03"
    default: true
    }
  }

  /// The error to report of several: what a server said or showed, or is wrong here, then one that hangs, then one that
  /// is away.
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
  /// The cheapest statement whose answer shows that a server is there and can be written to: "on" on a hot standby, and
  /// where transactions are read-only by default. No query, so that it needs no snapshot, which a standby refuses to a
  /// session that is serializable by default, and so that nobody else's function is called.
  static let question = PostgresStatement("SHOW transaction_read_only")

  /// The process, when it began in µs since 1970, and whether the server can be told to look after its client: it
  /// knows the setting from PostgreSQL 14 on, has it on Linux only, and nobody has said how often. Last, whether it can
  /// be written to.
  ///
  /// Not from pg_stat_activity, whose other tables a new session would have to look up: that took a millisecond more.
  static let greeting = PostgresStatement(
    """
    SELECT pg_catalog.pg_backend_pid(), \(PostgresBackendIdentity.microseconds),
           pg_catalog.current_setting('client_connection_check_interval'::pg_catalog.text, true)
             OPERATOR(pg_catalog.=) '0'::pg_catalog.text
           AND pg_catalog.strpos(pg_catalog.version(), 'linux'::pg_catalog.text)
             OPERATOR(pg_catalog.>) 0::pg_catalog.int4,
           pg_catalog.current_setting('transaction_read_only'::pg_catalog.text)
      FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())
    """)
}

extension PostgresResult {
  /// What a server says of `transaction_read_only`.
  func saysReadOnly(column: Int) -> Bool { self[row: 0, column: column] == "on" }
}
