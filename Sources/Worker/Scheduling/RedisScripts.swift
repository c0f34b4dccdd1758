// What the worker asks of Redis: scripts, its clock, and whether it can be asked. The client on sockets is one that can
// answer, a model in virtual time another one. Invariant: an answer that did not come is an error that says so.

import Reactor

/// A Redis, as the schedule's loops need it.
@EventLoop
package protocol RedisScripts: AnyObject, Sendable {
  /// Why it cannot be asked, fit to be shown to anyone; nil while it can.
  var outage: String? { get }

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

extension RedisClient: RedisScripts {}
