// Maps the keys of a Redis Cluster to slots, and slots to nodes. Pure. Invariant: the ranges are in order and do not
// overlap. Sources: the Redis Cluster specification, "Key distribution model" and "Hash tags"; CLUSTER SLOTS. Kept by
// RedisCluster.

/// The slots of a Redis Cluster.
enum ClusterSlot {
  static let count = 16_384

  /// The slot of a key: CRC16 of its hash tag, or of the whole key if it has none.
  static func of(_ key: String) -> UInt16 {
    let bytes = Array(key.utf8)
    return crc16(hashTag(of: bytes[...])) % UInt16(count)
  }

  /// The text between the first { and the next }; the whole key if there is none.
  private static func hashTag(of key: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    guard let open = key.firstIndex(of: UInt8(ascii: "{")),
      let close = key[(open + 1)...].firstIndex(of: UInt8(ascii: "}")), close > open + 1
    else { return key }
    return key[(open + 1)..<close]
  }

  /// CRC-16/XMODEM.
  static func crc16(_ bytes: some Sequence<UInt8>) -> UInt16 {
    var crc: UInt16 = 0
    for byte in bytes {
      crc ^= UInt16(byte) << 8
      for _ in 0..<8 { crc = crc & 0x8000 == 0 ? crc << 1 : crc << 1 ^ 0x1021 }
    }
    return crc
  }
}

/// The node that a MOVED or ASK names, from "3999 127.0.0.1:6381".
struct ClusterRedirect: Equatable {
  let slot: UInt16
  let node: RedisEndpoint

  /// - Parameters:
  ///   - message: the error reply without its code.
  ///   - asked: the host that answered. A node that does not know its own address names none.
  init?(_ message: String, from asked: String) {
    let words = message.split(separator: " ")
    guard words.count == 2, let slot = UInt16(words[0]), slot < ClusterSlot.count,
      let colon = words[1].utf8.lastIndex(of: UInt8(ascii: ":")),
      let port = UInt16(words[1][words[1].utf8.index(after: colon)...]), port > 0
    else { return nil }
    self.slot = slot
    node = RedisEndpoint(host: ClusterTopology.host(String(words[1][..<colon]), from: asked), port: port)
  }
}

/// The masters of a Redis Cluster and their slots.
struct ClusterTopology: Equatable {
  /// The maximum number of slots remembered from MOVED until the slots are learned again.
  private static let movedLimit = 1_024

  private struct Range: Equatable {
    let first: UInt16
    let last: UInt16
    let node: RedisEndpoint
  }

  private var ranges: [Range] = []
  /// What MOVED has shown since the ranges were learned.
  private var moved: [UInt16: RedisEndpoint] = [:]

  /// Nothing is known yet.
  init() {}

  /// Reads the answer to CLUSTER SLOTS: arrays of first slot, last slot, master and replicas, and a node is its host,
  /// its port and more.
  ///
  /// - Parameter asked: the host that answered.
  /// - Returns: nil for another answer, and for a cluster without slots.
  init?(slots answer: RedisValue, from asked: String) {
    for part in answer.array ?? [] {
      guard let words = part.array, words.count >= 3, let first = Self.slot(words[0]), let last = Self.slot(words[1]),
        first <= last, let master = words[2].array, master.count >= 2, let port = master[1].integer,
        (1...65_535).contains(port)
      else { return nil }
      let host = Self.host(master[0].text ?? "", from: asked)
      ranges.append(Range(first: first, last: last, node: RedisEndpoint(host: host, port: UInt16(port))))
    }
    ranges.sort { $0.first < $1.first }
    guard !ranges.isEmpty, !zip(ranges, ranges.dropFirst()).contains(where: { $0.last >= $1.first }) else { return nil }
  }

  /// A node whose announced host is unknown ("" or "?") is at the host that was asked.
  fileprivate static func host(_ announced: String, from asked: String) -> String {
    announced.isEmpty || announced == "?" ? asked : announced
  }

  private static func slot(_ value: RedisValue) -> UInt16? {
    value.integer.flatMap { (0..<Int64(ClusterSlot.count)).contains($0) ? UInt16($0) : nil }
  }

  var isEmpty: Bool { ranges.isEmpty }

  /// How many slots a master has.
  var coveredCount: Int { ranges.reduce(0) { $0 + Int($1.last - $1.first) + 1 } }

  /// Every master that has slots.
  var nodes: [RedisEndpoint] {
    var nodes: [RedisEndpoint] = []
    for range in ranges where !nodes.contains(range.node) { nodes.append(range.node) }
    return nodes
  }

  /// The master of a slot; nil if none is known.
  func node(of slot: UInt16) -> RedisEndpoint? {
    if let node = moved[slot] { return node }
    return ranges.first { $0.first <= slot && slot <= $0.last }?.node
  }

  /// A node answered MOVED.
  mutating func note(_ redirect: ClusterRedirect) {
    if moved.count >= Self.movedLimit { moved.removeAll() }
    moved[redirect.slot] = redirect.node
  }
}
