// A take: how a replica asks for a run, and Redis's answer. Values.
// Invariant: nothing here decides or waits, so the worker and the simulator share it unchanged.

import Reactor

/// When a take considers a slot due.
package enum TakeMode: String, Sendable {
  /// If the schedule says so.
  case due
  /// At boot too, unless the last run began less than a minute ago.
  case start
  /// Always, for a manual run.
  case force
}

/// Redis's answer to a take. Times in ms of Redis's clock.
package enum TakeAnswer: Equatable, Sendable {
  /// The lock is this replica's, until its lease ends.
  case taken(Run)
  /// Another replica has the lock; it expires in `remaining` ms unless renewed.
  case held(slot: Int64, remaining: Int64)
  /// Nothing is due before `due`.
  case idle(slot: Int64, due: Int64)
  /// Redis is empty or new: no lock is granted before `notBefore`, because an earlier run may still be under way.
  case settling(slot: Int64, notBefore: Int64)
  /// An operator has paused the sweeper.
  case paused(slot: Int64, Pause)
  /// Somebody holds a lock without expiry: it stays until it is deleted.
  case stuck(slot: Int64)
  /// The take arrived after its not-after and was refused.
  case late
}

/// What a take's answer says about the fleet.
package struct FleetState: Equatable, Sendable {
  /// How many replicas attend the sweeper, this one included.
  package let replicas: Int
  /// When a run of the sweeper last succeeded, in ms of Redis's clock; nil if none has.
  package let succeededAt: Int64?
  /// The pause notification to send from here.
  package let pause: PauseNotice
  /// The id of the newest trigger of any sweeper; 0 if there is none.
  package let newestTrigger: Int64
  /// The record's origin: it differs after Redis has lost its data.
  package let origin: String

  package init(
    replicas: Int, succeededAt: Int64?, pause: PauseNotice = .none, newestTrigger: Int64 = 0, origin: String
  ) {
    self.replicas = replicas
    self.succeededAt = succeededAt
    self.pause = pause
    self.newestTrigger = newestTrigger
    self.origin = origin
  }
}

/// The notification of a pause, which one replica of the fleet sends.
package enum PauseNotice: Int64, Sendable {
  case none
  /// It has begun; it has lasted another day; it is over.
  case begun, reminder, ended
}

/// What Redis answered to a renewal.
package enum Renewal: Equatable, Sendable {
  case renewed
  /// Renewed, and the run has to stop after its batch.
  case stop
  /// Another token holds the lock.
  case refused
}

/// A replica's name as written in the schedule record.
package enum ReplicaName {
  /// The longest name, in bytes.
  package static let limit = 64

  /// `name` without the record's separators, and cut to the limit.
  package static func text(_ name: String) -> String {
    var bytes: [UInt8] = []
    for byte in name.utf8.prefix(limit) {
      bytes.append((0x21...0x7E).contains(byte) && byte != UInt8(ascii: ";") ? byte : UInt8(ascii: "_"))
    }
    return bytes.isEmpty ? "unknown" : String(decoding: bytes, as: UTF8.self)
  }
}

/// A pause, as a replica remembers it: if Redis loses its data, the replica restores it.
package struct Pause: Equatable, Sendable, CustomStringConvertible {
  /// The origin of the record that it was in.
  package let origin: String
  /// What the operator wrote, cut to a bound.
  package let text: String

  package init(origin: String, text: String) {
    self.origin = origin
    self.text = text
  }

  /// When it expires, in ms of Redis's clock; nil if it lasts until lifted.
  package var until: Int64? {
    guard text.hasPrefix(Self.untilPrefix), let space = text.firstIndex(of: " ") else { return nil }
    return PlausibleNumber.read(text[text.index(text.startIndex, offsetBy: Self.untilPrefix.count)..<space])
  }

  /// The operator's text, without the end time.
  package var reason: String {
    guard until != nil, let space = text.firstIndex(of: " ") else { return text }
    return String(text[text.index(after: space)...])
  }

  package var description: String {
    guard let until else { return "paused: \(text)" }
    return "paused until \(WallClockTime(millisecondsSince1970: until).rfc3339Seconds): \(reason)"
  }

  private static let untilPrefix = "until="
}
