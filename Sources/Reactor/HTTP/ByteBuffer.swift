// Bytes on their way in or out of a connection. Invariant: an empty buffer holds no memory once it was released, so an
// idle connection costs nothing here. Used by HTTPConnection and HTTPServer.

import CReactor

struct ByteBuffer: ~Copyable {
  private var storage: UnsafeMutablePointer<UInt8>?
  private var start = 0
  private var end = 0
  private(set) var capacity = 0

  deinit {
    free(storage)
  }

  var count: Int { end - start }
  var isEmpty: Bool { start == end }
  var bytes: UnsafeBufferPointer<UInt8> {
    UnsafeBufferPointer(start: storage.map { $0 + start }, count: count)
  }

  mutating func append(_ source: UnsafeBufferPointer<UInt8>) {
    guard let from = source.baseAddress, source.count > 0 else { return }
    reserve(source.count)
    memcpy(storage! + end, from, source.count)
    end += source.count
  }

  mutating func append(_ array: [UInt8]) {
    array.withUnsafeBufferPointer { append($0) }
  }

  mutating func append(_ text: StaticString) {
    append(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// Writes over bytes that are there already; `offset` counts from the first byte not yet removed.
  mutating func overwrite(at offset: Int, with array: [UInt8]) {
    precondition(offset >= 0 && offset + array.count <= count)
    array.withUnsafeBufferPointer { _ = memcpy(storage! + start + offset, $0.baseAddress!, $0.count) }
  }

  mutating func removeFirst(_ byteCount: Int) {
    precondition(byteCount <= count)
    start += byteCount
    if start == end { removeAll() }
  }

  /// Empties the buffer and keeps its memory, up to `keptCapacity` bytes of it.
  mutating func removeAll(keepingUpTo keptCapacity: Int = .max) {
    start = 0
    end = 0
    if capacity > keptCapacity { release() }
  }

  /// Empties the buffer and gives its memory back.
  mutating func release() {
    guard storage != nil else { return }
    free(storage)
    storage = nil
    start = 0
    end = 0
    capacity = 0
  }

  private mutating func reserve(_ byteCount: Int) {
    guard end + byteCount > capacity else { return }
    if start > 0 {
      memmove(storage!, storage! + start, count)
      end -= start
      start = 0
    }
    guard end + byteCount > capacity else { return }
    // The first block fits exactly, for it is mostly the only one; then by doubling.
    let grown = max(end + byteCount, capacity * 2, 256)
    guard let memory = realloc(storage, grown) else { fatalError("out of memory") }
    storage = memory.assumingMemoryBound(to: UInt8.self)
    capacity = grown
  }
}
