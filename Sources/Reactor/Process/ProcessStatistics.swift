// What this process uses of its host: CPU, memory, descriptors, threads. Read from /proc and getrusage; a figure that
// cannot be read is 0. Called for the process_* metrics, at most about once a second.

import CReactor

/// The figures of Prometheus's standard process metrics at one moment.
public struct ProcessStatistics: Equatable, Sendable {
  /// User and system time, in seconds.
  public var cpuSeconds = 0.0
  public var openDescriptors = 0
  /// The soft limit; `UInt64.max` if there is none.
  public var maximalDescriptors: UInt64 = 0
  public var virtualBytes: UInt64 = 0
  /// The soft limit; `UInt64.max` if there is none.
  public var maximalVirtualBytes: UInt64 = 0
  public var residentBytes: UInt64 = 0
  /// In seconds since 1970-01-01T00:00:00Z.
  public var startSeconds = 0.0
  public var threads = 0

  public init() {}

  /// Reads all figures: some microseconds of system calls.
  public static var current: ProcessStatistics {
    var statistics = ProcessStatistics()
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    statistics.cpuSeconds = seconds(usage.ru_utime) + seconds(usage.ru_stime)
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    statistics.maximalDescriptors = UInt64(limit.rlim_cur)
    getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
    statistics.maximalVirtualBytes = UInt64(limit.rlim_cur)
    statistics.openDescriptors = openDescriptorCount()
    if let stat = ProcessStat(text: contents(of: "/proc/self/stat")) {
      statistics.virtualBytes = stat.virtualBytes
      statistics.residentBytes = stat.residentPages * UInt64(sysconf(Int32(_SC_PAGESIZE)))
      statistics.threads = stat.threads
      statistics.startSeconds =
        bootSeconds + Double(stat.startTicks) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }
    return statistics
  }

  private static func seconds(_ time: timeval) -> Double {
    Double(time.tv_sec) + Double(time.tv_usec) / 1_000_000
  }

  private static func openDescriptorCount() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return 0 }
    defer { closedir(directory) }
    // Neither `.`, `..` nor the directory's own descriptor counts.
    var count = -3
    while readdir(directory) != nil { count += 1 }
    return max(0, count)
  }

  /// The host's boot time, read once.
  private static let bootSeconds: Double = {
    let lines = contents(of: "/proc/stat")
    let key = Array("\nbtime ".utf8)
    var index = 0
    while index + key.count < lines.count {
      if lines[index..<(index + key.count)].elementsEqual(key) {
        var number = 0.0
        for byte in lines[(index + key.count)...] {
          guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { break }
          number = number * 10 + Double(byte - UInt8(ascii: "0"))
        }
        return number
      }
      index += 1
    }
    return 0
  }()

  /// The contents of a file in /proc, up to 1 MiB; empty if it cannot be read. Such a read never waits.
  private static func contents(of path: String) -> [UInt8] {
    let descriptor = creactor_open_read(path)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 1024)
    var length = 0
    while true {
      let count = bytes.withUnsafeMutableBytes { buffer in
        read(descriptor, buffer.baseAddress! + length, buffer.count - length)
      }
      if count <= 0 { break }
      length += count
      if length == bytes.count {
        guard length < 1 << 20 else { break }
        bytes += [UInt8](repeating: 0, count: length)
      }
    }
    return Array(bytes[..<length])
  }
}

/// The fields of /proc/self/stat that matter here. Pure: proc(5) numbers them from 1.
struct ProcessStat: Equatable {
  var threads = 0
  var startTicks: UInt64 = 0
  var virtualBytes: UInt64 = 0
  var residentPages: UInt64 = 0

  init?(text: [UInt8]) {
    // The second field is the program's name in parentheses, which may itself contain spaces and parentheses.
    guard let nameEnd = text.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    var field = 2
    var number: UInt64?
    for byte in text[(nameEnd + 1)...] + [UInt8(ascii: " ")] {
      if byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") {
        number = (number ?? 0) &* 10 &+ UInt64(byte - UInt8(ascii: "0"))
      } else if byte == UInt8(ascii: " ") {
        if let number { set(field, number) }
        number = nil
        field += 1
      }
    }
    guard field > 24 else { return nil }
  }

  private mutating func set(_ field: Int, _ number: UInt64) {
    switch field {
    case 20: threads = Int(clamping: number)
    case 22: startTicks = number
    case 23: virtualBytes = number
    case 24: residentPages = number
    default: break
    }
  }
}
