// Parses a command line with glibc's getopt_long. Invariant: prints nothing, whatever the input.
// Called once by main; a lock guards getopt's global state, because tests call it concurrently.

import CReactor
import Synchronization

/// Splits a command line into options and operands.
public struct OptionParser: Sendable {
  /// A known option: `--name`, and `-n` if it has a letter.
  public struct Option: Sendable {
    public enum Argument: Sendable {
      case none, optional, required
    }

    public let name: String
    public let letter: UInt8?
    public let argument: Argument

    public init(_ name: String, letter: UInt8? = nil, argument: Argument = .none) {
      self.name = name
      self.letter = letter
      self.argument = argument
    }
  }

  /// An element of the command line.
  public enum Piece: Equatable, Sendable {
    /// A known option, by its full name, with its argument if any.
    case option(String, argument: String?)
    /// An operand.
    case operand(String)
    /// An option that is unknown or ambiguous, or that has an argument but takes none. The argument is omitted.
    case unknown(String)
    /// A known option without its required argument.
    case missingArgument(String)
  }

  private static let getopt = Mutex<Void>(())
  /// What getopt returns for an operand.
  private static let operandValue: Int32 = 1
  /// Values of long options follow all characters.
  private static let firstValue: Int32 = 256

  private let options: [Option]

  public init(_ options: [Option]) {
    self.options = options
  }

  /// The elements of `arguments` (without the program's name), options first, then operands.
  public func parse(_ arguments: [String]) -> [Piece] {
    var strings: [UnsafeMutablePointer<CChar>?] = [strdup("worker")]
    for argument in arguments { strings.append(strdup(argument)) }
    let count = Int32(strings.count)
    strings.append(nil)
    defer { for string in strings { free(string) } }
    return Self.getopt.withLock { _ in
      withLongOptions { long, short in parse(&strings, count: count, long: long, short: short) }
    }
  }

  private func parse(
    _ strings: inout [UnsafeMutablePointer<CChar>?], count: Int32, long: UnsafePointer<CReactor.option>, short: String
  ) -> [Piece] {
    var pieces: [Piece] = []
    var operands: [Piece] = []
    creactor_getopt_reset()
    while true {
      let value = getopt_long(count, &strings, short, long, nil)
      if value == -1 { break }
      if value == Self.operandValue {
        if let text = creactor_getopt_argument() { operands.append(.operand(String(cString: text))) }
        continue
      }
      if value == Int32(UInt8(ascii: "?")) || value == Int32(UInt8(ascii: ":")) {
        let faulty = creactor_getopt_faulty_option()
        let option = known(faulty)
        if let option, value == Int32(UInt8(ascii: ":")) {
          pieces.append(.missingArgument(option.name))
        } else {
          pieces.append(.unknown(Self.faultyText(strings, letter: option == nil ? faulty : 0)))
        }
      } else if let option = known(value) {
        pieces.append(.option(option.name, argument: creactor_getopt_argument().map { String(cString: $0) }))
      }
    }
    for index in Int(creactor_getopt_next_index())..<Int(count) {
      if let string = strings[index] { operands.append(.operand(String(cString: string))) }
    }
    return pieces + operands
  }

  private func known(_ value: Int32) -> Option? {
    for (index, option) in options.enumerated() {
      if value == Self.firstValue + Int32(index) { return option }
      if let letter = option.letter, value == Int32(letter) { return option }
    }
    return nil
  }

  /// The rejected option as written, up to its `=`, because an argument may be a secret.
  private static func faultyText(_ strings: [UnsafeMutablePointer<CChar>?], letter: Int32) -> String {
    if letter > 0, letter < 128 { return "-" + String(UnicodeScalar(UInt8(letter))) }
    let index = Int(creactor_getopt_next_index()) - 1
    guard index >= 1, index < strings.count, let string = strings[index] else { return "?" }
    var bytes: [UInt8] = []
    for byte in String(cString: string).utf8 {
      if byte == UInt8(ascii: "=") { break }
      bytes.append(byte)
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private func withLongOptions<Result>(_ body: (UnsafePointer<CReactor.option>, String) -> Result) -> Result {
    // The dash makes getopt return operands in order: otherwise POSIXLY_CORRECT in the environment ends the options at
    // the first one. The colon distinguishes a missing argument from an unknown option.
    var short = "-:"
    var long: [CReactor.option] = []
    for (index, known) in options.enumerated() {
      let hasArgument: Int32 =
        switch known.argument {
        case .none: no_argument
        case .required: required_argument
        case .optional: optional_argument
        }
      long.append(
        CReactor.option(name: strdup(known.name), has_arg: hasArgument, flag: nil, val: Self.firstValue + Int32(index)))
      if let letter = known.letter {
        short += String(UnicodeScalar(letter)) + String(repeating: ":", count: Int(hasArgument))
      }
    }
    long.append(CReactor.option())
    defer { for known in long { free(UnsafeMutablePointer(mutating: known.name)) } }
    return body(long, short)
  }
}
