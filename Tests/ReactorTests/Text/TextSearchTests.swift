// Finding and replacing text, byte by byte.

import Testing

@testable import Reactor

@Suite struct TextSearchTests {
  @Test(arguments: [
    ("abcabd", "abd", 3), ("abc", "abc", 0), ("abc", "abcd", nil), ("", "a", nil), ("abc", "", nil), ("aab", "ab", 1),
  ])
  func `a text is found where it first occurs`(text: String, sought: String, index: Int?) {
    #expect(Array(text.utf8).firstIndex(ofText: sought) == index)
  }

  @Test func `only the first occurrence is replaced`() {
    #expect("a-b-c".replacingFirst("-", with: "++") == "a++b-c")
    #expect("abc".replacingFirst("x", with: "y") == "abc")
  }
}
