// scripts/hardening: what the release build and its process must look like to whoever has found a stray write.

import Foundation
import Glibc
import TestSupport

struct Hardening: Command {
  /// Nil: the release build.
  private var program: String?

  init(_ arguments: inout Arguments) throws {
    while let argument = arguments.next() {
      guard argument == "--program" else { throw Arguments.unknown(argument) }
      program = try arguments.value(of: argument, "a file")
    }
  }

  func perform() async throws -> Bool {
    let file = program ?? Instruments.worker
    let image = try ELFImage(file: file)
    let mappings = try await Self.mappings(ofRunning: file)
    let checks = HardeningCheck.all + (program == nil ? [] : [HardeningCheck.stripped])
    let results = checks.map { ($0, $0.faults(image, mappings)) }
    for (check, faults) in results {
      show(faults.isEmpty ? "ok      \(check.rule)" : "FAILED  \(check.rule): \(faults.joined(separator: ", "))")
    }
    return results.allSatisfy(\.1.isEmpty)
  }

  /// A worker whose servers are away: it does not end, and all of its code is mapped.
  private static func mappings(ofRunning executable: String) async throws -> [MemoryMapping] {
    let environment = [
      "DATABASE_URL": "postgres://worker@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1",
    ]
    let worker = try await WorkerProcess.start(["run"], environment: environment, executable: executable)
    do {
      try await worker.until("/healthz", answers: 200)
      let mappings = MemoryMapping.parse(try String(contentsOfFile: "/proc/\(worker.id)/maps", encoding: .utf8))
      try await worker.stop()
      return mappings
    } catch {
      _ = try? await worker.stop()
      throw error
    }
  }
}

/// A line of /proc/PID/maps.
struct MemoryMapping: Equatable {
  let addresses: Range<UInt64>
  let isWritable: Bool
  let isExecutable: Bool
  /// Empty for anonymous memory.
  let path: String

  static func parse(_ text: String) -> [MemoryMapping] {
    text.split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ", maxSplits: 5)
      guard fields.count >= 2 else { return nil }
      let ends = fields[0].split(separator: "-").compactMap { UInt64($0, radix: 16) }
      guard ends.count == 2 else { return nil }
      return MemoryMapping(
        addresses: ends[0]..<ends[1], isWritable: fields[1].contains("w"), isExecutable: fields[1].contains("x"),
        path: fields.count < 6 ? "" : fields[5].trimmingCharacters(in: .whitespaces))
    }
  }
}

/// A property of the program, and what breaks it.
struct HardeningCheck: Sendable {
  let rule: String
  let faults: @Sendable (ELFImage, [MemoryMapping]) -> [String]

  /// Of a program that is installed.
  static let stripped = HardeningCheck(rule: "no symbol table and no debugging information") { image, _ in
    image.sections.map(\.name).filter { $0 == ".symtab" || $0.hasPrefix(".debug_") }
  }

  static let all = [
    HardeningCheck(rule: "position-independent") { image, _ in
      image.isPositionIndependent ? [] : ["linked at a fixed address"]
    },
    HardeningCheck(rule: "symbols bound before main, and their table read-only (full RELRO)") { image, _ in
      let isBound = image.hasFlag(DF_BIND_NOW, of: DT_FLAGS) || image.hasFlag(DF_1_NOW, of: DT_FLAGS_1)
      let isProtected = image.segments.contains { $0.type == PT_GNU_RELRO }
      return (isBound ? [] : ["bound at first use"]) + (isProtected ? [] : ["no RELRO segment"])
    },
    HardeningCheck(rule: "no library is searched beside the program") { image, _ in
      image.dynamic.contains { $0.tag == Int64(DT_RPATH) || $0.tag == Int64(DT_RUNPATH) } ? ["has a search path"] : []
    },
    HardeningCheck(rule: "the stack is not executable") { image, mappings in
      let isMarked = image.segments.contains { $0.type == PT_GNU_STACK && !$0.isExecutable }
      let stacks = mappings.filter { $0.path == "[stack]" && $0.isExecutable }
      return (isMarked ? [] : ["the file asks for an executable one"]) + stacks.map(\.path)
    },
    HardeningCheck(rule: "no page is both writable and executable") { _, mappings in
      mappings.filter { $0.isWritable && $0.isExecutable }.map { $0.path.isEmpty ? "anonymous memory" : $0.path }
    },
    HardeningCheck(rule: "code pages hold only code") { image, _ in
      let code = image.segments.filter { $0.type == PT_LOAD && $0.isExecutable }
      return image.sections.filter { section in
        section.isLoaded && !section.isCode && code.contains { $0.addresses.overlaps(section.addresses) }
      }.map(\.name)
    },
    HardeningCheck(rule: "constants are read-only in the process") { writableConstants($0, $1) },
  ]

  /// Names of the sections with constants, or with what the loader has relocated, that lie on a writable page.
  private static func writableConstants(_ image: ELFImage, _ mappings: [MemoryMapping]) -> [String] {
    guard let first = image.segments.first(where: { $0.type == PT_LOAD }),
      let program = mappings.first(where: { $0.path.hasSuffix("/secrets-bridge-worker") })
    else { return ["the program's mappings were not found"] }
    let pageSize = UInt64(sysconf(Int32(_SC_PAGESIZE)))
    let base =
      image.isPositionIndependent ? program.addresses.lowerBound - first.addresses.lowerBound / pageSize * pageSize : 0
    return image.sections.filter { section in
      let isConstant = !section.isWritable || section.name.hasPrefix(".rodata") || section.name == ".data.rel.ro"
      let addresses = section.addresses.lowerBound + base..<section.addresses.upperBound + base
      return section.isLoaded && isConstant && mappings.contains { $0.isWritable && $0.addresses.overlaps(addresses) }
    }.map(\.name)
  }
}
