// How long a batch's transaction should take, as pure values: it follows from how long the way to the server is.
// Invariant: where round trips are short it is 25 ms, whatever one of them takes; it is never longer than 50 ms.

import Reactor

/// The times of one transaction. Rows that it changed are locked until its end, so a short one disturbs others least.
/// But between two of them lies a round trip: where that takes 170 ms, batches of 25 ms use an eighth of the time.
package struct BatchTime: Equatable, Sendable {
  static let goals = Duration.milliseconds(25)...Duration.milliseconds(50)

  /// What one transaction should take: half of a round trip, within `goals`.
  let goal: Duration

  package init(roundTrip: Duration = .zero) {
    goal = min(Self.goals.upperBound, max(Self.goals.lowerBound, roundTrip / 2))
  }

  /// No further row is written so long after the transaction's beginning: 45 ms at the least goal.
  package var writeLimit: Duration { goal * 9 / 5 }

  /// No further part of a range is begun so long after it: 32 ms at the least goal.
  package var partLimit: Duration { goal * 32 / 25 }
}

/// The shortest round trip that a run has seen.
struct RoundTrip: Sendable {
  /// So many have to be seen before the shortest one counts: the first may have waited for something else.
  static let leastCount = 3

  private var count = 0
  private var shortest = Duration.zero

  /// A batch was answered that did not wait for the server's disk.
  ///
  /// - Parameters:
  ///   - elapsed: from its sending to the answer.
  ///   - serverTime: what the transaction took there.
  mutating func noted(_ elapsed: Duration, serverTime: Duration) {
    let way = max(.zero, elapsed - serverTime)
    shortest = count == 0 ? way : min(shortest, way)
    count += 1
  }

  /// The times of the next batch.
  var batchTime: BatchTime { count < Self.leastCount ? BatchTime() : BatchTime(roundTrip: shortest) }
}
