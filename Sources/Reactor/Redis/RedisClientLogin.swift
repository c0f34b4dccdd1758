// User and password of the client's connections, and the trusted certificates, which can change while it runs.
// Invariant: a change affects only connections opened after it; open ones stay.

extension RedisClient {
  /// Uses the users and passwords of `other` for connections opened from now on. Its other settings are ignored.
  public func logIn(as other: RedisConfiguration) {
    configuration = configuration.withLogin(of: other)
  }

  /// Reads the certificate authorities again for the next connection.
  public func renewAuthorities() {
    tls = nil
  }

  /// Connects. Retries once if user or password were refused and have changed since.
  func connectWithLogin() async -> Result<RedisConnection, ConnectFailure> {
    await retryingRefusedLogin(
      { configuration }, onRefusal: onLoginRefused, isRefused: Self.isRefusedLogin, attempt: { await connect() })
  }

  private static func isRefusedLogin(_ result: Result<RedisConnection, ConnectFailure>) -> Bool {
    guard case .failure(let failure) = result else { return false }
    return failure.cause.isLoginRefused && !Task.isCancelled
  }
}
