// Which proxy an environment asks for, as Go's net/http reads it.

import Testing

@testable import Reactor

@Suite struct ProxyRulesTests {
  private static func proxy(_ environment: [String: String], _ scheme: String, _ host: String, _ port: String = "443")
    -> String?
  {
    ProxyRules(environment: environment).proxy(scheme: scheme, host: host, port: port)
  }

  @Test func withoutVariablesThereIsNoProxy() {
    #expect(Self.proxy([:], "https", "example.com") == nil)
    #expect(Self.proxy(["https_proxy": ""], "https", "example.com") == nil)
  }

  @Test func eachSchemeHasItsVariableAndTheRestAllProxy() {
    let environment = [
      "https_proxy": "http://secure:3128", "http_proxy": "plain:3128", "ALL_PROXY": "socks5h://rest:1080",
    ]
    #expect(Self.proxy(environment, "https", "example.com") == "http://secure:3128")
    #expect(Self.proxy(environment, "http", "example.com", "80") == "http://plain:3128")
    #expect(Self.proxy(environment, "smtp", "example.com", "25") == "socks5h://rest:1080")
  }

  @Test func capitalsComeBeforeSmallLetters() {
    let environment = ["https_proxy": "http://small:1", "HTTPS_PROXY": "http://large:1"]
    #expect(Self.proxy(environment, "https", "example.com") == "http://large:1")
  }

  @Test func theVariableThatAWebServerSetsForItsClientIsIgnoredThere() {
    let environment = ["HTTP_PROXY": "http://proxy:1"]
    #expect(Self.proxy(environment, "http", "a.test", "80") == "http://proxy:1")
    let cgi = environment.merging(["REQUEST_METHOD": "GET"]) { $1 }
    #expect(Self.proxy(cgi, "http", "a.test", "80") == nil)
    #expect(Self.proxy(cgi.merging(["http_proxy": "small:1"]) { $1 }, "http", "a.test", "80") == "http://small:1")
  }

  @Test(arguments: [
    ("localhost", true), ("LOCALHOST", true), ("localhost.", true), ("127.0.0.1", true), ("127.9.9.9", true),
    ("::1", true), ("::ffff:127.0.0.1", true), ("my.localhost", false), ("128.0.0.1", false), ("::2", false),
  ])
  func thisHostIsReachedDirectly(host: String, isDirect: Bool) {
    #expect((Self.proxy(["HTTPS_PROXY": "http://proxy:1"], "https", host) == nil) == isDirect)
  }

  @Test(arguments: [
    ("example.com", "example.com", true), ("example.com", "www.example.com", true),
    (".example.com", "www.example.com", true), (".example.com", "example.com", false),
    ("*.example.com", "www.example.com", true), ("*.example.com", "example.com", false),
    ("example.com", "badexample.com", false), ("example.com", "EXAMPLE.com.", true), ("*", "anything.test", true),
    ("a.test, b.test", "b.test", true), ("a.test b.test", "b.test", true), ("a.test,b.test", "c.test", false),
    ("example.com:443", "example.com", true), ("example.com:8443", "example.com", false),
    (".example.com:443", "www.example.com", true), ("10.0.0.0/8", "10.1.2.3", true), ("10.0.0.0/8", "11.1.2.3", false),
    ("10.1.2.3", "10.1.2.3", true), ("10.1.2.3:443", "10.1.2.3", true), ("10.1.2.3:80", "10.1.2.3", false),
    ("10.1.2.3", "::ffff:10.1.2.3", true), ("1.2.3", "0.1.2.3", false), ("fd00::/8", "fd12::1", true),
    ("fd00::/8", "fe00::1", false), ("[fd00::1]", "fd00::1", true), ("fd00::1", "fd00::1", true),
    ("fd00::1", "FD00:0:0::1", true), ("[fd00::1]:443", "fd00::1", true), ("[fd00::1]:80", "fd00::1", false),
    ("10.0.0.0/33", "10.1.2.3", false), ("0.0.0.0/0", "10.1.2.3", true), ("10.0.0.0/8", "10.example.com", false),
    (",, ,", "example.com", false), (":443", "example.com", false), (".", "example.com", false),
    ("*.", "example.com", false), (":", "example.com", false),
  ])
  func theListOfExceptionsIsKeptTo(list: String, host: String, isDirect: Bool) {
    let environment = ["all_proxy": "http://proxy:1", "no_proxy": list]
    #expect((Self.proxy(environment, "https", host) == nil) == isDirect)
  }
}
