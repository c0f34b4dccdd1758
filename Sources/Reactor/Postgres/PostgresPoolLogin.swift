// The user and password of the pool's connections, which can change while it runs. Invariant: a change affects only
// connections that are opened after it. Used by the pool and its owner.

extension PostgresPool {
  /// Uses the user and the passwords of `other` for connections that are opened from now on. Ignores its other
  /// parameters.
  public func logIn(as other: PostgresConfiguration) {
    configuration = configuration.withLogin(of: other)
  }

  /// Opens a connection. One that is refused for its user or password is opened once more if these have changed since.
  func connect(
    for purpose: PostgresConnection.Purpose, by deadline: MonotonicInstant
  ) async throws -> PostgresConnection {
    try await retryingRefusedLogin(
      { configuration }, onRefusal: onLoginRefused, isRefused: isRefusedLogin,
      attempt: { await connectOnce(for: purpose, by: deadline) }
    ).get()
  }

  private func isRefusedLogin(_ result: Result<PostgresConnection, any Error>) -> Bool {
    guard case .failure(let error as PostgresError) = result else { return false }
    return error.refusesLogin && !state.isClosed
  }

  private func connectOnce(
    for purpose: PostgresConnection.Purpose, by deadline: MonotonicInstant
  ) async -> Result<PostgresConnection, any Error> {
    do {
      return .success(
        try await PostgresConnection.connect(
          configuration, by: deadline, on: clock, for: purpose, mustBeWritable: !configuration.expectsReadOnly,
          canceller: canceller))
    } catch {
      return .failure(error)
    }
  }
}

extension PostgresError {
  /// Whether the server refused the user or the password: invalid_password, invalid_authorization_specification.
  var refusesLogin: Bool {
    guard case .unavailable(_, let state?) = self else { return false }
    return state == "28P01" || state == "28000"
  }
}
