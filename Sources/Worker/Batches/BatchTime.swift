// How long a batch's transaction should take, derived from the round-trip time to the server. Pure values.
// Invariant: 25 ms if round trips are short, whatever their exact time; never more than 50 ms.

import Reactor

/// The time limits of one transaction. It locks the rows that it changed until it ends, so short ones disturb others
/// least. But each costs a round trip: if that takes 170 ms, batches of 25 ms use an eighth of the time.
package struct BatchTime: Equatable, Sendable {
  static let goals = Duration.milliseconds(25)...Duration.milliseconds(50)

  /// The target duration of a transaction: half a round trip, within `goals`.
  let goal: Duration

  package init(roundTrip: Duration = .zero) {
    goal = min(Self.goals.upperBound, max(Self.goals.lowerBound, roundTrip / 2))
  }

  /// How long after the transaction's start rows are written: 45 ms at the lowest goal.
  package var writeLimit: Duration { goal * 9 / 5 }

  /// How long after it another part of a range may begin: 32 ms at the lowest goal.
  package var partLimit: Duration { goal * 32 / 25 }
}

/// The shortest round trip of a run.
struct RoundTrip: Sendable {
  /// The number of samples before the shortest one counts: the first may include another wait.
  static let leastCount = 3

  private var count = 0
  private var shortest = Duration.zero

  /// A batch was answered that did not wait for the server's disk.
  ///
  /// - Parameters:
  ///   - elapsed: from sending to the answer.
  ///   - serverTime: the transaction's time on the server.
  mutating func noted(_ elapsed: Duration, serverTime: Duration) {
    let way = max(.zero, elapsed - serverTime)
    shortest = count == 0 ? way : min(shortest, way)
    count += 1
  }

  /// The times of the next batch.
  var batchTime: BatchTime { count < Self.leastCount ? BatchTime() : BatchTime(roundTrip: shortest) }
}
