// Which proxy an environment asks for, by itself.

import Testing

@testable import Reactor

@Suite struct ProxyRulesTests {
  @Test func withoutVariablesThereIsNoProxy() {
    #expect(ProxyRules(environment: [:]).proxy(scheme: "https", host: "example.com") == nil)
    #expect(ProxyRules(environment: ["https_proxy": ""]).proxy(scheme: "https", host: "example.com") == nil)
  }

  @Test func eachSchemeHasItsVariableAndTheRestAllProxy() {
    let rules = ProxyRules(environment: [
      "https_proxy": "http://secure:3128", "http_proxy": "plain:3128", "ALL_PROXY": "socks5h://rest:1080",
    ])
    #expect(rules.proxy(scheme: "https", host: "example.com") == "http://secure:3128")
    #expect(rules.proxy(scheme: "http", host: "example.com") == "http://plain:3128")
    #expect(rules.proxy(scheme: "smtp", host: "example.com") == "socks5h://rest:1080")
  }

  @Test func smallLettersComeBeforeCapitals() {
    let rules = ProxyRules(environment: ["https_proxy": "http://small:1", "HTTPS_PROXY": "http://large:1"])
    #expect(rules.proxy(scheme: "https", host: "example.com") == "http://small:1")
  }

  @Test func theVariableThatAWebServerSetsForItsClientIsIgnored() {
    #expect(ProxyRules(environment: ["HTTP_PROXY": "http://evil:1"]).proxy(scheme: "http", host: "a.test") == nil)
  }

  @Test(arguments: [
    ("example.com", "example.com", true), ("example.com", "www.example.com", true),
    (".example.com", "www.example.com", true), ("example.com", "badexample.com", false),
    ("example.com", "EXAMPLE.com.", true), ("*", "anything.test", true),
    ("a.test, b.test", "b.test", true), ("a.test b.test", "b.test", true), ("a.test,b.test", "c.test", false),
    ("10.0.0.0/8", "10.1.2.3", true), ("10.0.0.0/8", "11.1.2.3", false), ("10.1.2.3", "10.1.2.3", true),
    ("1.2.3", "0.1.2.3", false), ("fd00::/8", "fd12::1", true), ("fd00::/8", "fe00::1", false), ("[::1]", "::1", true),
    ("10.0.0.0/33", "10.1.2.3", false), ("0.0.0.0/0", "10.1.2.3", true), ("10.0.0.0/8", "10.example.com", false),
    (",, ,", "example.com", false),
  ])
  func theListOfExceptionsIsKeptTo(list: String, host: String, isDirect: Bool) {
    let rules = ProxyRules(environment: ["all_proxy": "http://proxy:1", "no_proxy": list])
    #expect((rules.proxy(scheme: "https", host: host) == nil) == isDirect)
  }
}
