// The thread of a FaultProxy: polls all sockets and forwards bytes according to the settings.
// Invariant: it blocks only in poll, and buffers at most `Lane.byteLimit` bytes per direction of a connection.

import Foundation

/// Carries the bytes of one proxy. Confined to the thread that calls `run()`.
final class ProxyThread: @unchecked Sendable {
  private let listener: Int32
  private let control: ProxyControl
  private var isListening = true
  private var settings: ProxySettings
  private var resetsDone = 0
  private var forgottenDone = 0
  private var connections: [Connection] = []
  private var statistics = FaultProxy.Statistics()

  init(listener: Int32, control: ProxyControl) {
    self.listener = listener
    self.control = control
    settings = control.settings
  }

  func run() {
    while true {
      let (latest, version) = control.read()
      settings = latest
      if latest.isStopped { break }
      apply()
      let wait = carry()
      connections.removeAll { $0.isClosed }
      statistics.open = connections.count
      control.confirm(version, statistics)
      poll(for: wait)
    }
    for connection in connections { connection.close(reset: true) }
    close(listener)
    let (_, version) = control.read()
    statistics.open = 0
    control.confirm(version, statistics)
  }

  private func apply() {
    if resetsDone != settings.resets {
      resetsDone = settings.resets
      // Connections in the accept queue were also made before the reset.
      while let connection = accept() { connection.close(reset: true) }
      for connection in connections { connection.close(reset: true) }
    }
    if forgottenDone != settings.forgotten {
      forgottenDone = settings.forgotten
      for connection in connections { connection.isForgotten = true }
    }
    let shouldListen = settings.admission != .refuse
    guard shouldListen != isListening else { return }
    isListening = shouldListen
    // A listening socket that is shut down keeps its port, refuses connections, and can listen again.
    let result = shouldListen ? listen(listener, 128) : shutdown(listener, Int32(SHUT_RDWR))
    precondition(result == 0, "a proxy cannot be switched: errno \(errno)")
  }

  /// Accepts, reads and writes whatever is possible now. Returns the time until more is due.
  private func carry() -> Duration? {
    if isListening {
      while let connection = accept() {
        if settings.admission == .reset { connection.close(reset: true) } else { connections.append(connection) }
      }
    }
    var soonest: Duration?
    for connection in connections where !connection.isClosed {
      for direction in [FaultProxy.Direction.toServer, .toClient] {
        let fault = direction == .toServer ? settings.toServer : settings.toClient
        let (passed, wait) = connection.carry(direction, fault, settings.generation)
        if direction == .toServer { statistics.bytesToServer += passed } else { statistics.bytesToClient += passed }
        if let wait { soonest = min(soonest ?? wait, wait) }
      }
    }
    return soonest
  }

  private func accept() -> Connection? {
    let client = Foundation.accept(listener, nil, nil)
    guard client >= 0 else { return nil }
    statistics.accepted += 1
    let server = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    for descriptor in [client, server] { prepare(descriptor) }
    let connection = Connection(client: client, server: server)
    let isRefused = withLoopbackAddress(settings.upstream) { connect(server, $0, $1) } != 0 && errno != EINPROGRESS
    if isRefused { connection.close(reset: true) }
    return connection
  }

  private func prepare(_ descriptor: Int32) {
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    var yes: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
  }

  private func poll(for wait: Duration?) {
    var descriptors = [pollfd(fd: control.wakeUpReceiver, events: Int16(POLLIN), revents: 0)]
    if isListening { descriptors.append(pollfd(fd: listener, events: Int16(POLLIN), revents: 0)) }
    for connection in connections {
      descriptors += connection.interest(settings.toServer, settings.toClient)
    }
    // Rounded up to avoid spinning through the last millisecond.
    let milliseconds = wait.map { Int32(clamping: Int(max(.zero, $0) / .milliseconds(1)) + 1) } ?? -1
    Foundation.poll(&descriptors, nfds_t(descriptors.count), milliseconds)
    var bytes = [UInt8](repeating: 0, count: 64)
    while recv(control.wakeUpReceiver, &bytes, bytes.count, 0) > 0 {}
  }
}

/// A client's connection and the one to the server that belongs to it.
private final class Connection {
  private let client: Int32
  private let server: Int32
  private var toServer = Lane()
  private var toClient = Lane()
  private(set) var isClosed = false
  /// Nothing more is forwarded, not even the end of either side.
  var isForgotten = false

  init(client: Int32, server: Int32) {
    self.client = client
    self.server = server
  }

