// Which webhook URLs a boot accepts.

import Testing

@testable import Worker

@Suite struct WebURLTests {
  @Test(arguments: [
    "http://host", "https://host/", "HTTPS://Host.example:8443/path?query#fragment", "http://127.0.0.1:80/x",
    "http://[::1]:9000/", "https://user:pass@host/path", "http://host?x",
    "http://host:65535",
    "https://a@b@host/", "http://größe.example/",
  ]) func aURLThatCanBeRequestedIsAccepted(url: String) {
    #expect(WebURL.expectation(url) == nil)
  }

  @Test(arguments: [
    ("https://a@b@host/x@y?z@", "https://a%40b@host/x@y?z@"), ("https://a:p@p@host", "https://a:p%40p@host"),
    ("smtp://me@example.com:p@ss@host:587/name", "smtp://me%40example.com:p%40ss@host:587/name"),
    ("https://a%40b@host/", "https://a%40b@host/"), ("https://host/@", "https://host/@"),
    ("https://host", "https://host"),
    ("https://", "https://"), ("", ""), ("a:", "a:"), ("@:@", "@:@"),
  ]) func anAtSignOfTheUserIsEncoded(url: String, normal: String) {
    #expect(WebURL.normal(url) == normal)
  }

  @Test(arguments: [
    ("smtp://host", false), ("smtp://host/", false), ("smtp://host/name", true),
    ("smtp://u:p@host:25/[192.0.2.1]", true),
  ]) func whatStandsBehindTheHostIsAPath(url: String, hasPath: Bool) {
    #expect(WebURL.hasPath(url) == hasPath)
  }

  @Test(arguments: [
    "", "host", "ftp://host/", "file:///etc/passwd", "http:/host", "http://", "https:///path", "http://:80/",
    "http://?x",
    "http://host:0", "http://host:65536", "http://host:", "http://host:80a", "http://host:123456", "http://ho st/",
    "http://host/\n", "http://[::1", "http://[::1]x/", "http://[]/", "http://[host]/", "http://user@/", "javascript:1",
    "http://{host}/", " http://host", "\u{1A}http://host", "httpx://host", "http\u{1A}//host",
  ]) func anythingElseIsRefusedInWordsThatDoNotRepeatIt(url: String) {
    let expectation = WebURL.expectation(url)
    #expect(expectation != nil)
    if url.utf8.count > 8 { #expect(expectation?.contains(url) == false) }
  }
}
