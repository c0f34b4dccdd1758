// Whether the server answers, as the pool finds it out. Invariant: while there is doubt it is asked, again and again,
// by one task; without doubt it is not asked. Used by the pool's owner and by probes.

extension PostgresPool {
  /// Whether the server answers and cannot be written to: a standby, or read-only by default. Nothing is lent then.
  public var isReadOnly: Bool { health.isReadOnly }

  /// Waits while the server is read-only: false where it still was at `deadline`. The pool asks it meanwhile.
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

  /// Keeps the pool until the task is cancelled or the pool closed, then closes it: the structured way to own one.
  ///
  /// It opens connections on behalf of the callers. After trouble it asks the server, again and again until that
  /// answers; else it only waits.
  public func run() async {
    isRunning = true
    await withDiscardingTaskGroup { group in
      group.addTask { await self.keepAsking() }
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

  private func keepAsking() async {
    while !state.isClosed, !Task.isCancelled {
      var pause: Duration?
      if health.isInDoubt {
        await ask()
        guard health.isInDoubt else { continue }
        pause = health.pause(chance: Random.system.fraction())
      }
      doubted = OneShot()
      if let pause {
        _ = await doubted.wait(until: clock.now.advanced(by: pause), on: clock)
      } else {
        _ = await doubted.wait()
      }
    }
  }

  private func ask() async {
    do {
      try await ping(by: clock.now.advanced(by: Self.questionLimit))
    } catch {
      // What it says was noted where it happened.
    }
  }

  /// Asks the server whether it answers and can be written to. Where all connections are in use, an answer that one of
  /// them gets will do.
  ///
  /// - Throws: as `withConnection`.
  public func ping(by deadline: MonotonicInstant) async throws {
    do {
      // A session that ends instead of answering is no verdict; each that did is one less in the pool.
      while try await !isAnswered(by: deadline) {}
    } catch is AnsweredElsewhere {
      return
    } catch PostgresError.timedOut(.statement) {
      // Not where a connection is being opened: how that ends is noted then.
      let error = PostgresError.timedOut(.statement)
      note(.refused(error.publicReason))
      throw error
    }
  }

  /// Asks over one connection. False where that was lost, and another one should be asked.
  private func isAnswered(by deadline: MonotonicInstant) async throws -> Bool {
    let (slot, connection, isNew) = try await take(by: deadline, opening: .question)
    defer { giveBack(slot, connection) }
    // One that was opened for this has just answered the question.
    if isNew { return true }
    do {
      try check(try await connection.query(.question, by: deadline).saysReadOnly(column: 0), connection)
      return true
    } catch PostgresError.connectionLost {
      return false
    }
  }

  /// - Throws: where the server cannot be written to, which is noted.
  func check(_ isReadOnly: Bool, _ connection: PostgresConnection) throws {
    guard isReadOnly, !configuration.expectsReadOnly else { return }
    connection.isReadOnly = true
    note(.refused(PostgresError.readOnlyReason))
    throw PostgresError.readOnly
  }
}
