// Where a replica's notifications go: a webhook that takes them, now and then refuses for a while, or does not answer.
// Invariant: what it took was sent once, and holds as many rows as the runs changed.

import Reactor
import Worker

@EventLoop
final class ModelledSender: EventSender {
  private let life: Life
  /// The rows of the runs that ended, and of the notifications that were taken.
  private var changedRows = 0
  private var toldRows = 0
  /// Notifications that the worker gave up, and said so.
  var dropped = 0

  init(_ life: Life) {
    self.life = life
  }

  func result(
    of request: TransferRequest, by deadline: MonotonicInstant
  ) async throws -> Result<TransferAnswer, TransferError> {
    let (life, world) = (life, life.replica.world)
    let reply = OneShot<Int>()
    // One in ten is not taken: refused for now, or not answered.
    let isTaken = !world.oneIn(10)
    if isTaken || world.oneIn(2) {
      world.after(world.any(1_000...50_000)) {
        life.receive { reply.fire(isTaken ? 200 : 503) }
      }
    }
    let status = await reply.wait(until: deadline, on: life.clock)
    try Task.checkCancellation()
    guard let status else { return .failure(.timedOut) }
    if status == 200 { toldRows += Self.rows(in: request) }
    return .success(TransferAnswer(status: status))
  }

  /// A run ended that changed so many rows.
  func told(_ rows: Int) {
    changedRows += rows
  }

  /// The life has ended by itself, with time enough to send all that it had to tell.
  func check() {
    guard toldRows > changedRows || (toldRows < changedRows && dropped == 0) else { return }
    life.replica.judge.violated("\(toldRows) rows were told of \(changedRows) that were changed")
  }

  /// The counts of changed rows in a notification's body.
  private static func rows(in request: TransferRequest) -> Int {
    guard case .post(_, let body) = request.content else { return 0 }
    return names.reduce(0) { $0 + number(after: $1, in: body) }
  }

  private static let names = ["deleted", "enqueued", "sessions_swept", "requests_swept"].map { name in
    Array("\"\(name)\":".utf8)
  }

  private static func number(after name: [UInt8], in body: [UInt8]) -> Int {
    var number = 0
    for start in body.indices where body[start] == name[0] && body[start...].starts(with: name) {
      for byte in body[(start + name.count)...] {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { break }
        number = number * 10 + Int(byte - UInt8(ascii: "0"))
      }
      break
    }
    return number
  }
}
