// A run for tests that are about what comes after its take.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

extension Coordinator {
  /// Takes the lock, due or not, as soon as it is free.
  func takeInAnyCase() async throws -> RunGrant {
    let token = Token.random(.system)
    var taken: RunGrant?
    try await eventually("the lock is free") {
      let (answer, _, sentAt) = try await self.take(token: token, mode: .force)
      if case .taken(let ticket) = answer { taken = RunGrant(ticket: ticket, token: token, takenAt: sentAt) }
      return taken != nil
    }
    return try #require(taken)
  }
}
