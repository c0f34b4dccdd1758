// Which discover targets a boot accepts, and that faults name index and field.

import Testing

@testable import Worker

@Suite struct DiscoverTargetsTests {
  private static let good = #"{"name": "a", "cluster": "c", "provider_type": "vault", "provider_config": {}}"#

  private static func load(_ text: String) throws -> (targets: DiscoverTargets, warnings: [ConfigurationWarning]) {
    let (settings, warnings) = try SettingsTests.load(["SB_DISCOVER_TARGETS_JSON": text])
    return (settings[.discoverTargets], warnings)
  }

  private static func faults(_ text: String) -> [String] {
    SettingsTests.faults(["SB_DISCOVER_TARGETS_JSON": text]).map { fault in
      #expect(fault.hasPrefix("SB_DISCOVER_TARGETS_JSON "))
      return String(fault.dropFirst("SB_DISCOVER_TARGETS_JSON ".count))
    }
  }

  @Test func unsetEmptyAndAnEmptyArrayAreNoTargets() throws {
    for text in ["", "[]", " [ ] ", "null", "\nnull "] { #expect(try Self.load(text).targets.targets.isEmpty) }
    #expect(try SettingsTests.load([:]).settings[.discoverTargets] == DiscoverTargets())
  }

  @Test func targetsAreReadInOrderAndTheDocumentIsKeptAsItWas() throws {
    let text = """
      [ {"scope": {"big": 12345678901234567890, "small": 0.1, "nested": [{"ü": "\\u00fc😀"}]}, "name": "a",
         "cluster": "c1", "provider_type": "vault", "provider_config": {"path": "x"}},
        {"name": "b", "cluster": "c2", "provider_type": "aws-sm"} ]
      """
    let (targets, warnings) = try Self.load(text)
    #expect(targets.document == text)
    #expect(
      targets.targets == [
        DiscoverTarget(name: "a", cluster: "c1", providerType: "vault"),
        DiscoverTarget(name: "b", cluster: "c2", providerType: "aws-sm"),
      ])
    #expect(
      warnings.map(\.text) == ["[0].scope is an object: agents expect a string, and reject the target's jobs"])
  }

  @Test func everyMissingOrWrongFieldIsNamedWithItsIndex() {
    #expect(
      Self.faults(
        #"[\#(Self.good), {"cluster": "", "provider_type": 7, "provider_config": [], "scope": 7}, 1, null]"#)
        == [
          "is invalid: [1].name must be a string that is not empty",
          "is invalid: [1].cluster must be a string that is not empty",
          "is invalid: [1].provider_type must be a string that is not empty",
          "is invalid: [1].provider_config must be an object, null or absent",
          "is invalid: [1].scope must be an object, null or absent", "is invalid: [2] must be an object",
          "is invalid: [3] must be an object",
        ])
    for field in ["name", "cluster", "provider_type"] {
      for value in ["null", "[]", "{}", "true", "1.5", #""""#] {
        let text = Self.good.dropLast() + "}"
        let changed = text.replacing("\"\(field)\": ", with: "\"\(field)\": \(value), \"x-\(field)\": ")
        #expect(Self.faults("[\(changed)]") == ["is invalid: [0].\(field) must be a string that is not empty"])
      }
    }
  }

  @Test func targetsWithOneNameAreDistinguishedWithAWarning() throws {
    let other = Self.good.replacing("\"a\"", with: "\"b\"")
    let (targets, warnings) = try Self.load("[\(other), \(Self.good), \(Self.good), \(Self.good)]")
    #expect(targets.targets.map(\.occurrence) == [0, 0, 1, 2])
    #expect(Set(targets.targets.map(\.identity)).count == 4)
    #expect(warnings.map { $0.text.prefix(3) } == ["[2]", "[3]"])
  }

  @Test func nullIsTakenForAConfigAndAScopeAndAScopeMayBeAString() throws {
    let text = """
      [{"name":"a","cluster":"c","provider_type":"v","provider_config":null,"scope":null},
       {"name":"b","cluster":"c","provider_type":"v","scope":"team/a"}]
      """
    let (targets, warnings) = try Self.load(text)
    #expect(targets.targets.count == 2 && targets.document == text && warnings.isEmpty)
  }

  /// As Go's encoding/json reads it: keys in any case, the last of several counts, null leaves a string as it was.
  @Test func keysAreReadAsGoReadsThem() throws {
    let text = """
      [{"NAME": "first", "name": null, "Cluster":"c\\u0031", "PROVIDER_TYPE" : "v", "provider_Config": {"n": 1.50e2},
        "cluster": "c2", "\\u0073cope": {"x": [ "]}", {"y": "\\\\"} ]}, "\u{17F}COPE": {"big": 12345678901234567890}}]
      """
    let (targets, warnings) = try Self.load(text)
    #expect(targets.targets == [DiscoverTarget(name: "first", cluster: "c2", providerType: "v")])
    #expect(
      targets.document == """
        [{"name":"first","cluster":"c2","provider_type":"v","provider_config":{"n": 1.50e2},\
        "scope":{"big": 12345678901234567890}}]
        """)
    #expect(warnings.count == 9)
    #expect(warnings.contains { $0.text == "[0].Cluster is taken for cluster" })
    #expect(warnings.contains { $0.text == "[0].scope is given more than once: the last one counts" })
  }

  @Test func manyWarningsOfATargetsDocumentAreCutShort() throws {
    let targets = (0..<100).map { #"{"name":"\#($0)","CLUSTER":"c","provider_type":"v"}"# }
    let warnings = try Self.load("[\(targets.joined(separator: ","))]").warnings
    #expect(warnings.count == 21 && warnings.last?.text == "and 80 more of this kind")
  }

  @Test(arguments: ["{", "[1,]", "nonsense", "[\"\u{1}\"]", "[] []", "[NaN]", "[1e999]", "nul"])
  func whatIsNoJSONIsRefusedWithItsPlace(text: String) {
    let faults = Self.faults(text)
    #expect(faults.count == 1)
    #expect(faults[0].hasPrefix("must be a JSON array of targets, but: "))
    #expect(faults[0].contains(" at line 1, column "))
  }

  @Test(arguments: ["{}", "1", "true"]) func anythingButAnArrayIsRefused(text: String) {
    #expect(Self.faults(text) == ["must be a JSON array of targets"])
  }

  @Test func theCharacterNULIsRefusedAnywhere() {
    for text in [
      Self.good.replacing("\"a\"", with: #""a\u0000""#), Self.good.replacing("{}", with: #"{"x": "\u0000"}"#),
      Self.good.replacing("{}", with: #"{"\u0000": 1}"#),
    ] {
      #expect(Self.faults("[\(text)]").first?.contains("NUL") == true)
    }
  }

  @Test func anUnknownFieldIsAWarningWithTheNearestName() throws {
    let text = Self.good.replacing("{}}", with: #"{}, "scop": {}, "zzzzzzzzzz": 1}"#)
    #expect(
      try Self.load("[\(text)]").warnings == [
        ConfigurationWarning(
          variable: "SB_DISCOVER_TARGETS_JSON",
          text: "[0] has an unknown field \"scop\", which is ignored. Did you mean \"scope\"?"),
        ConfigurationWarning(
          variable: "SB_DISCOVER_TARGETS_JSON", text: "[0] has an unknown field \"zzzzzzzzzz\", which is ignored"),
      ])
  }

  @Test func moreTargetsThanTheBoundAreRefused() throws {
    let targets = (0...DiscoverTargets.countLimit).map {
      #"{"name":"\#($0)","cluster":"c","provider_type":"v"}"#
    }
    #expect(Self.faults("[\(targets.joined(separator: ","))]") == ["must be at most 3000 targets"])
    #expect(try Self.load("[\(targets.dropLast().joined(separator: ","))]").targets.targets.count == 3_000)
  }

  @Test func noNestingCrashesTheCheck() {
    for depth in [100, 2_000, 50_000] {
      _ = Self.faults(String(repeating: "[", count: depth) + String(repeating: "]", count: depth))
    }
    #expect(Self.faults(String(repeating: "[", count: 50_000)).count == 1)
  }
}
