// The webhook for a replica's notifications, which sometimes refuses them for a while or does not answer.
// Invariant: each accepted notification was sent once, and together they report every row that the runs changed.

import Reactor
import Worker

@EventLoop
final class ModelledSender: EventSender {
  private let life: Life
  /// Rows changed by finished runs, and rows in accepted notifications.
  private var changedRows = 0
  private var reportedRows = 0
  /// Notifications that the worker reported as dropped.
  var dropped = 0

  init(_ life: Life) {
    self.life = life
  }

  func result(
    of request: TransferRequest, by deadline: MonotonicInstant
  ) async throws -> Result<TransferAnswer, TransferError> {
    let (life, world) = (life, life.replica.world)
    let reply = OneShot<Int>()
    // One in ten is refused for now or not answered.
    let isTaken = !world.oneIn(10)
    if isTaken || world.oneIn(2) {
      world.after(world.any(1_000...50_000)) {
        life.receive { reply.fire(isTaken ? 200 : 503) }
      }
    }
    let status = await reply.wait(until: deadline, on: life.clock)
    try Task.checkCancellation()
    guard let status else { return .failure(.timedOut) }
    if status == 200 { reportedRows += Self.rows(in: request) }
    return .success(TransferAnswer(status: status))
  }

  /// A run that changed `rows` rows ended.
  func changed(_ rows: Int) {
    changedRows += rows
  }

  /// The life exited by itself, with time to send all its notifications.
  func check() {
    guard reportedRows > changedRows || (reportedRows < changedRows && dropped == 0) else { return }
    life.replica.judge.violated("\(reportedRows) rows were reported, and \(changedRows) were changed")
  }

  /// The counts of changed rows in a notification's body.
  private static func rows(in request: TransferRequest) -> Int {
    guard case .post(_, let body) = request.content else { return 0 }
    return names.reduce(0) { $0 + number(after: $1, in: body) }
  }

  private static let names = ["deleted", "enqueued", "sessions_swept", "requests_swept", "given_up"].map { name in
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
