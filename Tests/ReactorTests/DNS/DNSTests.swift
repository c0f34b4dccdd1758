// Names to addresses, against a DNS server of the test's own that answers, loses packets, lies, or never answers.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct DNSTests {
  @Test(arguments: ["127.0.0.1", "::1", "fe80::1%lo", "2001:db8::7", "::ffff:10.1.2.3"])
  func anAddressIsItsOwnAnswerEvenPastTheDeadline(address: String) async throws {
    try await onLoop {
      let past = LoopClock.system.now.advanced(by: .seconds(-1))
      let found = try await NameResolver.addresses(of: address, by: past, on: .system)
      #expect(found == [address])
    }
  }

  @Test func aNameThatIsNoneIsNotFound() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .nameDoesNotExist }
      for name in ["", "a\0b", "a..b", String(repeating: "a", count: 300)] {
        await #expect(throws: NameResolutionError.notFound) { try await server.resolve(name) }
      }
    }
  }

  @Test func localhostComesFromTheHostsFile() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .silence }
      let found = try await server.resolve("localhost")
      #expect(found.contains("127.0.0.1"))
      #expect(server.questions == 0)
    }
  }

  @Test func bothFamiliesAreAskedForAndReturned() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .addresses(v4: ["192.0.2.7", "192.0.2.8"], v6: ["2001:db8::7"]) }
      let found = try await server.resolve("both.test")
      #expect(Set(found) == ["192.0.2.7", "192.0.2.8", "2001:db8::7"])
      #expect(found.count == 3)
    }
  }

  @Test func oneFamilyIsEnough() async throws {
    try await onLoop {
      let four = try DNSServer { _ in .addresses(v4: ["192.0.2.9"], v6: []) }
      let foundFour = try await four.resolve("four.test")
      #expect(foundFour == ["192.0.2.9"])
      let six = try DNSServer { _ in .addresses(v4: [], v6: ["2001:db8::9"]) }
      let foundSix = try await six.resolve("six.test")
      #expect(foundSix == ["2001:db8::9"])
    }
  }

  @Test func aNameThatDoesNotExistIsNotFound() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .nameDoesNotExist }
      await #expect(throws: NameResolutionError.notFound) { try await server.resolve("missing.test") }
      #expect(server.questions > 0)
    }
  }

  @Test func aNameWithoutAnAddressIsNotFound() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .addresses(v4: [], v6: []) }
      await #expect(throws: NameResolutionError.notFound) { try await server.resolve("empty.test") }
    }
  }

  @Test func aFailingServerIsNotAMissingName() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .serverFailure }
      do {
        _ = try await server.resolve("failing.test")
        Issue.record("resolved")
      } catch NameResolutionError.failed(let text) {
        #expect(!text.contains("failing"))
      }
    }
  }

  @Test func aLostPacketIsAskedForAgain() async throws {
    try await onLoop {
      let server = try DNSServer { question in
        question <= 2 ? .silence : .addresses(v4: ["192.0.2.1"], v6: ["2001:db8::1"])
      }
      let found = try await server.resolve("lost.test")
      #expect(Set(found) == ["192.0.2.1", "2001:db8::1"])
      #expect(server.questions >= 4)
    }
  }

  @Test func anAnswerToAnotherQuestionIsIgnored() async throws {
    try await onLoop {
      let server = try DNSServer { question in
        question <= 2 ? .forged(v4: "198.51.100.66") : .addresses(v4: ["192.0.2.1"], v6: [])
      }
      let found = try await server.resolve("forged.test")
      #expect(found == ["192.0.2.1"])
    }
  }

  @Test func aHungServerStopsNothingElseAndEndsAtTheDeadline() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .silence }
      let ticker = Ticker()
      let start = LoopClock.system.now
      await withThrowingTaskGroup { group in
        group.addTask { try await ticker.run() }
        await #expect(throws: NameResolutionError.timedOut) {
          try await server.resolve("hung.test", within: .milliseconds(600))
        }
        group.cancelAll()
      }
      let took = start.duration(to: LoopClock.system.now)
      #expect(took >= .milliseconds(600) && took < .seconds(3))
      #expect(server.questions > 0)
      #expect(ticker.ticks > 30, "a tick each 10 ms")
    }
  }

  @Test func aServerThatIsAwayIsNoMissingName() async throws {
    try await onLoop {
      var server: DNSServer? = try DNSServer { _ in .silence }
      let servers = try #require(server?.address)
      server = nil
      do {
        let options = NameResolver.Options(servers: servers, firstTimeout: .milliseconds(50), rounds: 1)
        _ = try await NameResolver.addresses(
          of: "away.test", by: LoopClock.system.now.advanced(by: .seconds(5)), on: .system, options: options)
        Issue.record("resolved")
      } catch let error as NameResolutionError {
        #expect(error != .notFound)
      }
    }
  }

  @Test func aCancelledResolutionEndsAtOnce() async throws {
    try await onLoop {
      let server = try DNSServer { _ in .silence }
      let start = LoopClock.system.now
      await withTaskGroup { group in
        group.addTask {
          await #expect(throws: CancellationError.self) {
            try await server.resolve("cancelled.test", within: .seconds(60))
          }
        }
        try? await eventually("asked") { server.questions > 0 }
        group.cancelAll()
        // One that is cancelled before it begins asks nobody.
        group.addTask {
          await #expect(throws: CancellationError.self) { try await server.resolve("never.test", within: .seconds(60)) }
        }
      }
      #expect(start.duration(to: LoopClock.system.now) < .seconds(10))
    }
  }

  @Test func manyResolutionsLeaveNoDescriptorBehind() async throws {
    try await onLoop {
      let server = try DNSServer { question in
        question % 3 == 0 ? .nameDoesNotExist : .addresses(v4: ["192.0.2.1"], v6: [])
      }
      let before = openDescriptors()
      for round in 0..<40 {
        await withTaskGroup { group in
          for number in 0..<5 {
            // Some end in an error: what counts here is what is left over.
            group.addTask { _ = try? await server.resolve("name-\(round)-\(number).test") }
          }
        }
      }
      #expect(openDescriptors() <= before + 8, "other suites run beside this one")
    }
  }
}

