// One GET to a listener of this host, for a program that probes its own service. Invariant: it ends by its deadline and
// holds only a bounded answer. Other requests are sent by Transfer/.

import CReactor

/// Why a listener did not answer, in words for an operator.
public struct LocalRequestFailure: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
}

/// Sends a request to a listener of this host.
@EventLoop
public final class LocalRequest {
  /// A listener's answer.
  public struct Answer: Sendable, Equatable {
    public let status: Int
    public let body: String
  }

  /// The maximum length of an answer, in bytes.
  static let answerByteLimit = 64 * 1024

  private let descriptor: Int32
  private let request: [UInt8]
  private var watcher: IOWatcher?
  private var answer: [UInt8] = []
  private let ended = OneShot<Result<[UInt8], LocalRequestFailure>>()

  /// Sends a GET for `path` to the listener at `address`, over loopback if that is every interface.
  ///
  /// - Parameter deadline: on `clock`.
  /// - Throws: if nothing listens, or no complete answer came by the deadline.
  public static func get(
    _ path: String, at address: ListenAddress, by deadline: MonotonicInstant, on clock: LoopClock
  ) async throws(LocalRequestFailure) -> Answer {
    guard let target = address.loopback else {
      throw LocalRequestFailure(description: "a host name must be resolved first, by resolved(by:on:)")
    }
    let descriptor = creactor_socket(target.family)
    guard descriptor >= 0 else { throw failure(-descriptor) }
    defer { _ = close(descriptor) }
    let connected = target.with { creactor_connect(descriptor, $0, $1) }
    guard connected == 0 || connected == -EINPROGRESS else { throw failure(-connected) }
    let exchange = LocalRequest(descriptor, path)
    defer { exchange.watcher?.stop() }
    guard let result = await exchange.ended.wait(until: deadline, on: clock) else {
      throw LocalRequestFailure(description: "timed out")
    }
    return try parsed(result.get())
  }

  private init(_ descriptor: Int32, _ path: String) {
    self.descriptor = descriptor
    request = Array("GET \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".utf8)
    let watcher = IOWatcher { [weak self] ready in self?.continueIO(ready) }
    self.watcher = watcher
    watcher.watch(descriptor, for: .write)
  }

  private func continueIO(_ ready: IOWatcher.Interest) {
    if ready.contains(.write) { send() } else { receive() }
  }

  /// The request fits into the empty send buffer. If connecting failed, sending reports why.
  private func send() {
    let sent = request.withUnsafeBytes { creactor_send(descriptor, $0.baseAddress, $0.count) }
    guard sent == request.count else { return ended.fire(.failure(Self.failure(sent < 0 ? Int32(-sent) : EIO))) }
    watcher?.watch(descriptor, for: .read)
  }

  private func receive() {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = creactor_receive(descriptor, &buffer, buffer.count)
    if count == -Int(EAGAIN) { return }
    if count > 0 { answer += buffer[..<count] }
    if count < 0 { return ended.fire(.failure(Self.failure(Int32(-count)))) }
    if count == 0 || answer.count >= Self.answerByteLimit { ended.fire(.success(answer)) }
  }

  /// Parses the status and the body.
  private static func parsed(_ bytes: [UInt8]) throws(LocalRequestFailure) -> Answer {
    let line = Array("HTTP/1.1 ".utf8)
    guard bytes.starts(with: line),
      let status = Int(String(decoding: bytes.dropFirst(line.count).prefix(3), as: UTF8.self))
    else { throw LocalRequestFailure(description: "the listener does not speak HTTP") }
    var end = 0
    while end + 4 <= bytes.count, bytes[end..<(end + 4)] != [13, 10, 13, 10] { end += 1 }
    return Answer(status: status, body: String(decoding: bytes.dropFirst(end + 4), as: UTF8.self))
  }

  private static func failure(_ number: Int32) -> LocalRequestFailure {
    LocalRequestFailure(description: String(cString: strerror(number)))
  }
}

extension ListenAddress {
  /// The address at which this host reaches the listener; nil for a host name.
  fileprivate var loopback: SocketAddress? {
    switch host {
    case .any: SocketAddress(ipv4: [127, 0, 0, 1], port: port)
    case .name: nil
    case .ipv4(let bytes):
      SocketAddress(ipv4: bytes == [0, 0, 0, 0] ? [127, 0, 0, 1] : bytes, port: port)
    case .ipv6(let bytes):
      SocketAddress(ipv6: bytes.contains { $0 != 0 } ? bytes : [UInt8](repeating: 0, count: 15) + [1], port: port)
    }
  }
}
