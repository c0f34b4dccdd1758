// What the kernel says of a process under /proc. The parsers are pure; `KernelFigures` reads the files.

import Foundation

enum ProcText {
  /// The number of a line "NAME: number …"; nil where there is none.
  static func field(_ name: String, of text: String) -> Int? {
    for line in text.split(separator: "\n") where line.hasPrefix("\(name):") {
      return line.dropFirst(name.count + 1).split(whereSeparator: \.isWhitespace).first.flatMap { Int($0) }
    }
    return nil
  }

  /// A mapped file, or a kind of mapping.
  struct Mapping: Equatable {
    var name: String
    var dirtyKB = 0
    var residentKB = 0
  }

  /// /proc/PID/smaps by the mappings' names, the dirtiest first.
  static func mappings(of smaps: String) -> [Mapping] {
    var found: [String: Mapping] = [:]
    var name = ""
    for line in smaps.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
      if words[0].wholeMatch(of: /[0-9a-f]+-[0-9a-f]+/) != nil {
        let path = words.count > 5 ? words[5].split(separator: " ").first ?? "" : ""
        name = path.isEmpty ? "[anonymous]" : String(path.split(separator: "/").last ?? path)
      } else if words.count > 1, let kilobytes = Int(words[1]) {
        if words[0] == "Rss:" { found[name, default: Mapping(name: name)].residentKB += kilobytes }
        if words[0] == "Private_Dirty:" { found[name, default: Mapping(name: name)].dirtyKB += kilobytes }
      }
    }
    return found.values.sorted { ($1.dirtyKB, $1.residentKB, $0.name) < ($0.dirtyKB, $0.residentKB, $1.name) }
  }
}

/// The figures of one process.
struct KernelFigures: Sendable {
  let id: pid_t

  /// The whole file. The kernel gives it in parts of a page, and Foundation takes the first part for all of it.
  func text(_ file: String) throws -> String {
    let path = "/proc/\(id)/\(file)"
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      guard count >= 0 else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
      if count == 0 { return String(decoding: bytes, as: UTF8.self) }
      bytes += buffer[..<count]
    }
  }

  private func field(_ name: String, of file: String) throws -> Int {
    guard let value = ProcText.field(name, of: try text(file)) else {
      throw Failure("/proc/\(id)/\(file) has no \(name)")
    }
    return value
  }

  func status(_ name: String) throws -> Int { try field(name, of: "status") }

  var privateDirtyKB: Int { get throws { try field("Private_Dirty", of: "smaps_rollup") } }
  var residentKB: Int { get throws { try field("Rss", of: "smaps_rollup") } }
  var voluntarySwitches: Int { get throws { try status("voluntary_ctxt_switches") } }
  var mappings: [ProcText.Mapping] { get throws { ProcText.mappings(of: try text("smaps")) } }

  var cpuNanoseconds: Int {
    get throws { try text("schedstat").split(separator: " ").first.flatMap { Int($0) } ?? 0 }
  }

  /// Page faults since its start: all that needed no read, and those that did.
  var pageFaults: (minor: Int, major: Int) {
    get throws {
      // Behind the program's name in parentheses: state, parent, …; the counts are the fields 10 and 12 of the line.
      let fields = try text("stat").split(separator: ")").last?.split(separator: " ") ?? []
      guard fields.count > 9, let minor = Int(fields[7]), let major = Int(fields[9]) else {
        throw Failure("/proc/\(id)/stat is not as expected")
      }
      return (minor, major)
    }
  }
}
