// Whether a server that answers pings also answers its owner's statements, as a pure struct. Invariant: a server that
// loses the same statements twice in a row is not ready until it answers them, or has lost nothing for `quietLimit`.
// Driven by PostgresHealth.

/// What statements imply that were sent and never answered, by their texts, whatever their values:
///
///               lost                   lost again
///     clear ──────────▶ suspected ──────────────────▶ on trial
///       ▲                    │                            │
///       └────────────────────┴────────────────────────────┘
///          answered; nothing lost for quietLimit; explained by an outage or a failover
///
/// One loss proves nothing: a session can end at any time. A cancelled statement is answered: "canceled". Statements
/// are lost repeatedly where packets of some size are dropped or refused, and where the server's disk hangs, while
/// pings pass.
struct PostgresTrial: Equatable {
  enum Loss: Equatable {
    /// Neither they nor a request to cancel them got an answer.
    case unanswered
    /// The connection ended, with the reason.
    case closed(String)

    /// Nil if the failure is an answer or proves nothing: a session that the server ended with an error, unless that
    /// is a fault of the connection itself (class 08, as poolers report packets that they refuse). A full pooler
    /// refuses pings as well.
    init?(_ error: PostgresError) {
      switch error {
      case .timedOut: self = .unanswered
      case .connectionLost:
        if let state = error.sqlState, !state.hasPrefix("08") || error.isFull { return nil }
        self = .closed(error.publicReason)
      case .unavailable, .server, .poolExhausted, .poolClosed, .busy: return nil
      }
    }
  }

  /// The number of losses in a row that prove more than an accident.
  static let lossLimit = 2
  /// How long a loss counts. Longer than most callers' intervals, so that their next attempts decide.
  static let quietLimit = Duration.seconds(600)
  /// The maximum number of requests that are remembered; further ones are not.
  static let suspectLimit = 32

  private struct Suspect: Equatable {
    let texts: [String]
    var losses = 0
    /// Whether a ping was answered since the last loss. Several connections can end at once.
    var isProven = true
    var lostAt: MonotonicInstant
    var loss: Loss
  }

  /// Requests that were lost and not answered since, in the order of their first loss.
  private var suspects: [Suspect] = []

  /// Why the server is not ready; nil if it is not on trial.
  mutating func reason(at now: MonotonicInstant) -> String? {
    if suspects.isEmpty { return nil }
    suspects.removeAll { $0.lostAt.advanced(by: Self.quietLimit) <= now }
    return suspects.first { $0.losses >= Self.lossLimit }.map { Self.explanation(of: $0.loss) }
  }

  /// These were sent, and no answer can come any more.
  mutating func lost(_ request: [PostgresStatement], _ loss: Loss, at now: MonotonicInstant) {
    let texts = request.map(\.sql)
    var index = suspects.firstIndex { $0.texts == texts }
    if index == nil, suspects.count < Self.suspectLimit {
      suspects.append(Suspect(texts: texts, lostAt: now, loss: loss))
      index = suspects.count - 1
    }
    guard let index else { return }
    suspects[index].lostAt = now
    guard suspects[index].isProven else { return }
    suspects[index].losses += 1
    suspects[index].isProven = false
    // One text for as long as it lasts, so that it is reported once.
    if suspects[index].losses <= Self.lossLimit { suspects[index].loss = loss }
  }

  /// The server answered these, whatever the answer.
  mutating func answered(_ request: [PostgresStatement]) {
    if suspects.isEmpty { return }
    suspects.removeAll { $0.texts.elementsEqual(request.lazy.map(\.sql)) }
  }

  /// The server answered a ping.
  mutating func pingAnswered() {
    for index in suspects.indices { suspects[index].isProven = true }
  }

  /// The losses are explained: by an outage, since a ping failed, too, or by the server's new role.
  mutating func clear() {
    suspects = []
  }

  private static func explanation(of loss: Loss) -> String {
    switch loss {
    case .unanswered:
      "statements get no answer though pings do (large packets that are lost, or a server whose disk hangs)"
    case .closed(let reason):
      "\(reason) when statements are sent, though pings are answered (see the server's log, and a pooler's or"
        + " firewall's limit of packets)"
    }
  }
}
