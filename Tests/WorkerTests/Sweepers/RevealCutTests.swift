// The connection is cut in the middle of a batch of reveal-sessions-expired, at each of its bytes.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct RevealCutTests {
  /// Each round sweeps one session over a connection that is cut after more bytes than the one before, until the batch
  /// passes whole. The statements are prepared by then, so that a batch is short.
  @Test(arguments: [(FaultProxy.Direction.toServer, 1), (.toClient, 7)])
  func aCutAtAnyByteLeavesNoReadableWrapOfAnEndedSession(direction: FaultProxy.Direction, step: Int) async throws {
    let plane = try await ControlPlane.fresh()
    let proxy = try FaultProxy(to: UInt16(try await PrivatePostgres.shared.port))
    let port = try await PrivatePostgres.shared.port
    let through = ControlPlane(
      url: plane.url.replacingOccurrences(of: ":\(port)", with: ":\(proxy.port)"), name: plane.name)
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings())
    let (cuts, committed) = try await onLoop {
      let admin = try plane.pool(connections: 1)
      var (limit, cuts, committed, isWhole) = (0, 0, 0, false)
      while !isWhole, limit < 20_000 {
        let pool = try through.pool(connections: 1)
        let memory = TableMemory()
        _ = try await through.sweep(sweeper, through: pool, knowing: memory)
        try await Self.run(RevealRows.sessionWithWraps("s\(limit)"), admin)
        proxy.set(.cut(afterBytes: limit), direction)
        do {
          isWhole = try await through.sweep(sweeper, through: pool, knowing: memory).changed == 1
        } catch is PostgresError {
          cuts += 1
        }
        proxy.heal()
        let count = try await Self.run(Self.check, admin)
        #expect(count?[row: 0, column: 0] == "0", "cut after \(limit) bytes")
        #expect(count?[row: 0, column: 1] == count?[row: 0, column: 2], "cut after \(limit) bytes")
        if !isWhole, count?[row: 0, column: 3] == "0" { committed += 1 }
        await pool.close()
        limit += step
      }
      #expect(isWhole)
      await admin.close()
      return (cuts, committed)
    }
    #expect(cuts > 100)
    // Some cuts come after the commit, and only where the answer is cut.
    #expect(direction == .toServer || committed > 0)
    #expect(try await plane.sql(RevealRows.readable) == "")
    #expect(try await plane.sql(RevealRows.open) == "")
    print("cuts \(direction): \(cuts), after the commit: \(committed)")
  }

  /// Readable wraps of ended sessions; readable wraps, twice the open sessions, and those sessions.
  private static let check = """
    SELECT (\(RevealRows.readableOfEnded)),
           (SELECT count(*) FROM secret_wraps WHERE consumed_at IS NULL AND expires_at > now()),
           (SELECT 2 * count(*) FROM reveal_sessions WHERE expired_at IS NULL),
           (SELECT count(*) FROM reveal_sessions WHERE expired_at IS NULL)
    """

  /// Runs statements one after the other; answers the last one's result.
  @EventLoop
  @discardableResult
  private static func run(_ sql: String, _ pool: PostgresPool) async throws -> PostgresResult? {
    let limit = LoopClock.system.now.advanced(by: .seconds(20))
    let statements = sql.split(separator: ";").map { PostgresStatement(String($0)) }
      .filter { !$0.sql.allSatisfy(\.isWhitespace) }
    let kept = Kept()
    try await pool.withConnection(by: limit) { kept.result = try await $0.pipeline(statements, by: limit).last }
    return kept.result
  }

  @EventLoop private final class Kept {
    var result: PostgresResult?
  }
}
