// The pool's checks of its server. Invariant: while there is doubt, one task pings the server repeatedly; otherwise
// only callers ping it. Used by the pool's owner and by probes.

extension PostgresPool {
  /// Whether the server answers but cannot be written to: a standby, or read-only by default. Nothing is lent then.
  public var isReadOnly: Bool { health.isReadOnly }

  /// Waits while the server is read-only, and pings it meanwhile. Returns false if it is still read-only at `deadline`.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func waitUntilWritable(by deadline: MonotonicInstant) async throws -> Bool {
    guard isReadOnly else { return true }
    let signal = OneShot<Void>()
    writableSignals.append(signal)
    defer { writableSignals.removeAll { $0 === signal } }
    let isWritable = await signal.wait(until: deadline, on: clock) != nil
    try Task.checkCancellation()
    return isWritable
  }

  /// Runs the pool until the task is cancelled or the pool is closed, then closes it.
  ///
  /// It opens connections for callers. After trouble it pings the server until that answers; otherwise it only waits.
  public func run() async {
    isRunning = true
    await withDiscardingTaskGroup { group in
      group.addTask { await self.keepPinging() }
      while !state.isClosed, !Task.isCancelled {
        for order in orders {
          group.addTask { await self.open(order, by: self.clock.now.advanced(by: self.connectTimeout)) }
        }
        orders = []
        ordered = OneShot()
        _ = await ordered.wait()
      }
      group.cancelAll()
    }
    isRunning = false
    await close()
  }

  private func keepPinging() async {
    while !state.isClosed, !Task.isCancelled {
      var pause: Duration?
      if health.isInDoubt {
        await pingInDoubt()
        guard health.isInDoubt else { continue }
        pause = health.pause(jitter: Random.system.fraction())
      }
      doubted = OneShot()
      if let pause {
        _ = await doubted.wait(until: clock.now.advanced(by: pause), on: clock)
      } else {
        _ = await doubted.wait()
      }
    }
  }

  private func pingInDoubt() async {
    do {
      try await ping(by: clock.now.advanced(by: Self.pingLimit))
    } catch {
      // The failure has already been recorded.
    }
  }

  /// Checks that the server answers and can be written to. If all connections are in use, an answer on one of them is
  /// enough.
  ///
  /// - Throws: as `withConnection`.
  public func ping(by deadline: MonotonicInstant) async throws {
    do {
      // A session that ends instead of answering says nothing about the server. Each such session leaves the pool, so
      // this ends.
      while try await !pingOnce(by: deadline) {}
    } catch is AnsweredElsewhere {
      return
    } catch PostgresError.timedOut(.statement) {
      // Not for a connection that is being opened, whose result is recorded when it ends.
      let error = PostgresError.timedOut(.statement)
      note(.pingFailed(error.publicReason))
      throw error
    }
  }

  /// Pings over one connection. Returns false if the connection was lost and another one should be tried.
  private func pingOnce(by deadline: MonotonicInstant) async throws -> Bool {
    let (connectionID, connection, isNew) = try await take(by: deadline, for: .ping)
    defer { giveBack(connectionID, connection) }
    // A connection that was opened for this has just answered.
    if isNew { return true }
    do {
      try check(try await connection.askReadOnly(configuration, by: deadline), connection)
      return true
    } catch PostgresError.connectionLost {
      return false
    }
  }

  /// - Throws: `PostgresError.readOnly` if the server cannot be written to, after recording that.
  func check(_ isReadOnly: Bool, _ connection: PostgresConnection) throws {
    guard isReadOnly, !configuration.expectsReadOnly else { return }
    connection.isReadOnly = true
    note(.refused(PostgresError.readOnlyReason))
    throw PostgresError.readOnly
  }
}
