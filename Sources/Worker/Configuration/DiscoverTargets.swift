// The discovery targets: validated here, decomposed by PostgreSQL.
// Invariant: each value is passed on byte for byte and never re-encoded, so it stays unchanged.

import Reactor

/// One discovery target.
struct DiscoverTarget: Equatable, Sendable {
  let name: String
  let cluster: String
  let providerType: String
  /// The number of earlier targets of the same name.
  var occurrence = 0
  /// The seed of its jobs' ids, unique per target. A name has no NUL.
  var identity: String { occurrence == 0 ? name : "\(name)\0\(occurrence)" }
}

/// The discovery targets, in the given order.
struct DiscoverTargets: Equatable, Sendable {
  /// The maximum number: one statement enqueues all of them. The longest possible variable holds fewer.
  static let countLimit = 3_000

  /// A JSON array of objects with the keys of `TargetField`: as given, unless rewritten.
  private(set) var document = "[]"
  /// The target at each index of the document.
  private(set) var targets: [DiscoverTarget] = []

  /// Parses SB_DISCOVER_TARGETS_JSON. Faults name the index (from 0) and field, and repeat no value.
  static func read(_ text: String) -> Reading<DiscoverTargets> {
    do {
      let kind = try JSONDocument(text, repeatedKeys: true).root.kind
      if kind == .null { return .accepted(DiscoverTargets(), warnings: ["null means that there are no targets"]) }
      guard kind == .array else { return .mustBe("a JSON array of targets") }
    } catch {
      return .mustBe("a JSON array of targets, but: \(error)")
    }
    let elements = JSONSlice(text).elements
    guard elements.count <= countLimit else { return .mustBe("at most \(countLimit) targets") }
    var checked = CheckedTargets()
    for element in elements { checked.add(element) }
    guard checked.faults.isEmpty else { return .refused(checked.faults) }
    return .accepted(
      DiscoverTargets(document: checked.document ?? text, targets: checked.targets), warnings: checked.briefWarnings)
  }
}

extension DiscoverTargets {
  /// Each target as its own document, cut out of the whole, so that a target that PostgreSQL rejects does not affect
  /// others.
  var single: [DiscoverTargets] {
    zip(JSONSlice(document).elements, targets).map { DiscoverTargets(document: "[\($0.text)]", targets: [$1]) }
  }
}

/// The fields of a target.
enum TargetField: String, CaseIterable {
  case name, cluster
  case providerType = "provider_type"
  case providerConfig = "provider_config"
  case scope

  /// The field that Go's decoder assigns a key to: it ignores case, including the long s and the Kelvin sign, which
  /// Unicode folds to s and k (encoding/json, Unmarshal).
  init?(key: String) {
    var folded = ""
    for scalar in key.unicodeScalars {
      switch scalar {
      case "A"..."Z": folded.unicodeScalars.append(Unicode.Scalar(UInt8(scalar.value) | 0x20))
      case "\u{17F}": folded += "s"
      case "\u{212A}": folded += "k"
      default: folded.unicodeScalars.append(scalar)
      }
    }
    self.init(rawValue: folded)
  }

  /// Whether it is a required string.
  var isText: Bool { self == .name || self == .cluster || self == .providerType }
}

/// Validates the targets, one after another.
private struct CheckedTargets {
  private static let warningLimit = 20

  var targets: [DiscoverTarget] = []
  var faults: [String] = []
  private var warnings: [String] = []
  private var occurrences: [String: Int] = [:]
  private var count = 0
  private var rewritten: [String] = []
  private var isRewritten = false

  /// The targets with each field once, under its own name; nil if given in that form.
  var document: String? { isRewritten ? "[" + rewritten.joined(separator: ",") + "]" : nil }

  /// The first warnings, and the number of the rest.
  var briefWarnings: [String] {
    let more = warnings.count - Self.warningLimit
    return more > 0 ? warnings.prefix(Self.warningLimit) + ["and \(more) more of this kind"] : warnings
  }

  mutating func add(_ element: JSONSlice) {
    let index = count
    count += 1
    guard element.kind == .object else {
      faults.append("is invalid: [\(index)] must be an object")
      return
    }
    let fields = fields(of: element, index)
    rewrite(fields)
    let name = text(fields, index, .name)
    let cluster = text(fields, index, .cluster)
    let providerType = text(fields, index, .providerType)
    for field in [TargetField.providerConfig, .scope] {
      guard let kind = fields[field]?.kind, kind != .null else { continue }
      // Agents decode a scope as a string.
      if field == .scope, kind == .string { continue }
      if field == .scope, kind == .object {
        warnings.append("[\(index)].scope is an object: agents expect a string, and reject the target's jobs")
      }
      if kind == .object { continue }
      faults.append("is invalid: [\(index)].\(field.rawValue) must be an object, null or absent")
    }
    guard let name, let cluster, let providerType else { return }
    let occurrence = occurrences[name, default: 0]
    occurrences[name] = occurrence + 1
    if occurrence > 0 { warnings.append("[\(index)] has the name of an earlier target: each gets jobs of its own") }
    targets.append(
      DiscoverTarget(name: name, cluster: cluster, providerType: providerType, occurrence: occurrence))
  }

  /// Normalizes an object as Go's decoder reads it: the last value of a field counts, and null leaves a string
  /// unchanged.
  private mutating func fields(of element: JSONSlice, _ index: Int) -> [TargetField: JSONSlice] {
    var fields: [TargetField: JSONSlice] = [:]
    for (slice, value) in element.members {
      let key = slice.string ?? ""
      guard let field = TargetField(key: key) else {
        let hint = NearestName.of(key, among: TargetField.allCases.map(\.rawValue)).map { ". Did you mean \"\($0)\"?" }
        warnings.append(
          "[\(index)] has an unknown field \"\(NearestName.shortened(key))\", which is ignored" + (hint ?? ""))
        continue
      }
      if key != field.rawValue {
        warnings.append("[\(index)].\(NearestName.shortened(key)) is taken for \(field.rawValue)")
        isRewritten = true
      }
      if fields[field] != nil {
        warnings.append("[\(index)].\(field.rawValue) is given more than once: the last one counts")
        isRewritten = true
      }
      if !field.isText || value.kind != .null || fields[field] == nil { fields[field] = value }
    }
    return fields
  }

  private mutating func rewrite(_ fields: [TargetField: JSONSlice]) {
    let members = TargetField.allCases.compactMap { field in
      fields[field].map { "\"\(field.rawValue)\":\($0.text)" }
    }
    rewritten.append("{" + members.joined(separator: ",") + "}")
  }

  private mutating func text(_ fields: [TargetField: JSONSlice], _ index: Int, _ field: TargetField) -> String? {
    if let text = fields[field]?.string, !text.isEmpty { return text }
    faults.append("is invalid: [\(index)].\(field.rawValue) must be a string that is not empty")
    return nil
  }
}
