// The locks of single connections in the modelled Redis. Times in ms of its clock.
// Invariant: a lock that has not expired belongs to the token that took it.

struct ConnectionLocks {
  private var locks: [String: (token: String, expiry: Int64)] = [:]

  /// The token that holds a lock.
  func holder(of key: String, at time: Int64) -> String? {
    locks[key].flatMap { $0.expiry > time ? $0.token : nil }
  }

  /// Takes a lock that is free. True if the token holds it then.
  mutating func take(_ key: String, _ token: String, until expiry: Int64, at time: Int64) -> Bool {
    if let holder = holder(of: key, at: time) { return holder == token }
    locks[key] = (token, expiry)
    return true
  }

  mutating func release(_ key: String, _ token: String, at time: Int64) -> Bool {
    guard holder(of: key, at: time) == token else { return false }
    locks[key] = nil
    return true
  }
}
