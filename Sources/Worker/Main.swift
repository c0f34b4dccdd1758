import Reactor

@main
struct Main {
  static func main() {
    let code = EventLoop.run {
      try? await LoopClock.system.sleep(for: .milliseconds(50))
      let r = try? await withDeadline(after: .seconds(1)) { () async throws -> Int in
        try await LoopClock.system.sleep(for: .milliseconds(10))
        return 7
      }
      return Int32(r ?? 1)
    }
    print("code", code)
  }
}
