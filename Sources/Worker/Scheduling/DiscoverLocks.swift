// The locks of single connections in Redis. They exclude the api's "discover now" and the existing worker while
// connections are claimed. Invariants: only a lock's own token deletes it; an abandoned lock expires in seconds.

import Coordination
import Reactor

/// Takes and releases the locks `<namespace>:lock:discover:<connection>`.
@EventLoop
package struct DiscoverLocks {
  /// How long a lock lasts if it is not released.
  static let duration = Duration.seconds(10)
  /// How long before its expiry a lock stops being relied on.
  static let margin = Duration.seconds(1)

  /// Locks that were taken together.
  struct Held: Sendable {
    let connections: [String]
    /// No commits under these locks from this instant on.
    let usableUntil: MonotonicInstant
    fileprivate let token: String
  }

  let redis: any RedisScripts
  let clock: LoopClock
  let random: Random
  let namespace: String

  package nonisolated static func key(namespace: String, connection: String) -> String {
    "\(namespace):lock:discover:\(connection)"
  }

  /// KEYS lock. ARGV token, duration (ms). Answers {1} if the token holds the lock, else {0}. A repeated call has the
  /// same answer.
  package static let take = RedisScript(
    """
    if redis.call('GET', KEYS[1]) == ARGV[1] then return {1} end
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1} end
    return {0}
    """)

  /// Takes the locks that are free.
  ///
  /// - Throws: `RedisError` if a call failed, after releasing all locks if Redis can be reached.
  func take(_ connections: [String]) async throws -> Held {
    let token = Token.random(random)
    let usableUntil = clock.now.advanced(by: Self.duration - Self.margin)
    var taken = [Bool](repeating: false, count: connections.count)
    var failure: (any Error)?
    await withTaskGroup(of: (Int, Result<Bool, any Error>).self) { group in
      for (index, connection) in connections.enumerated() {
        group.addTask { (index, await take(connection, token)) }
      }
      for await (index, result) in group {
        switch result {
        case .success(let isTaken): taken[index] = isTaken
        case .failure(let error): failure = error
        }
      }
    }
    if let failure {
      await release(Held(connections: connections, usableUntil: usableUntil, token: token))
      throw failure
    }
    return Held(
      connections: zip(connections, taken).filter(\.1).map(\.0), usableUntil: usableUntil, token: token)
  }

  private func take(_ connection: String, _ token: String) async -> Result<Bool, any Error> {
    do {
      let answer = try await redis.evaluate(
        Self.take, keys: [Self.key(namespace: namespace, connection: connection)],
        arguments: [token, "\(Self.duration.milliseconds)"], isRepeatable: true,
        by: clock.now.advanced(by: Coordinator.commandLimit))
      return .success(answer.array?.first?.integer == 1)
    } catch {
      return .failure(error)
    }
  }

  /// Releases the locks.
  func release(_ held: Held) async {
    await withTaskGroup { group in
      for connection in held.connections { group.addTask { await release(connection, held.token) } }
    }
  }

  private func release(_ connection: String, _ token: String) async {
    do {
      _ = try await redis.evaluate(
        CoordinationScripts.release, keys: [Self.key(namespace: namespace, connection: connection)],
        arguments: [token], isRepeatable: true, by: clock.now.advanced(by: Coordinator.commandLimit))
    } catch {
      // The lock expires within seconds.
    }
  }
}
