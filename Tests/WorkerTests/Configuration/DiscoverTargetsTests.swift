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
      #expect(fault.hasPrefix("SB_DISCOVER_TARGETS_JSON: expected "))
      return String(fault.dropFirst("SB_DISCOVER_TARGETS_JSON: expected ".count))
    }
  }

  @Test func unsetEmptyAndAnEmptyArrayAreNoTargets() throws {
    for text in ["", "[]", " [ ] "] { #expect(try Self.load(text).targets.targets.isEmpty) }
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
    #expect(warnings.isEmpty)
  }

  @Test func everyMissingOrWrongFieldIsNamedWithItsIndex() {
    #expect(
      Self.faults(
        #"[\#(Self.good), {"cluster": "", "provider_type": 7, "provider_config": [], "scope": "x"}, 1, null]"#)
        == [
          "[1].name to be a string that is not empty", "[1].cluster to be a string that is not empty",
          "[1].provider_type to be a string that is not empty", "[1].provider_config to be an object, or absent",
          "[1].scope to be an object, or absent", "[2] to be an object", "[3] to be an object",
        ])
    for field in ["name", "cluster", "provider_type"] {
      for value in ["null", "[]", "{}", "true", "1.5", #""""#] {
        let text = Self.good.dropLast() + "}"
        let changed = text.replacing("\"\(field)\": ", with: "\"\(field)\": \(value), \"x-\(field)\": ")
        #expect(Self.faults("[\(changed)]") == ["[0].\(field) to be a string that is not empty"])
      }
    }
  }

  @Test func twoTargetsOfOneNameAreRefusedByBothIndexes() {
    let other = Self.good.replacing("\"a\"", with: "\"b\"")
    #expect(
      Self.faults("[\(other), \(Self.good), \(Self.good), \(Self.good)]") == [
        "[2].name to be another one than [1].name", "[3].name to be another one than [1].name",
      ])
  }

  @Test(arguments: ["{", "[1,]", "nonsense", "[\"\u{1}\"]", "[] []", "[NaN]", "[1e999]", #"[{"a":1,"a":2}]"#])
  func whatIsNoJSONIsRefusedWithItsPlace(text: String) {
    let faults = Self.faults(text)
    #expect(faults.count == 1)
    #expect(faults[0].hasPrefix("a JSON array of targets, but: "))
    #expect(faults[0].contains(" at line 1, column "))
  }

  @Test(arguments: ["{}", "\"a\"", "1", "null", "true"]) func anythingButAnArrayIsRefused(text: String) {
    #expect(Self.faults(text) == ["a JSON array of targets, not another kind of value"])
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
    #expect(Self.faults("[\(targets.joined(separator: ","))]") == ["at most 1000 targets"])
    #expect(try Self.load("[\(targets.dropLast().joined(separator: ","))]").targets.targets.count == 1_000)
  }

  @Test func noNestingCrashesTheCheck() {
    for depth in [100, 2_000, 50_000] {
      _ = Self.faults(String(repeating: "[", count: depth) + String(repeating: "]", count: depth))
    }
    #expect(Self.faults(String(repeating: "[", count: 50_000)).count == 1)
  }
}
