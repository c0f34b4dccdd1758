// A 64-bit ELF file: its segments, sections and dynamic flags, as far as scripts/hardening looks at them.
// The layout is that of elf.h; numbers have this machine's byte order.

import Foundation
import Glibc

struct ELFImage {
  struct Segment: Equatable {
    let type: UInt32
    let flags: UInt32
    let addresses: Range<UInt64>

    var isExecutable: Bool { flags & UInt32(PF_X) != 0 }
  }

  struct Section: Equatable {
    let name: String
    let type: UInt32
    let flags: UInt64
    let addresses: Range<UInt64>

    /// Whether it has a place in memory of its own; the template of thread-local variables has none.
    var isLoaded: Bool { flags & UInt64(SHF_ALLOC) != 0 && flags & UInt64(SHF_TLS) == 0 && !addresses.isEmpty }
    var isWritable: Bool { flags & UInt64(SHF_WRITE) != 0 }
    var isCode: Bool { flags & UInt64(SHF_EXECINSTR) != 0 }
  }

  /// Whether the loader chooses the address.
  let isPositionIndependent: Bool
  let segments: [Segment]
  let sections: [Section]
  /// Tags and values of the dynamic section.
  let dynamic: [(tag: Int64, value: UInt64)]

  /// - Throws: `Failure` if the file is not a 64-bit ELF file, or is cut short.
  init(file: String) throws {
    let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))
    let header = try Self.read(Elf64_Ehdr.self, at: 0, of: bytes)
    guard bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46, UInt8(ELFCLASS64)]) else {
      throw Failure("\(file) is not a 64-bit ELF file")
    }
    isPositionIndependent = header.e_type == ET_DYN
    let segments = try (0..<Int(header.e_phnum)).map {
      try Self.read(Elf64_Phdr.self, at: Int(header.e_phoff) + $0 * Int(header.e_phentsize), of: bytes)
    }
    self.segments = segments.map {
      Segment(type: $0.p_type, flags: $0.p_flags, addresses: $0.p_vaddr..<$0.p_vaddr + $0.p_memsz)
    }
    let sections = try (0..<Int(header.e_shnum)).map {
      try Self.read(Elf64_Shdr.self, at: Int(header.e_shoff) + $0 * Int(header.e_shentsize), of: bytes)
    }
    let names = sections.isEmpty ? 0 : Int(sections[Int(header.e_shstrndx)].sh_offset)
    self.sections = sections.map { section in
      let name = bytes[(names + Int(section.sh_name))...].prefix { $0 != 0 }
      return Section(
        name: String(decoding: name, as: UTF8.self), type: section.sh_type, flags: UInt64(section.sh_flags),
        addresses: section.sh_addr..<section.sh_addr + section.sh_size)
    }
    dynamic =
      try segments.first { $0.p_type == PT_DYNAMIC }.map { segment in
        try stride(from: 0, to: Int(segment.p_filesz), by: MemoryLayout<Elf64_Dyn>.stride).map {
          let entry = try Self.read(Elf64_Dyn.self, at: Int(segment.p_offset) + $0, of: bytes)
          return (Int64(entry.d_tag), UInt64(entry.d_un.d_val))
        }
      } ?? []
  }

  func hasFlag(_ flag: Int32, of tag: Int32) -> Bool {
    dynamic.contains { $0.tag == Int64(tag) && $0.value & UInt64(flag) != 0 }
  }

  private static func read<Record>(_: Record.Type, at offset: Int, of bytes: [UInt8]) throws -> Record {
    guard offset >= 0, offset + MemoryLayout<Record>.size <= bytes.count else {
      throw Failure("an ELF file is cut short")
    }
    return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Record.self) }
  }
}
