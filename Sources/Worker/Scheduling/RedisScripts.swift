// The worker's interface to Redis: scripts, the server's clock, and its availability. Implemented by the clients on
// sockets, and by a model in virtual time. Invariant: a call without an answer throws an error that says so.

import Coordination
import Reactor

/// What the sweepers' loops need of Redis.
@EventLoop
package protocol RedisScripts: AnyObject, Sendable {
  /// Why Redis is unavailable, without credentials or hosts; nil if it is available.
  var outage: String? { get }

  /// Whether one server has all keys. Then there is one clock, and a script may use the keys of several sweepers.
  var isOneServer: Bool { get }

  /// The clock of the server with this key, as the answer to TIME.
  func time(near key: String, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue

  /// Waits until Redis is available.
  ///
  /// - Throws: `RedisError.notSent` at the deadline, `CancellationError`.
  func waitUntilReady(by deadline: MonotonicInstant) async throws

  /// Sends a command, such as TIME.
  ///
  /// - Parameter isRepeatable: whether it may run twice.
  @discardableResult
  func command(
    _ arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue

  /// Runs a script.
  ///
  /// - Parameter isRepeatable: whether it may run twice.
  func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue
}

extension RedisScripts {
  package var isOneServer: Bool { true }

  package func time(near key: String, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue {
    try await command(["TIME"], isRepeatable: true, by: deadline)
  }

  /// Runs a read-only script that answers a time in ms and then a part per sweeper. In a cluster it runs once per
  /// sweeper, because each has its own hash slot.
  ///
  /// - Parameter keys: the keys of each sweeper.
  /// - Returns: the time of the first server, and the parts.
  /// - Throws: `RedisError`, or `Coordinator.UnexpectedAnswer`.
  func readAll(
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

  /// Uses the user and the password of `other` for new connections.
  func logIn(as other: RedisConfiguration)

  /// Reads the certificate authorities again for the next connections.
  func renewAuthorities()

  /// - Throws: `RedisError` with the fault.
  func checkHealth(by deadline: MonotonicInstant) async throws(RedisError)
}

extension RedisClient: RedisBackend {}

extension RedisCluster: RedisBackend {
  package var isOneServer: Bool { false }
}

/// The client for a configuration.
///
/// - Parameter checks: the health check for one server, and those for a cluster, one per sweeper's hash slot. Nil: a
///   connection suffices.
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
