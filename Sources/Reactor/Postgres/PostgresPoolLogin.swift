// User and password of the pool's connections, which can change while it runs. Invariant: a change concerns connections
// that are opened after it; open ones stay. Used by the pool and its owner.

extension PostgresPool {
  /// Uses the user and the passwords of `other` for connections that are opened from now on. Its other parameters are
  /// left alone.
  public func logIn(as other: PostgresConfiguration) {
    configuration = configuration.withLogin(of: other)
  }

  /// Opens a connection. One that is refused for its user or password is opened once more if these have changed since.
  func connect(
    for purpose: PostgresConnection.Purpose, by deadline: MonotonicInstant
  ) async throws -> PostgresConnection {
    let before = configuration
    do {
      return try await connectOnce(for: purpose, by: deadline)
    } catch let error as PostgresError where error.refusesLogin {
      if before == configuration { onLoginRefused?() }
      guard before != configuration, !state.isClosed else { throw error }
      return try await connectOnce(for: purpose, by: deadline)
    }
  }

  private func connectOnce(
    for purpose: PostgresConnection.Purpose, by deadline: MonotonicInstant
  ) async throws -> PostgresConnection {
    try await PostgresConnection.connect(
      configuration, by: deadline, on: clock, for: purpose, mustBeWritable: !configuration.expectsReadOnly,
      canceller: canceller)
  }
}

extension PostgresError {
  /// Whether the server refused the user or the password: invalid_password, invalid_authorization_specification.
  var refusesLogin: Bool {
    guard case .unavailable(_, let state?) = self else { return false }
    return state == "28P01" || state == "28000"
  }
}
