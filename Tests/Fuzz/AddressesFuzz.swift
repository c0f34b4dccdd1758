// Fuzzes what becomes of addresses: as text in URLs, settings, the resolver's files and cluster nodes' answers, and in
// bytes as a name server's answers have them. What must hold: an address that is taken is the same when it is written
// and read again, and none is lost or doubled on its way from a name server to the order in which they are tried.

import CReactor

@testable import Reactor

extension FuzzTarget {
  /// The first byte chooses the form.
  static let addresses = FuzzTarget(name: "addresses") { input in
    guard let choice = input.first else { return }
    if choice % 2 == 0 {
      for line in input.dropFirst().split(separator: ASCII.lineFeed) { readText(String(decoding: line, as: UTF8.self)) }
    } else {
      readAnswers(input.dropFirst())
    }
  }

  private static func readText(_ text: String) {
    if let bytes = NameResolver.addressBytes(text) {
      precondition(!text.utf8.contains(0), "C reads another address than Swift")
      precondition(NameResolver.addressBytes(written(bytes)) == bytes, "an address is another one when it is written")
      precondition(AddressOrder.sorted([.init(text: text, source: bytes)]) == [text])
    }
    do throws(ListenError) {
      let address = try ListenAddress(text)
      precondition(address.description == text)
      if case .name(let name) = address.host { precondition(!NameResolver.isNumericAddress(name)) }
    } catch {
      _ = error.description
    }
    _ = ClusterRedirect(text, from: "localhost")?.node.text
  }

  private static func written(_ bytes: [UInt8]) -> String {
    let address = bytes.count == 4 ? SocketAddress(ipv4: bytes, port: 53) : SocketAddress(ipv6: bytes, port: 53)
    let text = address.with { start, _ in SocketAddress.hostText(start.assumingMemoryBound(to: sockaddr.self)) }
    guard let text else { preconditionFailure("an address has no text") }
    return text
  }

  // MARK: Answers of name servers

  /// Addresses in a row: a byte that says of which kind, and the address.
  private static func readAnswers(_ input: ArraySlice<UInt8>) {
    var rest = input
    var found: [FamilyRace.Family: [(bytes: [UInt8], source: [UInt8]?)]] = [:]
    while let kind = rest.popFirst() {
      let (family, length): (FamilyRace.Family, Int) = kind & 1 == 0 ? (.ipv4, 4) : (.ipv6, 16)
      guard rest.count >= length else { break }
      let bytes = Array(rest.prefix(length))
      rest = rest.dropFirst(length)
      // Without a route, from the same address, and from its neighbour.
      let source: [UInt8]? = kind & 2 == 0 ? nil : kind & 4 == 0 ? bytes : bytes.dropLast() + [bytes[length - 1] ^ 1]
      found[family, default: []].append((bytes, source))
    }
    var race = FamilyRace { _, addresses in addresses.count % 2 == 0 }
    var result = FamilyRace.Answer.noAddress
    for family in FamilyRace.Family.allCases {
      let texts = AresAnswer((found[family] ?? []).map(\.bytes)).texts
      precondition(Set(texts).count == texts.count, "an address is doubled")
      precondition(
        Set(texts.compactMap { NameResolver.addressBytes($0) }) == Set((found[family] ?? []).map(\.bytes)),
        "an address of the answer is lost, or is another one")
      let answer: FamilyRace.Answer = texts.isEmpty ? .noAddress : .found(texts)
      if case .finish(let answer) = race.answered(family, answer, at: MonotonicInstant(nanoseconds: 0)) {
        result = answer
      }
    }
    checkOrder(result, found.values.flatMap(\.self))
  }

  private static func checkOrder(
    _ result: FamilyRace.Answer, _ known: [(bytes: [UInt8], source: [UInt8]?)]
  ) {
    guard case .found(let texts) = result else {
      precondition(known.isEmpty, "addresses were found, and none is the verdict")
      return
    }
    let destinations = texts.map { text in
      AddressOrder.Destination(
        text: text, source: known.first { $0.bytes == NameResolver.addressBytes(text) }.flatMap(\.source))
    }
    let sorted = AddressOrder.sorted(destinations)
    precondition(sorted.sorted() == texts.sorted(), "an address is lost in the order, or doubled")
    let routed = destinations.filter { $0.source != nil }.map(\.text)
    precondition(Set(sorted.prefix(routed.count)) == Set(routed), "one without a route comes before one with a route")
    let again = AddressOrder.sorted(sorted.compactMap { text in destinations.first { $0.text == text } })
    precondition(again == sorted, "the order is another one when it is sorted again")
  }
}

/// An answer as c-ares would give it.
private struct AresAnswer {
  let texts: [String]

  init(_ addresses: [[UInt8]]) {
    var nodes: [UnsafeMutablePointer<ares_addrinfo_node>] = []
    var storage: [UnsafeMutableRawPointer] = []
    for bytes in addresses {
      let address = bytes.count == 4 ? SocketAddress(ipv4: bytes, port: 0) : SocketAddress(ipv6: bytes, port: 0)
      let size = MemoryLayout<sockaddr_in6>.size
      let copy = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
      address.with { copy.copyMemory(from: $0, byteCount: Int($1)) }
      let node = UnsafeMutablePointer<ares_addrinfo_node>.allocate(capacity: 1)
      node.initialize(to: ares_addrinfo_node())
      node.pointee.ai_family = address.family
      node.pointee.ai_addr = copy.assumingMemoryBound(to: sockaddr.self)
      nodes.last?.pointee.ai_next = node
      nodes.append(node)
      storage.append(copy)
    }
    var result = ares_addrinfo()
    result.nodes = nodes.first
    texts = AresAddresses.texts(of: &result)
    for node in nodes { node.deallocate() }
    for copy in storage { copy.deallocate() }
  }
}
