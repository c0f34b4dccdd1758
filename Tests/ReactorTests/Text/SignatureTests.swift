// HMAC-SHA-256 against RFC 4231, base64 against RFC 4648.

import Testing

@testable import Reactor

@Suite struct SignatureTests {
  private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }

  @Test func theSignaturesOfRFC4231() {
    #expect(
      hex(HMACSHA256.signature(of: Array("Hi There".utf8), key: [UInt8](repeating: 0x0b, count: 20)))
        == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
    #expect(
      hex(HMACSHA256.signature(of: Array("what do ya want for nothing?".utf8), key: Array("Jefe".utf8)))
        == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
  }

  @Test(arguments: ["": "", "f": "Zg==", "fo": "Zm8=", "foo": "Zm9v", "foob": "Zm9vYg==", "foobar": "Zm9vYmFy"])
  func base64ThereAndBack(plain: String, encoded: String) {
    #expect(Base64.text(Array(plain.utf8)) == encoded)
    #expect(Base64.bytes(encoded) == Array(plain.utf8))
  }

  @Test(arguments: ["Zg", "Zg=", "Z===", "====", "Zm9v=", "Zm 9", " Zm9v", "Zm9v\n", "Zm9%", "Zg==Zg==", "Zmö="])
  func whatIsNoBase64IsRefused(text: String) {
    #expect(Base64.bytes(text) == nil)
  }
}
