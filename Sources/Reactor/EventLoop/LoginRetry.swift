// One more attempt after a refused login, for credentials that are rotated while a client runs. Invariant: an attempt
// is repeated at most once, and only with another configuration. Used by the clients of PostgreSQL and Redis.

/// Attempts something that logs in, and attempts it once more if the login was refused and `configuration` has changed
/// since the first attempt began.
///
/// - Parameters:
///   - configuration: what the next attempt logs in with.
///   - onRefusal: called if the configuration is still the refused one. It may change it.
///   - isRefused: whether an attempt's outcome is a refused login that is worth another attempt.
@EventLoop
func retryingRefusedLogin<Configuration: Equatable, Outcome>(
  _ configuration: @EventLoop () -> Configuration, onRefusal: (@EventLoop () -> Void)?,
  isRefused: @EventLoop (Outcome) -> Bool, attempt: @EventLoop () async -> Outcome
) async -> Outcome {
  let refused = configuration()
  let outcome = await attempt()
  guard isRefused(outcome) else { return outcome }
  if configuration() == refused { onRefusal?() }
  return configuration() == refused ? outcome : await attempt()
}
