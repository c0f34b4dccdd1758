// Digests of settings, by which replicas compare their configurations without revealing them. Pure.
// Invariant: a setting that may hold a credential has no digest, so none can be guessed from one.

import Coordination
import Reactor

/// The digest of one setting's value.
enum SettingDigest {
  /// Hexadecimal digits of each.
  static let length = 4

  /// Settings that differ per replica by design. Their digest is constant, to keep the positions of the others.
  static let ofOneReplica = [Setting.localAddress.name, Setting.smtpHelo.name]

  /// Durations and booleans are compared by value, all others by their text.
  static func text(of setting: any Sendable, of name: String, given: String) -> String {
    let value =
      switch setting {
      case _ where ofOneReplica.contains(name): ""
      case let setting as SettingValue<Duration>: "\(setting.value.nanoseconds)"
      case let setting as SettingValue<Duration?>: setting.value.map { "\($0.nanoseconds)" } ?? "off"
      case let setting as SettingValue<Bool>: setting.value ? "true" : "false"
      default: given
      }
    let hash = StableHash.fnv1a(value)
    let digits = String((hash >> 16) ^ (hash & 0xFFFF), radix: 16)
    return String(repeating: "0", count: length - digits.utf8.count) + digits
  }

  /// The settings that have a digest, in the order of the digests.
  static let names = SettingRow.all.filter { !$0.isSecret }.map(\.name)

  /// The digests without those of settings that each replica has for itself: equal in replicas with equal settings.
  static func shared(_ settings: String) -> [UInt8] {
    let bytes = Array(settings.utf8)
    guard bytes.count == names.count * length else { return bytes }
    return names.indices.filter { !ofOneReplica.contains(names[$0]) }.flatMap {
      bytes[$0 * length..<($0 + 1) * length]
    }
  }

  /// The settings whose digests differ; nil if the two lists are of different tables.
  static func differences(_ one: String, _ other: String) -> [String]? {
    let (one, other) = (Array(one.utf8), Array(other.utf8))
    guard one.count == names.count * length, one.count == other.count else { return nil }
    return names.indices.filter { index in
      let range = index * length..<(index + 1) * length
      // Earlier versions have digests of these too.
      return one[range] != other[range] && !ofOneReplica.contains(names[index])
    }.map { names[$0] }
  }
}
