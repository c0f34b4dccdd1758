// One transfer: libcurl's handle for it, and what libcurl reads from and writes to. Invariant: what libcurl was given a
// pointer to lives until the handle is gone. The callbacks only copy bytes. Made and ended by TransferClient.

import CReactor

/// A transfer from its set-up to its result.
@EventLoop
final class Transfer {
  let easy: UnsafeMutableRawPointer
  private let library: TransferLibrary
  private var lists: [UnsafeMutableRawPointer] = []
  private var refusals: Int32 = 0
  /// What is still to be read by libcurl.
  private var upload: ArraySlice<UInt8> = []
  private var body: [UInt8] = []
  private var isBodyCut = false
  /// Waits for the end; taken out when it is told.
  var continuation: CheckedContinuation<TransferAnswer, any Error>?

  init?(_ library: TransferLibrary) {
    guard let easy = library.curl.pointee.easy_init() else { return nil }
    self.easy = easy
    self.library = library
  }

  isolated deinit {
    library.curl.pointee.easy_cleanup(easy)
    for list in lists { library.curl.pointee.slist_free_all(list) }
  }

  /// Whether every option so far was taken.
  var isComplete: Bool { refusals == 0 }

  func set(_ option: creactor_curl_option, _ value: Int) {
    refusals |= creactor_curl_set_long(library.curl, easy, option, value)
  }

  /// libcurl copies the text.
  func set(_ option: creactor_curl_option, _ text: String?) {
    guard let text else {
      refusals |= creactor_curl_set_pointer(library.curl, easy, option, nil)
      return
    }
    refusals |= text.withCString { creactor_curl_set_pointer(library.curl, easy, option, $0) }
  }

  func set(_ option: creactor_curl_option, _ lines: [String]) {
    var list: UnsafeMutableRawPointer?
    for line in lines {
      guard let longer = library.curl.pointee.slist_append(list, line) else {
        refusals |= 1
        break
      }
      list = longer
    }
    guard let list else { return }
    lists.append(list)
    refusals |= creactor_curl_set_pointer(library.curl, easy, option, list)
  }

  /// What is handed over, and where what comes back goes.
  func set(_ content: TransferRequest.Content) {
    let owner = Unmanaged.passUnretained(self).toOpaque()
    switch content {
    case .post(let headers, let body):
      set(CREACTOR_CURLOPT_PROTOCOLS_STR, "http,https")
      // Without the last line libcurl would wait for a "100 Continue" before a long body.
      set(CREACTOR_CURLOPT_HTTPHEADER, headers + ["Expect:"])
      set(CREACTOR_CURLOPT_POST, 1)
      set(CREACTOR_CURLOPT_POSTFIELDSIZE, body.count)
      refusals |= creactor_curl_set_pointer(library.curl, easy, CREACTOR_CURLOPT_COPYPOSTFIELDS, body)
    case .mail(let sender, let recipients, let message, let encryption):
      set(CREACTOR_CURLOPT_PROTOCOLS_STR, "smtp,smtps")
      set(CREACTOR_CURLOPT_MAIL_FROM, "<\(sender)>")
      set(CREACTOR_CURLOPT_MAIL_RCPT, recipients.map { "<\($0)>" })
      set(CREACTOR_CURLOPT_USE_SSL, Int(encryption.level.rawValue))
      set(CREACTOR_CURLOPT_UPLOAD, 1)
      upload = message[...]
      refusals |= creactor_curl_set_pointer(library.curl, easy, CREACTOR_CURLOPT_READDATA, owner)
      refusals |= creactor_curl_set_data_callback(library.curl, easy, CREACTOR_CURLOPT_READFUNCTION) {
        target, size, count, owner in
        let transfer = Unmanaged<Transfer>.fromOpaque(owner!)
        let buffer = UnsafeMutableRawBufferPointer(start: target, count: size * count)
        return EventLoop.assumeIsolated { transfer.takeUnretainedValue().read(into: buffer) }
      }
    }
    refusals |= creactor_curl_set_pointer(library.curl, easy, CREACTOR_CURLOPT_WRITEDATA, owner)
    refusals |= creactor_curl_set_data_callback(library.curl, easy, CREACTOR_CURLOPT_WRITEFUNCTION) {
      bytes, size, count, owner in
      let transfer = Unmanaged<Transfer>.fromOpaque(owner!)
      let buffer = UnsafeRawBufferPointer(start: bytes, count: size * count)
      return EventLoop.assumeIsolated { transfer.takeUnretainedValue().write(buffer) }
    }
  }

  /// Whatever happens, libcurl resolves no name of this transfer: it would start a thread for that.
  func forbidResolving() {
    refusals |= creactor_curl_set_resolver_callback(library.curl, easy) { _, _, _ in 1 }
  }

  private func read(into target: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(target.count, upload.count)
    upload.prefix(count).withUnsafeBytes { target.copyMemory(from: $0) }
    upload.removeFirst(count)
    return count
  }

  /// A count that is not the given one ends the transfer.
  private func write(_ bytes: UnsafeRawBufferPointer) -> Int {
    let room = TransferClient.bodyLimit - body.count
    body.append(contentsOf: bytes.prefix(room))
    isBodyCut = bytes.count > room
    return min(bytes.count, room)
  }

  /// What came of it, by libcurl's code.
  func result(_ code: Int32) -> Result<TransferAnswer, TransferError> {
    let status = creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_RESPONSE_CODE)
    let isCutOnPurpose = isBodyCut && code == creactor_curl_write_error
    // A server may answer before it has read everything and then reset the stream, so that no more is sent (RFC 9113,
    // 8.1). libcurl calls that an error; the answer counts.
    let isAnsweredEarly = status >= 200 && code == creactor_curl_http2_stream
    guard code == creactor_curl_ok || isCutOnPurpose || isAnsweredEarly else {
      if code == creactor_curl_timed_out { return .failure(.timedOut) }
      return .failure(.failed(code: code, reason: library.text(of: code), status: status))
    }
    let seconds = creactor_curl_get_offset(library.curl, easy, CREACTOR_CURLINFO_RETRY_AFTER)
    return .success(
      TransferAnswer(
        status: status, retryAfter: seconds > 0 ? .seconds(seconds) : nil, body: body,
        isHTTP2: creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_HTTP_VERSION) == 3,
        connections: creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_NUM_CONNECTS)))
  }
}

extension TransferRequest.MailEncryption {
  fileprivate var level: creactor_curl_use_ssl {
    switch self {
    case .required: CREACTOR_CURLUSESSL_ALL
    case .preferred: CREACTOR_CURLUSESSL_TRY
    case .never: CREACTOR_CURLUSESSL_NONE
    }
  }
}
