// A server that receives notifications, with certificates of its own authority: Tests/Endpoints/endpoint.py as a
// process. Invariant: it never outlives the test process, and what it received can be read however it ended.

import Foundation
import Synchronization

/// What an endpoint received.
public struct Received: Sendable {
  /// The JSON object that the endpoint wrote.
  public let json: String
  private var fields: [String: Any] {
    (try? JSONSerialization.jsonObject(with: Data(json.utf8))) as? [String: Any] ?? [:]
  }
  /// A string field: "path", "body", "answer"; for mail "sender" and "data".
  public subscript(field: String) -> String? { fields[field] as? String }
  /// A request header, by its lower-case name.
  public func header(_ name: String) -> String? { (fields["headers"] as? [String: String])?[name] }
  public var recipients: [String] { fields["recipients"] as? [String] ?? [] }
  public var isEncrypted: Bool { fields["encrypted"] as? Bool ?? false }
  /// The client's port, which is the same for all requests on a connection.
  public var peer: Int { fields["peer"] as? Int ?? 0 }
  /// When it arrived, in seconds since 1970.
  public var at: Double { fields["at"] as? Double ?? 0 }
}

/// A running endpoint on 127.0.0.1.
public final class Endpoint: Sendable {
  public enum Kind: String, Sendable {
    case https, http, smtp, smtps, proxy
    /// The same on ::1.
    case https6
  }

  /// What is wrong with its certificate.
  public enum Certificate: String, Sendable {
    /// Nothing: it is valid for localhost, 127.0.0.1, and proxied.test, a name that only the proxy endpoint knows.
    case good
    /// It is for another host.
    case otherHost = "other-host"
    case expired
    /// The endpoint has none: a mail server without STARTTLS.
    case none
  }

  public let kind: Kind
  public let port: UInt16
  private let directory: URL
  private let process: WorkerProcess

  /// Starts an endpoint and waits until it listens.
  public static func start(_ kind: Kind, certificate: Certificate = .good) async throws -> Endpoint {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("endpoint-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    if certificate != .none {
      let authority = try await TestAuthority.shared()
      for name in ["certificate.pem", "key.pem"] {
        try FileManager.default.copyItem(
          at: authority.directory.appendingPathComponent("\(certificate.rawValue)-\(name)"),
          to: directory.appendingPathComponent(name))
      }
    }
    let behaviour = kind == .smtp || kind == .smtps ? "accept" : "status 200"
    try behaviour.write(to: directory.appendingPathComponent("behaviour"), atomically: true, encoding: .utf8)
    let script = Repository.root.appendingPathComponent("Tests/Endpoints/endpoint.py").path
    // A proxy is an HTTP server that receives CONNECT.
    let mode = kind == .proxy ? Kind.http : kind
    let process = try await WorkerProcess.start(
      [script, mode.rawValue, directory.path], environment: [:], executable: "/usr/bin/python3")
    let file = directory.appendingPathComponent("port")
    let deadline = ContinuousClock.now.advanced(by: .seconds(20))
    while ContinuousClock.now < deadline {
      if let text = try? String(contentsOf: file, encoding: .utf8), let port = UInt16(text) {
        return Endpoint(kind, port, directory, process)
      }
      if process.ending != nil { break }
      await offLoop { _ = usleep(5_000) }
    }
    throw NeverHappened(description: "the endpoint did not start: \(process.everything)")
  }

  private init(_ kind: Kind, _ port: UInt16, _ directory: URL, _ process: WorkerProcess) {
    self.kind = kind
    self.port = port
    self.directory = directory
    self.process = process
  }

  deinit {
    // A leftover directory does not fail the test.
    try? FileManager.default.removeItem(at: directory)
  }

  /// Its URL by host name, so that the name must be resolved.
  public func url(_ path: String = "", host: String = "localhost", user: String = "") -> String {
    let scheme = kind == .proxy ? "http" : kind == .https6 ? "https" : kind.rawValue
    return "\(scheme)://\(user)\(host):\(port)\(path)"
  }

