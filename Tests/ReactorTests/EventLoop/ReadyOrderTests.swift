// The order in which ready descriptors are served.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct ReadyOrderTests {
  @Test func descriptorsAreServedInTheOrderInWhichTheyBecameReady() async throws {
    try await onLoop {
      let peers = Peers(count: 16)
      defer { peers.close() }
      var random = SeededRandom(seed: 1)
      // The first turn only tells the kernel what to watch.
      for round in 0...50 {
        let order = Array(0..<16).shuffled(using: &random)
        peers.served = []
        // Written between two polls, so that one poll reports all of them.
        for index in order { peers.write(index) }
        try await eventually("all are served") { peers.served.count == 16 }
        if round > 0 { #expect(peers.served == order, "round \(round)") }
      }
    }
  }

  @Test func thoseThatAreServedLastComeAfterAllOthers() async throws {
    try await onLoop {
      let peers = Peers(count: 8, last: [0, 3])
      defer { peers.close() }
      for round in 0...20 {
        peers.served = []
        for index in 0..<8 { peers.write(index) }
        try await eventually("all are served") { peers.served.count == 8 }
        if round > 0 { #expect(peers.served == [1, 2, 4, 5, 6, 7, 0, 3], "round \(round)") }
      }
      // One of them is stopped by the other.
      peers.served = []
      peers.onServed = { [unowned peers] index in if index == 0 { peers.stop(3) } }
      for index in 0..<8 { peers.write(index) }
      try await eventually("the others are served") { peers.served.count == 7 }
      #expect(peers.served == [1, 2, 4, 5, 6, 7, 0])
    }
  }

  @Test func aWatcherThatAnotherStoppedIsNotServed() async throws {
    try await onLoop {
      let peers = Peers(count: 8)
      defer { peers.close() }
      // The first one stops some that are ready after it, at the end and in the middle.
      peers.onServed = { [unowned peers] index in if index == 0 { for stopped in [7, 3, 4] { peers.stop(stopped) } } }
      for index in 0..<8 { peers.write(index) }
      try await eventually("the others are served") { peers.served.count >= 5 }
      #expect(peers.served == [0, 1, 2, 5, 6])
      // Watched again, they are still readable.
      for index in [4, 7, 3] { peers.watch(index) }
      try await eventually("all are served") { peers.served.count == 8 }
      #expect(Set(peers.served) == Set(0..<8))
    }
  }
}

/// Pairs of sockets, one end of each watched.
@EventLoop private final class Peers {
  var served: [Int] = []
  var onServed: (Int) -> Void = { _ in }
  private var pairs: [[Int32]] = []
  private var watchers: [IOWatcher] = []

  init(count: Int, last: Set<Int> = []) {
    for index in 0..<count {
      var pair: [Int32] = [-1, -1]
      socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
      pairs.append(pair)
      watchers.append(IOWatcher(isServedLast: last.contains(index)) { [weak self] _ in self?.serve(index) })
      watch(index)
    }
  }

  func write(_ index: Int) {
    var byte: UInt8 = 1
    #expect(send(pairs[index][0], &byte, 1, 0) == 1)
  }

  func watch(_ index: Int) { watchers[index].watch(pairs[index][1], for: .read) }

  func stop(_ index: Int) { watchers[index].stop() }

  func close() {
    for (watcher, pair) in zip(watchers, pairs) {
      watcher.stop()
      for descriptor in pair { Foundation.close(descriptor) }
    }
  }

  private func serve(_ index: Int) {
    var byte: UInt8 = 0
    #expect(recv(pairs[index][1], &byte, 1, 0) == 1)
    served.append(index)
    onServed(index)
  }
}
