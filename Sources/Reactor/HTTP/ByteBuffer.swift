// Bytes to be read or written. Invariant: a released empty buffer holds no memory, so an idle connection costs nothing
// here. Used by HTTPConnection and HTTPServer.

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

  /// Appends a whole response, or one whose body follows.
  mutating func append(_ head: HTTPResponseHead, dated date: [UInt8], endingWith end: StaticString, body: [UInt8]) {
    let start = count
    reserve(head.bytes.count + end.utf8CodeUnitCount + body.count)
    append(head.bytes)
    overwrite(at: start + head.dateOffset, with: date)
    append(end)
    append(body)
  }

  /// Overwrites existing bytes; `offset` counts from the first byte that is not removed.
  mutating func overwrite(at offset: Int, with array: [UInt8]) {
    precondition(offset >= 0 && offset + array.count <= count)
    array.withUnsafeBufferPointer { _ = memcpy(storage! + start + offset, $0.baseAddress!, $0.count) }
  }

  /// Replaces the bytes of `places` by `number` in decimal, and moves what follows if the number of digits differs.
  mutating func replace(_ places: Range<Int>, withDigitsOf number: Int) {
    precondition(places.lowerBound >= 0 && places.upperBound <= count && number >= 0)
    let digits = ASCII.digitCount(of: number)
    if digits != places.count {
      reserve(digits)
      let tail = storage! + start + places.upperBound
      memmove(storage! + start + places.lowerBound + digits, tail, count - places.upperBound)
      end += digits - places.count
    }
    var rest = number
    for place in (places.lowerBound..<(places.lowerBound + digits)).reversed() {
      storage![start + place] = ASCII.zero + UInt8(rest % 10)
      rest /= 10
    }
  }

  /// Lets `write` append up to `limit` bytes; returns the number that it returned.
  mutating func append(upTo limit: Int, _ write: (UnsafeMutableRawBufferPointer) -> Int) -> Int {
    reserve(limit)
    let written = write(UnsafeMutableRawBufferPointer(start: storage.map { $0 + self.end }, count: limit))
    precondition(written >= 0 && written <= limit)
    end += written
    return written
  }

  mutating func removeLast(_ byteCount: Int) {
    precondition(byteCount >= 0 && byteCount <= count)
    end -= byteCount
  }

  mutating func removeFirst(_ byteCount: Int) {
    precondition(byteCount <= count)
    start += byteCount
    if start == end { removeAll() }
  }

  /// Empties the buffer and keeps up to `keptCapacity` bytes of its memory.
  mutating func removeAll(keepingUpTo keptCapacity: Int = .max) {
    start = 0
    end = 0
    if capacity > keptCapacity { release() }
  }

  /// Empties the buffer and frees its memory.
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
    // The first block fits exactly, because there is mostly only one; after that the capacity doubles.
    let grown = max(end + byteCount, capacity * 2, 256)
    guard let memory = realloc(storage, grown) else { fatalError("out of memory") }
    storage = memory.assumingMemoryBound(to: UInt8.self)
    capacity = grown
  }
}