  /// Sets its answers from now on: each line once, the last one repeatedly.
  public func behave(_ lines: String...) throws {
    let text = lines.joined(separator: "\n")
    try text.write(to: directory.appendingPathComponent("behaviour"), atomically: true, encoding: .utf8)
  }

  /// Everything received so far.
  public var received: [Received] {
    let content = FileManager.default.contents(atPath: directory.appendingPathComponent("received").path)
    let lines = String(decoding: content ?? Data(), as: UTF8.self).split(separator: "\n")
    return lines.map { Received(json: String($0)) }
  }

  /// Everything received so far as one text, to search for planted secrets.
  public var everything: String { received.map(\.json).joined(separator: "\n") }

  /// Freezes or continues it.
  public func signal(_ number: Int32) { process.signal(number) }

  /// Ends it; what it received can still be read.
  public func stop() async throws { try await process.stop() }
}

/// The tests' certificate authority, created once per test process.
public struct TestAuthority: Sendable {
  let directory: URL
  /// Its own certificate, for SB_WORKER_NOTIFY_CA_FILE.
  public var certificateFile: String { path("authority.pem") }
  /// The certificate of another authority, which signed nothing.
  public var strangersFile: String { path("stranger.pem") }

  /// The path of one of its files: "good-certificate.pem" and "good-key.pem" are for a server at localhost.
  public func path(_ name: String) -> String { directory.appendingPathComponent(name).path }

  /// A server's certificate and its key, as files.
  public func files(of certificate: Endpoint.Certificate) -> (certificate: String, key: String) {
    func path(_ name: String) -> String {
      directory.appendingPathComponent("\(certificate.rawValue)-\(name).pem").path
    }
    return (path("certificate"), path("key"))
  }

  private static let made = Mutex<TestAuthority?>(nil)

  public static func shared() async throws -> TestAuthority {
    try await offLoop {
      try made.withLock { made in
        if let made { return made }
        let authority = try make()
        made = authority
        return authority
      }
    }
  }

  private static func make() throws -> TestAuthority {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("authority-\(getpid())")
    // A directory left by an earlier process with the same id is useless: nothing trusts its key.
    if FileManager.default.fileExists(atPath: directory.path) { try FileManager.default.removeItem(at: directory) }
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    let script = """
      set -eu
      key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
      openssl req -x509 $key -keyout authority.key -out authority.pem -subj '/CN=Authority of the tests' -days 2
      openssl req -x509 $key -keyout stranger.key -out stranger.pem -subj '/CN=Another authority' -days 2
      leaf() {
        openssl req $key -keyout "$1-key.pem" -out request.pem -subj "/CN=$1"
        printf 'subjectAltName=%s\\n' "$2" >extensions
        openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial -days "$3" \\
          -extfile extensions -out "$1-certificate.pem"
      }
      leaf good DNS:localhost,DNS:proxied.test,IP:127.0.0.1,IP:::1 2
      leaf other-host DNS:elsewhere.test 2
      # OpenSSL 3.5 makes none that ends before it begins: this one ends with the second in which it is made.
      leaf expired DNS:localhost,IP:127.0.0.1 0
      made=$(date +%s)
      until [ "$(date +%s)" -gt "$made" ]; do sleep 0.05; done
      """
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = ["-c", script]
    process.currentDirectoryURL = directory
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard FileManager.default.fileExists(atPath: directory.appendingPathComponent("expired-certificate.pem").path)
    else { throw NeverHappened(description: "openssl made no certificates: \(said)") }
    atexit { TestAuthority.remove() }
    return TestAuthority(directory: directory)
  }

  private static func remove() {
    made.withLock { made in
      guard let directory = made?.directory else { return }
      // The process is exiting, so an error cannot be reported.
      try? FileManager.default.removeItem(at: directory)
    }
  }
}
