// Releases the pages of the program and its libraries that only startup used.
// Invariant: only pages that were never written are released, so they are read back unchanged from the page cache.
// Called when startup is over, and when nothing has been sent for a while.

import CReactor

/// The code and constants of the program and its libraries.
public enum LoadedCode {
  /// Drops all pages of code and constants from this process's memory. Pages that are still needed return at their next
  /// use, by a minor fault.
  ///
  /// Startup touches most of what is mapped (relocations, symbol tables, self-checks of the TLS library); later work
  /// needs less than half. Writable segments are left alone, even those that became read-only after relocation (RELRO):
  /// their pages differ from the file.
  public static func giveBackPages() {
    let pageByteCount = UInt(sysconf(Int32(_SC_PAGESIZE)))
    withUnsafePointer(to: pageByteCount) { size in
      _ = creactor_each_loaded_object(
        { object, _, size in
          guard let object, let pageByteCount = size?.load(as: UInt.self) else { return 0 }
          for index in 0..<Int(object.pointee.header_count) {
            let segment = object.pointee.headers[index]
            guard segment.p_type == UInt32(PT_LOAD), segment.p_flags & UInt32(PF_W) == 0 else { continue }
            // Whole pages only: a page at the edge may also be mapped for the next segment.
            let begin = UInt(object.pointee.base + segment.p_vaddr)
            let first = (begin + pageByteCount - 1) / pageByteCount * pageByteCount
            let end = (begin + UInt(segment.p_memsz)) / pageByteCount * pageByteCount
            guard first < end else { continue }
            // Failure is harmless: the pages stay.
            _ = madvise(UnsafeMutableRawPointer(bitPattern: first), Int(end - first), MADV_DONTNEED)
          }
          return 0
        }, UnsafeMutableRawPointer(mutating: size))
    }
  }
}
