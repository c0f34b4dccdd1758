// Each replica's two proxies, and their current faults.
// Invariant: a proxy applies its faults combined; without any, it forwards everything with the delay of the
// surroundings.

import Synchronization
import TestSupport

/// The effect of one fault on one path.
struct LinkFault: Sendable {
  var isRefused = false
  var toServer = FaultProxy.Fault.pass
  var toClient = FaultProxy.Fault.pass
}

/// The paths of all replicas.
final class FaultyLinks: Sendable {
  struct Place: Hashable, Sendable {
    let replica: Int
    let link: Link
  }

  private let proxies: [Place: FaultProxy]
  private let faults = Mutex<[Place: [Int: LinkFault]]>([:])
  /// The constant delay, in ms.
  private let delays: [Link: Int]

  init(replicas: Int, postgres: UInt16, redis: UInt16, delays: [Link: Int] = [:]) throws {
    self.delays = delays
    var proxies: [Place: FaultProxy] = [:]
    for replica in 0..<replicas {
      proxies[Place(replica: replica, link: .postgres)] = try FaultProxy(to: postgres)
      proxies[Place(replica: replica, link: .redis)] = try FaultProxy(to: redis)
    }
    self.proxies = proxies
    for (place, proxy) in proxies { proxy.set(Self.later(.pass, by: delays[place.link] ?? 0)) }
  }

  func proxy(_ replica: Int, _ link: Link) -> FaultProxy {
    proxies[Place(replica: replica, link: link)]!
  }

  /// Applies fault `number` to one path, or to all paths to a server.
  func lay(_ fault: LinkFault, number: Int, replica: Int?, link: Link) {
    change(replica, link) { $0[number] = fault }
  }

  func lift(number: Int, replica: Int?, link: Link) {
    change(replica, link) { $0[number] = nil }
  }

  /// Makes the paths to a server lead to another one. Open connections stay as they are.
  func move(_ link: Link, to port: UInt16) {
    for (place, proxy) in proxies where place.link == link { proxy.upstream = port }
  }

  func stop() {
    for proxy in proxies.values { proxy.stop() }
  }

  private func change(_ replica: Int?, _ link: Link, _ body: (inout [Int: LinkFault]) -> Void) {
    for place in proxies.keys where place.link == link && (replica ?? place.replica) == place.replica {
      let (before, after) = faults.withLock { faults in
        let before = Self.sum(faults[place, default: [:]])
        body(&faults[place, default: [:]])
        return (before, Self.sum(faults[place, default: [:]]))
      }
      let proxy = proxies[place]!
      if after.isRefused, !before.isRefused { proxy.goAway() }
      if before.isRefused, !after.isRefused { proxy.admission = .accept }
      let delay = delays[place.link] ?? 0
      if after.toServer != before.toServer { proxy.set(Self.later(after.toServer, by: delay), .toServer) }
      if after.toClient != before.toClient { proxy.set(Self.later(after.toClient, by: delay), .toClient) }
    }
  }

  static func sum(_ faults: [Int: LinkFault]) -> LinkFault {
    var sum = LinkFault()
    for fault in faults.sorted(by: { $0.key < $1.key }).map(\.value) {
      sum.isRefused = sum.isRefused || fault.isRefused
      sum.toServer = worse(sum.toServer, fault.toServer)
      sum.toClient = worse(sum.toClient, fault.toClient)
    }
    return sum
  }

  /// A fault on a path with a constant delay of `delay` ms.
  static func later(_ fault: FaultProxy.Fault, by delay: Int) -> FaultProxy.Fault {
    switch fault {
    case .pass: delay > 0 ? .delay(.milliseconds(delay)) : .pass
    case .delay(let more): .delay(more + .milliseconds(delay))
    case .cut, .blackHole, .holdBack: fault
    }
  }

  private static func worse(_ one: FaultProxy.Fault, _ other: FaultProxy.Fault) -> FaultProxy.Fault {
    func rank(_ fault: FaultProxy.Fault) -> Int {
      switch fault {
      case .pass: 0
      case .delay: 1
      case .cut: 2
      case .holdBack: 3
      case .blackHole: 4
      }
    }
    return rank(other) > rank(one) ? other : one
  }
}
