// Fuzzes what servers answer: Redis' protocol and its errors, texts of PostgreSQL and libpq, a mail server's replies,
// and the resolver's files. What must hold for any bytes: nothing traps, and no more is kept than the bounds allow.

import CReactor

@testable import Reactor

extension FuzzTarget {
  /// Redis' replies, as hiredis reads them.
  static let replies = FuzzTarget(name: "replies") { input in
    guard let reader = redisReaderCreate() else { return }
    defer { redisReaderFree(reader) }
    _ = input.withUnsafeBytes { redisReaderFeed(reader, $0.baseAddress, $0.count) }
    var raw: UnsafeMutableRawPointer?
    while redisReaderGetReply(reader, &raw) == REDIS_OK, let reply = raw {
      let value = RedisValue(reply.assumingMemoryBound(to: redisReply.self).pointee)
      inspect(value)
      readNodes(value)
      freeReplyObject(reply)
      raw = nil
    }
  }

  private static func inspect(_ value: RedisValue) {
    switch value {
    case .error(let code, let message):
      let reply = RedisErrorReply(code: code, message: message)
      _ = (reply.explanation, reply.concernsServer, reply.needsSource, reply.needsNewConnection)
    case .array(let elements): for element in elements { inspect(element) }
    default: _ = (value.text, value.integer, value.isOK)
    }
  }

  /// As the answers of a cluster's node and of a Sentinel.
  private static func readNodes(_ value: RedisValue) {
    if let topology = ClusterTopology(slots: value, from: "localhost") {
      precondition((1...ClusterSlot.count).contains(topology.coveredCount), "slots overlap")
      precondition(!topology.nodes.isEmpty && topology.nodes.allSatisfy { $0.port > 0 })
    }
    var sentinel = RedisHandshake(sentinelUser: nil, password: nil, master: "m")
    if sentinel.answered(value) == .ready { precondition(sentinel.namedMaster?.host.isEmpty == false) }
  }

  /// Texts, line by line.
  static let texts = FuzzTarget(name: "texts") { input in
    let text = String(decoding: input, as: UTF8.self)
    let secrets = ["db.internal", "hunter2-hunter2", "worker"]
    _ = PostgresError.reason(inClientText: text, hiding: secrets)
    for function in ["aclcheck_error", "parserOpenTable", "errorMissingColumn", "op_error", "ParseFuncOrColumn"] {
      _ = PostgresErrorPlace.object(inMessage: text, sourceFunction: function)
    }
    _ = PostgresErrorPlace.lockedRelation(inContext: text)
    _ = PostgresError.meaning(of: text, inText: text)
    _ = RedisErrorReply(text).explanation
    var mail = MailReplies()
    var resolver = ResolverConfiguration()
    for line in text.split(separator: "\n") {
      mail.add(Array(line.utf8))
      resolver.take(String(line))
      resolver.takeServices(String(line))
    }
    _ = (mail.progress(isNew: true), mail.progress(isNew: false), resolver.candidates(for: text))
    precondition(resolver.servers.count <= 3 && resolver.search.count <= 32, "more is kept than the bound")
    _ = AddressOrder.sorted(resolver.servers)
  }
}
