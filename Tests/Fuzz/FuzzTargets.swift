// The fuzzers of everything that parses what others wrote: one program, built by scripts/fuzz, in which FUZZ_TARGET
// names the fuzzer that runs. A fault is a trap: out of bounds, an overflow, or a rule of the target that is broken.

import Glibc

/// One fuzzer: what it does with an input.
struct FuzzTarget: Sendable {
  let name: String
  let run: @Sendable (_ input: [UInt8]) -> Void

  static let all = [http, urls, settings, replies, texts, schedule, addresses]

  /// The fuzzer of this process.
  static let chosen: FuzzTarget = {
    let name = getenv("FUZZ_TARGET").map { String(cString: $0) } ?? ""
    guard let target = all.first(where: { $0.name == name }) else {
      fatalError("FUZZ_TARGET must be one of \(all.map(\.name))")
    }
    return target
  }()
}

/// libFuzzer calls this for each input.
@c(LLVMFuzzerTestOneInput)
public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  FuzzTarget.chosen.run(Array(UnsafeBufferPointer(start: data, count: count)))
  return 0
}
