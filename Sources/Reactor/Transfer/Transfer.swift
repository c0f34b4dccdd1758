// One transfer: its libcurl handle, and the data that libcurl reads and writes. Invariant: whatever libcurl has a
// pointer to lives as long as the handle. Callbacks only copy bytes. Made and ended by TransferClient.

import CReactor

/// A transfer, from set-up to result.
@EventLoop
final class Transfer {
  let easy: UnsafeMutableRawPointer
  private let library: TransferLibrary
  private var lists: [UnsafeMutableRawPointer] = []
  private var refusals: Int32 = 0
  /// The target of a redirect as a whole URL, set when the transfer has ended.
  private(set) var redirectTarget: String?
  /// The bytes that libcurl has not read yet.
  private var upload: ArraySlice<UInt8> = []
  private var body: [UInt8] = []
  private var isBodyCut = false
  private var mailReplies = MailReplies()
  private var recipients: [String] = []
  /// The login mechanisms that are tried, for people.
  private var mechanisms = ""
  /// Fires once, at the end.
  let ended = OneShot<Result<TransferAnswer, any Error>>()

  init?(_ library: TransferLibrary) {
    guard let easy = library.curl.pointee.easy_init() else { return nil }
    self.easy = easy
    self.library = library
  }

  isolated deinit {
    library.curl.pointee.easy_cleanup(easy)
    for list in lists { library.curl.pointee.slist_free_all(list) }
  }

  /// Whether libcurl accepted every option so far.
  var isComplete: Bool { refusals == 0 }

  func set(_ option: creactor_curl_option, _ value: Int) {
    refusals |= creactor_curl_set_long(library.curl, easy, option, value)
  }

  /// libcurl copies the string.
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

  /// Sets what is sent, and where the response goes.
  func set(_ content: TransferRequest.Content) {
    switch content {
    case .post(let headers, let body):
      set(CREACTOR_CURLOPT_PROTOCOLS_STR, "http,https")
      // Without the last line libcurl would wait for "100 Continue" before a long body.
      set(CREACTOR_CURLOPT_HTTPHEADER, headers + ["Expect:"])
      set(CREACTOR_CURLOPT_POST, 1)
      set(CREACTOR_CURLOPT_POSTFIELDSIZE, body.count)
      refusals |= creactor_curl_set_pointer(library.curl, easy, CREACTOR_CURLOPT_COPYPOSTFIELDS, body)
    case .mail(let sender, let recipients, let message, let encryption, _):
      self.recipients = recipients
      upload = message[...]
      set(CREACTOR_CURLOPT_PROTOCOLS_STR, "smtp,smtps")
      set(CREACTOR_CURLOPT_MAIL_FROM, "<\(sender)>")
      set(CREACTOR_CURLOPT_MAIL_RCPT, recipients.map { "<\($0)>" })
      // A refused recipient does not stop the mail to the others.
      set(CREACTOR_CURLOPT_MAIL_RCPT_ALLLOWFAILS, 1)
      set(CREACTOR_CURLOPT_USE_SSL, Int(encryption.level.rawValue))
      set(CREACTOR_CURLOPT_UPLOAD, 1)
      set(CREACTOR_CURLOPT_READDATA, CREACTOR_CURLOPT_READFUNCTION) { bytes, size, count, owner in
        let transfer = Unmanaged<Transfer>.fromOpaque(owner!)
        let buffer = UnsafeMutableRawBufferPointer(start: bytes, count: size * count)
        return EventLoop.assumeIsolated { transfer.takeUnretainedValue().read(into: buffer) }
      }
      set(CREACTOR_CURLOPT_HEADERDATA, CREACTOR_CURLOPT_HEADERFUNCTION) { bytes, size, count, owner in
        let transfer = Unmanaged<Transfer>.fromOpaque(owner!)
        let line = UnsafeRawBufferPointer(start: bytes, count: size * count)
        EventLoop.assumeIsolated { transfer.takeUnretainedValue().mailReplies.add(line) }
        return size * count
      }
    }
    set(CREACTOR_CURLOPT_WRITEDATA, CREACTOR_CURLOPT_WRITEFUNCTION) { bytes, size, count, owner in
      let transfer = Unmanaged<Transfer>.fromOpaque(owner!)
      let buffer = UnsafeRawBufferPointer(start: bytes, count: size * count)
      return EventLoop.assumeIsolated { transfer.takeUnretainedValue().write(buffer) }
    }
  }

  /// Sets a callback whose owner is this transfer.
  private func set(
    _ data: creactor_curl_option, _ function: creactor_curl_option,
    _ callback: @escaping creactor_curl_data_callback
  ) {
    let owner = Unmanaged.passUnretained(self).toOpaque()
    refusals |= creactor_curl_set_pointer(library.curl, easy, data, owner)
    refusals |= creactor_curl_set_data_callback(library.curl, easy, function, callback)
  }

