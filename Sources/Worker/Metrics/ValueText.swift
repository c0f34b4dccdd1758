// A metric's value in digits, as Prometheus parses them. Pure; used only by the registry.
// Invariant: a value needs at most `byteLimit` bytes, and reads back unchanged.

/// Writes values into memory that has room for them.
enum ValueText {
  /// The longest are the 20 digits of 2^64 - 1 and a double such as -2.2250738585072014e-308.
  static let byteLimit = 24

  static func text(_ number: Double) -> String {
    var bytes = [UInt8](repeating: 0, count: byteLimit)
    let count = bytes.withUnsafeMutableBytes { write(number, to: $0) }
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  /// Writes `number` from the start of `target` and returns how many bytes it took.
  static func write(_ number: UInt64, to target: UnsafeMutableRawBufferPointer) -> Int {
    var count = 1
    var rest = number
    while rest >= 10 {
      rest /= 10
      count += 1
    }
    rest = number
    for index in stride(from: count - 1, through: 0, by: -1) {
      target[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
      rest /= 10
    }
    return count
  }

  /// Writes `number` from the start of `target` and returns how many bytes it took.
  static func write(_ number: Double, to target: UnsafeMutableRawBufferPointer) -> Int {
    // Beyond this all doubles are whole numbers, and the general form is shorter.
    if let whole = Int64(exactly: number), whole.magnitude < 1_000_000_000_000_000 {
      guard whole < 0 else { return write(whole.magnitude, to: target) }
      target[0] = UInt8(ascii: "-")
      return 1 + write(whole.magnitude, to: UnsafeMutableRawBufferPointer(rebasing: target[1...]))
    }
    let text = number.isFinite ? number.description : number.isNaN ? "NaN" : number > 0 ? "+Inf" : "-Inf"
    var count = 0
    for byte in text.utf8 {
      target[count] = byte
      count += 1
    }
    return count
  }
}