/// Counts the turns of a 10 ms timer.
@EventLoop private final class Ticker {
  private(set) var ticks = 0
  nonisolated init() {}

  func run() async throws {
    while !Task.isCancelled {
      try await LoopClock.system.sleep(for: .milliseconds(10))
      ticks += 1
    }
  }
}

/// A DNS server on loopback, as small as the tests need it.
@EventLoop private final class DNSServer {
  enum Reply {
    case addresses(v4: [String], v6: [String])
    case nameDoesNotExist, serverFailure, silence
    /// An address under a wrong transaction id.
    case forged(v4: String)
  }

  private(set) var questions = 0
  private let socket: Int32
  private let watcher: IOWatcher
  private let reply: (Int) -> Reply
  let address: String

  init(reply: @escaping (_ question: Int) -> Reply) throws {
    self.reply = reply
    socket = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_addr.s_addr = inet_addr("127.0.0.1")
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let descriptor = socket
    let isBound = withUnsafeMutablePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
      }
    }
    try #require(isBound)
    address = "127.0.0.1:\(UInt16(bigEndian: name.sin_port))"
    weak var server: DNSServer?
    watcher = IOWatcher { _ in server?.receive() }
    server = self
    watcher.watch(socket, for: .read)
  }

  isolated deinit {
    watcher.stop()
    close(socket)
  }

  func resolve(_ host: String, within limit: Duration = .seconds(10)) async throws -> [String] {
    let options = NameResolver.Options(servers: address, firstTimeout: .milliseconds(200))
    return try await NameResolver.addresses(
      of: host, by: LoopClock.system.now.advanced(by: limit), on: .system, options: options)
  }

  private func receive() {
    var buffer = [UInt8](repeating: 0, count: 512)
    var from = sockaddr_storage()
    while true {
      var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
      let count = withUnsafeMutablePointer(to: &from) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { recvfrom(socket, &buffer, 512, 0, $0, &length) }
      }
      guard count > 12 else { return }
      questions += 1
      guard let answer = answer(to: Array(buffer[0..<count])) else { continue }
      _ = withUnsafePointer(to: &from) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          sendto(socket, answer, answer.count, 0, $0, length)
        }
      }
    }
  }

  private func answer(to query: [UInt8]) -> [UInt8]? {
    var end = 12
    while query[end] != 0 { end += Int(query[end]) + 1 }
    let type = query[end + 2]
    var message = Array(query[0..<(end + 5)])
    message[2] = 0x81  // an answer, recursion desired
    message[3] = 0x80  // recursion available, no error
    message[10] = 0
    message[11] = 0  // drops the EDNS record of the question
    var records: [[UInt8]] = []
    switch reply(questions) {
    case .silence: return nil
    case .nameDoesNotExist: message[3] |= 3
    case .serverFailure: message[3] |= 2
    case .forged(let text):
      message[0] ^= 0xff
      records = type == 1 ? [Self.bytes(of: text, AF_INET, 4)] : []
    case .addresses(let v4, let v6):
      records =
        type == 1 ? v4.map { Self.bytes(of: $0, AF_INET, 4) } : v6.map { Self.bytes(of: $0, AF_INET6, 16) }
    }
    message[6] = 0
    message[7] = UInt8(records.count)
    for record in records {
      message += [0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, UInt8(record.count)] + record
    }
    return message
  }

  private static func bytes(of text: String, _ family: Int32, _ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    inet_pton(family, text, &bytes)
    return bytes
  }
}
