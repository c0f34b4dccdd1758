// What the worker asks of Redis: scripts, its clock, and whether it can be asked. The client on sockets is one that can
// answer, a model in virtual time another one. Invariant: an answer that did not come is an error that says so.

import Coordination
import Reactor

/// A Redis, as the schedule's loops need it.
@EventLoop
package protocol RedisScripts: AnyObject, Sendable {
  /// Why it cannot be asked, fit to be shown to anyone; nil while it can.
  var outage: String? { get }

  /// Whether one server has all keys: then it has one clock, and a script may use the keys of several sweepers.
  var isOneServer: Bool { get }

  /// The clock of the server that has a key, as the answer to TIME.
  func time(near key: String, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue

  /// Waits until it can be asked.
  ///
  /// - Throws: `RedisError.notSent` at the deadline, `CancellationError`.
  func waitUntilReady(by deadline: MonotonicInstant) async throws

  /// Sends a command, such as TIME.
  ///
  /// - Parameter isRepeatable: executed twice it does no harm.
  @discardableResult
  func command(
    _ arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue

  /// Runs a script.
  ///
  /// - Parameter isRepeatable: executed twice it does no harm.
  func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue
}

extension RedisScripts {
  package var isOneServer: Bool { true }

  package func time(near key: String, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue {
    try await command(["TIME"], isRepeatable: true, by: deadline)
  }

  /// Runs a script that answers a time in ms and then a part for each sweeper, and only reads. A cluster is asked for
  /// one sweeper after the other, because each has a slot of its own.
  ///
  /// - Parameter keys: of each sweeper.
  /// - Returns: the time of the server that was asked first, and the parts.
  /// - Throws: `RedisError`, or `Coordinator.UnexpectedAnswer`.
  func lookAtAll(
    _ script: RedisScript, keys: [[String]], arguments: [String], by deadline: MonotonicInstant
  ) async throws -> (time: Int64, parts: [RedisValue]) {
    var time: Int64?
    var parts: [RedisValue] = []
    for group in isOneServer ? [keys] : keys.map({ [$0] }) {
      let answer = try await evaluate(
        script, keys: group.flatMap(\.self), arguments: arguments, isRepeatable: true, by: deadline)
      guard let words = answer.array, words.count == group.count + 1, let now = PlausibleNumber.read(words[0]) else {
        throw Coordinator.UnexpectedAnswer()
      }
      time = time ?? now
      parts += words.dropFirst()
    }
    guard let time else { throw Coordinator.UnexpectedAnswer() }
    return (time, parts)
  }
}

/// A Redis that the worker connects to: one server, or a cluster.
@EventLoop
protocol RedisBackend: RedisScripts {
  var onStateChange: (@EventLoop (ServerAvailability) -> Void)? { get set }
  var onIdleEnd: (@EventLoop (String) -> Void)? { get set }
  var onLoginRefused: (@EventLoop () -> Void)? { get set }
  var statistics: RedisStatistics { get }

  /// Connects, and reconnects until the task is cancelled.
  func run() async

  /// Uses the user and the password of `other` for connections that are opened from now on.
  func logIn(as other: RedisConfiguration)

  /// Reads the certificate authorities again for the next connections.
  func renewAuthorities()

  /// - Throws: `RedisError` with what is wrong.
  func checkHealth(by deadline: MonotonicInstant) async throws(RedisError)
}

extension RedisClient: RedisBackend {}

extension RedisCluster: RedisBackend {
  package var isOneServer: Bool { false }
}

/// The client for a configuration.
///
/// - Parameter checks: the health checks: the first for one server, the others for a cluster, where each has a
///   sweeper's slot. Nil: a connection is enough.
@EventLoop
func redisBackend(
  _ configuration: RedisConfiguration, checks: (server: RedisHealthCheck, cluster: [RedisHealthCheck])? = nil,
  clock: LoopClock
) -> any RedisBackend {
  if configuration.isCluster {
    return RedisCluster(configuration, healthChecks: checks?.cluster ?? [], clock: clock)
  }
  return RedisClient(configuration, healthCheck: checks?.server, clock: clock)
}