  /// Forwards what it can, and closes the connection if that ends it. Returns the bytes forwarded and the time until
  /// more is due.
  func carry(_ direction: FaultProxy.Direction, _ fault: FaultProxy.Fault, _ generation: Int) -> (Int, Duration?) {
    guard !isClosed, !isForgotten else { return (0, nil) }
    let progress: Lane.Progress
    switch direction {
    case .toServer: progress = toServer.carry(from: client, to: server, fault, generation)
    case .toClient: progress = toClient.carry(from: server, to: client, fault, generation)
    }
    if progress.isBroken {
      close(reset: true)
    } else if toServer.isEnded && toClient.isEnded {
      close(reset: false)
    }
    return (progress.passed, progress.wait)
  }

  /// What to poll for. Descriptors without interest are omitted: poll would keep reporting their hang-up.
  func interest(_ faultToServer: FaultProxy.Fault, _ faultToClient: FaultProxy.Fault) -> [pollfd] {
    guard !isClosed, !isForgotten else { return [] }
    let ofClient = toServer.readEvents(faultToServer) | toClient.writeEvents(faultToClient)
    let ofServer = toClient.readEvents(faultToClient) | toServer.writeEvents(faultToServer)
    return [(client, ofClient), (server, ofServer)].filter { $0.1 != 0 }
      .map { pollfd(fd: $0.0, events: $0.1, revents: 0) }
  }

  func close(reset: Bool) {
    guard !isClosed else { return }
    isClosed = true
    for descriptor in [client, server] {
      if reset {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
      }
      Foundation.close(descriptor)
    }
  }
}

/// One direction of a connection: bytes read but not yet forwarded.
private struct Lane {
  struct Progress {
    var passed = 0
    var wait: Duration?
    /// Whether the connection must be reset.
    var isBroken = false
  }

  private struct Piece {
    var bytes: ArraySlice<UInt8>
    var readAt: ContinuousClock.Instant
  }

  private static let byteLimit = 1 << 20

  private var pieces: [Piece] = []
  private var held = 0
  private var sourceEndedAt: ContinuousClock.Instant?
  private var isBlocked = false
  private var generation = 0
  private var passedInGeneration = 0
  /// Whether the source's end has been forwarded.
  private(set) var isEnded = false

  mutating func carry(
    from source: Int32, to sink: Int32, _ fault: FaultProxy.Fault, _ generation: Int
  ) -> Progress {
    var progress = Progress()
    guard fault != .blackHole, !isEnded else { return progress }
    if generation != self.generation {
      self.generation = generation
      passedInGeneration = 0
    }
    progress.isBroken = !fill(from: source)
    let delay: Duration = if case .delay(let time) = fault { time } else { .zero }
    let now = ContinuousClock.now
    while let piece = pieces.first {
      let due = piece.readAt.advanced(by: delay)
      if due > now {
        progress.wait = now.duration(to: due)
        return progress
      }
      if case .holdBack(let limit) = fault, piece.bytes.count > limit { return progress }
      var count = piece.bytes.count
      if case .cut(let limit) = fault { count = min(count, limit - passedInGeneration) }
      let sent = count > 0 ? piece.bytes.withUnsafeBytes { send(sink, $0.baseAddress, count, Int32(MSG_NOSIGNAL)) } : 0
      isBlocked = sent < 0 && (errno == EAGAIN || errno == ENOTCONN)
      if isBlocked { return progress }
      if sent < 0 { progress.isBroken = true }
      note(max(0, sent), &progress)
      if case .cut(let limit) = fault, passedInGeneration >= limit { progress.isBroken = true }
      if progress.isBroken { return progress }
    }
    if let sourceEndedAt {
      let due = sourceEndedAt.advanced(by: delay)
      if due > now {
        progress.wait = now.duration(to: due)
      } else {
        isEnded = true
        shutdown(sink, Int32(SHUT_WR))
      }
    }
    return progress
  }

  /// Reads what the source has. False if the source was reset.
  private mutating func fill(from source: Int32) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while sourceEndedAt == nil, held < Self.byteLimit {
      let count = recv(source, &buffer, buffer.count, 0)
      if count > 0 {
        pieces.append(Piece(bytes: buffer[..<count], readAt: .now))
        held += count
      } else if count == 0 {
        sourceEndedAt = .now
      } else if errno != EINTR {
        return errno == EAGAIN || errno == ENOTCONN
      }
    }
    return true
  }

  private mutating func note(_ sent: Int, _ progress: inout Progress) {
    progress.passed += sent
    passedInGeneration += sent
    held -= sent
    pieces[0].bytes = pieces[0].bytes.dropFirst(sent)
    if pieces[0].bytes.isEmpty { pieces.removeFirst() }
  }

  func readEvents(_ fault: FaultProxy.Fault) -> Int16 {
    fault != .blackHole && sourceEndedAt == nil && held < Self.byteLimit ? Int16(POLLIN) : 0
  }

  func writeEvents(_ fault: FaultProxy.Fault) -> Int16 {
    fault != .blackHole && isBlocked ? Int16(POLLOUT) : 0
  }
}