  /// Selects the login mechanism for a mail server if the URL has a user. By default libcurl prefers Kerberos if the
  /// server offers it, and gives up without a ticket.
  func setLogin(of address: TransferLibrary.Address) {
    guard address.hasUser else { return }
    if let options = address.options {
      mechanisms = options
    } else {
      mechanisms = "AUTH=PLAIN or AUTH=LOGIN"
      set(CREACTOR_CURLOPT_LOGIN_OPTIONS, "AUTH=PLAIN;AUTH=LOGIN")
    }
  }

  /// Keeps libcurl from resolving any name of this transfer, for which it would start a thread.
  func forbidResolving() {
    refusals |= creactor_curl_set_resolver_callback(library.curl, easy) { _, _, _ in 1 }
  }

  private func read(into target: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(target.count, upload.count)
    upload.prefix(count).withUnsafeBytes { target.copyMemory(from: $0) }
    upload.removeFirst(count)
    return count
  }

  /// Returning another count than was given ends the transfer.
  private func write(_ bytes: UnsafeRawBufferPointer) -> Int {
    let room = TransferClient.bodyLimit - body.count
    body.append(contentsOf: bytes.prefix(room))
    isBodyCut = bytes.count > room
    return min(bytes.count, room)
  }

  /// The result, from libcurl's code.
  func result(_ code: Int32) -> Result<TransferAnswer, TransferError> {
    let status = creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_RESPONSE_CODE)
    let isCutOnPurpose = isBodyCut && code == creactor_curl_write_error
    // A server may answer before it has read everything and then reset the stream (RFC 9113, 8.1). libcurl reports an
    // error, but the answer counts.
    let isAnsweredEarly = status >= 200 && code == creactor_curl_http2_stream
    // The status is the answer: a body that does not end by the deadline is cut off.
    let isCutByTime = recipients.isEmpty && status >= 200 && code == creactor_curl_timed_out
    guard code == creactor_curl_ok || isCutOnPurpose || isAnsweredEarly || isCutByTime else {
      return .failure(failure(code, status: status))
    }
    let seconds = creactor_curl_get_offset(library.curl, easy, CREACTOR_CURLINFO_RETRY_AFTER)
    redirectTarget = creactor_curl_get_text(library.curl, easy, CREACTOR_CURLINFO_REDIRECT_URL).map {
      String(cString: $0)
    }
    var answer = TransferAnswer(
      status: status, retryAfter: seconds > 0 ? .seconds(seconds) : nil, body: body,
      isHTTP2: creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_HTTP_VERSION) == 3,
      connections: creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_NUM_CONNECTS))
    for (address, reply) in zip(recipients, mailReplies.progress(isNew: answer.connections > 0).recipients)
    where reply.isRefusal {
      answer.refusedRecipients.append(RefusedRecipient(address: address, reply: reply))
    }
    return .success(answer)
  }

  private func failure(_ code: Int32, status: Int) -> TransferError {
    if code == creactor_curl_timed_out { return .timedOut }
    if !recipients.isEmpty, let error = mailFailure(code) { return error }
    var reason = library.text(of: code)
    if code == creactor_curl_peer_not_verified {
      let verifyResult = creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_SSL_VERIFYRESULT)
      // libcurl leaves the result at "unspecified" if OpenSSL accepted the certificate and the host name did not match.
      let isOtherHost = verifyResult == Int(X509_V_ERR_UNSPECIFIED) || verifyResult == Int(X509_V_OK)
      reason =
        (isOtherHost ? nil : CertificateRefusal.reason(of: verifyResult)) ?? "certificate refused: it is another host's"
    }
    return .failed(code: code, reason: reason, status: status)
  }

  /// What the mail server refused; nil if the failure was another.
  private func mailFailure(_ code: Int32) -> TransferError? {
    if code == creactor_curl_login_denied, mailReplies.replies.last?.isRefusal != true {
      return .noCommonLogin(tried: mechanisms)
    }
    let connections = creactor_curl_get_long(library.curl, easy, CREACTOR_CURLINFO_NUM_CONNECTS)
    guard let reply = mailReplies.replies.last, reply.isRefusal else { return nil }
    switch Int(code) {
    case creactor_curl_login_denied: return .mailRefused(at: .login, reply)
    case creactor_curl_access_denied: return .mailRefused(at: .hello, reply)
    case creactor_curl_send_error, creactor_curl_weird_reply:
      let (step, recipients) = mailReplies.progress(isNew: connections > 0)
      // A recipient that may be accepted later is worth a retry.
      let passing = recipients.first { $0.isRefusal && $0.status < 500 }
      return .mailRefused(at: step, passing ?? reply)
    default: return nil
    }
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
