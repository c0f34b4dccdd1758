// Where discovery looks, as the operator wrote it: checked here, taken apart by PostgreSQL.
// Invariant: the document itself is passed on, never encoded again, so that its values stay what they are.

import Reactor

/// One place for discovery to look at.
struct DiscoverTarget: Equatable, Sendable {
  let name: String
  let cluster: String
  let providerType: String
  /// What its jobs' ids follow from: no two targets have the same.
  var identity: String { name }
}

/// The discover targets, in the order in which they were given.
struct DiscoverTargets: Equatable, Sendable {
  /// More are refused: all of them are enqueued by one statement.
  static let countLimit = 1_000

  /// The JSON array, as it was given.
  private(set) var document = "[]"
  /// What is at the same index of the document.
  private(set) var targets: [DiscoverTarget] = []

  /// Reads SB_DISCOVER_TARGETS_JSON. Faults name index (from 0) and field, and repeat no value.
  static func read(_ text: String) -> Reading<DiscoverTargets> {
    let root: JSONValue
    do {
      root = try JSONDocument(text).root
    } catch {
      return .expected("a JSON array of targets, but: \(error)")
    }
    guard root.kind == .array else { return .expected("a JSON array of targets, not another kind of value") }
    let elements = root.elements
    guard elements.count <= countLimit else { return .expected("at most \(countLimit) targets") }
    var checked = CheckedTargets()
    for element in elements { checked.add(element) }
    guard checked.faults.isEmpty else { return .refused(checked.faults) }
    return .accepted(DiscoverTargets(document: text, targets: checked.targets), warnings: checked.warnings)
  }
}

/// The targets as they are checked, one after the other.
private struct CheckedTargets {
  private static let fields = ["name", "cluster", "provider_type", "provider_config", "scope"]

  var targets: [DiscoverTarget] = []
  var faults: [String] = []
  var warnings: [String] = []
  private var indexes: [String: Int] = [:]
  private var count = 0

  mutating func add(_ element: JSONValue) {
    let index = count
    count += 1
    guard element.kind == .object else {
      faults.append("[\(index)] to be an object")
      return
    }
    let name = text(element, index, "name")
    let cluster = text(element, index, "cluster")
    let providerType = text(element, index, "provider_type")
    for field in ["provider_config", "scope"] {
      guard let value = element[field], value.kind != .object else { continue }
      faults.append("[\(index)].\(field) to be an object, or absent")
    }
    for key in element.keys where !Self.fields.contains(key) {
      let hint = NearestName.of(key, among: Self.fields).map { ". Did you mean \"\($0)\"?" } ?? ""
      warnings.append("[\(index)] has an unknown field \"\(NearestName.shortened(key))\", which is ignored\(hint)")
    }
    if let name {
      if let first = indexes[name] {
        faults.append("[\(index)].name to be another one than [\(first)].name")
      } else {
        indexes[name] = index
      }
    }
    guard let name, let cluster, let providerType else { return }
    targets.append(DiscoverTarget(name: name, cluster: cluster, providerType: providerType))
  }

  private mutating func text(_ target: JSONValue, _ index: Int, _ field: String) -> String? {
    if let text = target[field]?.string, !text.isEmpty { return text }
    faults.append("[\(index)].\(field) to be a string that is not empty")
    return nil
  }
}

extension DiscoverTargets {
  /// Each target as a document of its own, cut out of the whole one: what PostgreSQL cannot take of one target keeps no
  /// other from it.
  var single: [DiscoverTargets] {
    zip(Self.elements(of: document), targets).map { DiscoverTargets(document: "[\($0)]", targets: [$1]) }
  }

  /// The elements of a JSON array, as they are written.
  static func elements(of document: String) -> [String] {
    var elements: [String] = []
    var depth = 0
    var isInString = false
    var isEscaped = false
    var element: [UInt8] = []
    func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
    for byte in document.utf8 {
      if isInString {
        element.append(byte)
        if isEscaped {
          isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
          isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
          isInString = false
        }
        continue
      }
      let opens = byte == UInt8(ascii: "[") || byte == UInt8(ascii: "{")
      let closes = byte == UInt8(ascii: "]") || byte == UInt8(ascii: "}")
      if closes { depth -= 1 }
      if (depth == 1 && byte == UInt8(ascii: ",")) || (depth == 0 && closes) {
        if !element.allSatisfy(isSpace) { elements.append(String(decoding: element, as: UTF8.self)) }
        element = []
      } else if depth > 0 {
        element.append(byte)
      }
      if opens { depth += 1 }
      if byte == UInt8(ascii: "\"") { isInString = true }
    }
    return elements
  }
}
