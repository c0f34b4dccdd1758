// The checks of scripts/hardening, on programs that are built to break them.

import Foundation
import TestSupport
import Testing

@testable import Measure

@Suite struct HardeningTests {
  /// A program that is compiled with `options`.
  private static func program(_ options: [String]) throws -> ELFImage {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("hardening-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: directory) }
    let source = directory.appendingPathComponent("program.c")
    try "int main(void) { return 0; }\n".write(to: source, atomically: true, encoding: .utf8)
    let program = directory.appendingPathComponent("program").path
    let compiler = Process()
    compiler.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    // In PATH where Swift is; its linker maps code and data apart where it is told to.
    compiler.arguments = ["clang", "-fuse-ld=lld", "-o", program, source.path] + options
    try compiler.run()
    compiler.waitUntilExit()
    #expect(compiler.terminationStatus == 0)
    return try ELFImage(file: program)
  }

  /// The rules that such a program breaks, as long as no process of it is looked at.
  private static func broken(_ options: [String]) throws -> [String] {
    let image = try program(options)
    return HardeningCheck.all.dropLast().filter { !$0.faults(image, []).isEmpty }.map(\.rule)
  }

  private static let hardened = ["-pie", "-Wl,-z,now", "-Wl,-z,relro"]

  @Test func `a hardened program breaks no rule`() throws {
    #expect(try Self.broken(Self.hardened) == [])
  }

  @Test(arguments: [
    (["-no-pie"], "position-independent"),
    (["-Wl,-z,lazy"], "symbols bound before main, and their table read-only (full RELRO)"),
    (["-Wl,-z,norelro"], "symbols bound before main, and their table read-only (full RELRO)"),
    (["-Wl,-rpath,/opt"], "no library is searched beside the program"),
    (["-Wl,-z,execstack"], "the stack is not executable"),
    (["-Wl,--no-rosegment"], "code pages hold only code"),
  ])
  func `a program built without one protection breaks its rule`(options: [String], rule: String) throws {
    #expect(try Self.broken(Self.hardened + options) == [rule])
  }

  @Test func `symbols and debugging information are found in a program that is not stripped`() throws {
    let found = HardeningCheck.stripped.faults(try Self.program(["-g"]), [])
    #expect(found.contains(".symtab") && found.contains(".debug_info"))
    #expect(HardeningCheck.stripped.faults(try Self.program(["-g", "-s"]), []) == [])
  }

  @Test func `a page that is both writable and executable is found`() throws {
    let mappings = MemoryMapping.parse(
      """
      7f0000000000-7f0000001000 r-xp 00000000 fe:00 1234                       /usr/lib/lib c.so
      7f0000001000-7f0000002000 rwxp 00000000 00:00 0\u{20}
      """)
    #expect(mappings.map(\.path) == ["/usr/lib/lib c.so", ""])
    let check = try #require(HardeningCheck.all.first { $0.rule.contains("both writable and executable") })
    #expect(check.faults(try ELFImage(file: "/proc/self/exe"), mappings) == ["anonymous memory"])
  }

  @Test func `a constant on a writable page is found`() throws {
    let image = try ELFImage(file: "/proc/self/exe")
    let check = try #require(HardeningCheck.all.last)
    let whole = MemoryMapping(
      addresses: 0x10000..<0x1_0000_0000, isWritable: true, isExecutable: false, path: "/bin/secrets-bridge-worker")
    #expect(check.faults(image, [whole]).contains(".rodata"))
    #expect(check.faults(image, []) == ["the program's mappings were not found"])
  }

  @Test func `a file that is no program is refused`() {
    #expect(throws: Failure.self) { try ELFImage(file: "/etc/passwd") }
  }
}
