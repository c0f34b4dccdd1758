// How little memory is enough: a worker in a memory cgroup of version 1.

import Foundation
import TestSupport

enum MemoryCgroup {
  private static let hierarchy = "/sys/fs/cgroup/memory"
  /// Limits in kB, tried in this order.
  static let sizes = [4096, 3072, 2560, 2304, 2176, 2048, 1984, 1920, 1856, 1792, 1728]

  static var isPermitted: Bool {
    var isDirectory: ObjCBool = false
    return FileManager.default.fileExists(atPath: hierarchy, isDirectory: &isDirectory) && isDirectory.boolValue
      && access(hierarchy, W_OK) == 0
  }

  /// The smallest limit in kB with which the worker boots, gets ready and sweeps 100,000 rows; nil with none.
  static func smallest(_ instruments: Instruments) async throws -> Int? {
    var smallest: Int?
    for kilobytes in sizes {
      guard try await isEnough(kilobytes, instruments) else { break }
      smallest = kilobytes
    }
    return smallest
  }

  private static func isEnough(_ kilobytes: Int, _ instruments: Instruments) async throws -> Bool {
    let group = "\(hierarchy)/secrets-bridge-\(getpid())"
    try await instruments.fill(["wraps": 100_000, "due": 100])
    guard mkdir(group, 0o755) == 0 else { throw Failure("mkdir \(group): \(String(cString: strerror(errno)))") }
    defer { remove(group) }
    try "\(kilobytes * 1024)".write(toFile: "\(group)/memory.limit_in_bytes", atomically: false, encoding: .utf8)
    let worker = try await instruments.start(
      ["sh", "-c", #"echo $$ >"$1/tasks" && exec "$2" run"#, "sh", group, Instruments.worker],
      settings: ["SB_WORKER_LEASE": "3s", Sweeper.wraps.intervalVariable: "1s"])
    let deadline = ContinuousClock.now.advanced(by: .seconds(20))
    var left = 1
    var status = 0
    while left > 0, worker.ending == nil, ContinuousClock.now < deadline {
      left = try await instruments.number("SELECT count(*) FROM secret_wraps")
      if left == 0 {
        status = await worker.status(of: "/readyz")
      } else {
        try await Task.sleep(for: .milliseconds(200))
      }
    }
    let most = try String(contentsOfFile: "\(group)/memory.max_usage_in_bytes", encoding: .utf8)
    say(
      "limit \(kilobytes) kB: \(left) rows left, ready \(status == 0 ? "no" : "\(status)"), "
        + "most \(most.trimmingCharacters(in: .newlines)) bytes")
    // One that the kernel stops for its memory for good is killed, and has failed in any case.
    _ = try? await worker.stop(within: .seconds(10))
    return left == 0 && status == 200
  }

  /// Removes the group once the kernel has let go of its last process.
  private static func remove(_ group: String) {
    for _ in 0..<200 where rmdir(group) != 0 { usleep(50_000) }
  }
}
