// The windows of a sweep with linked rows, in isolation, over random tables.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct LinkedWindowsTests {
  private enum Fate: CaseIterable {
    case changes, locked, refused, kept
  }

  private struct Row {
    let key: Int64
    let size: Int
    let fate: Fate
    var isDue = true
    var met = 0
  }

  /// Sweeps rows in the order of their keys, and returns them as they are then.
  private static func run(_ before: [Row], goal: Duration?, _ random: inout SeededRandom) -> (rows: [Row], left: Int) {
    var rows = before
    var windows = LinkedWindows(goal: goal)
    var (left, steps) = (0, 0)
    while !windows.isDone, steps < 20_000 {
      steps += 1
      let ahead = rows.indices.filter { rows[$0].isDue && rows[$0].key >= windows.from ?? .min }
        .dropFirst(windows.passedOver)
      var size = 0
      let window = ahead.prefix(windows.limit).enumerated().prefix { number, place in
        size += 1 + rows[place].size
        return number == 0 || size <= windows.limit
      }.map(\.element)
      for place in window { rows[place].met += 1 }
      if window.contains(where: { rows[$0].fate == .locked }), windows.stayedLocked() { continue }
      if window.contains(where: { rows[$0].fate == .refused }) {
        if windows.shrink() { continue }
        windows.giveUp(window.first.map { rows[$0].key })
        left += 1
        continue
      }
      let changed = window.filter { rows[$0].fate == .changes }
      for place in changed { rows[place].isDue = false }
      let last = window.last.map { rows[$0].key }
      let answer = LinkedWindows.Answer(
        due: window.count, changed: changed.count, lastKey: last,
        dueAtLastKey: window.count { rows[$0].key == last && rows[$0].isDue })
      left += windows.swept(answer, in: .milliseconds(Int.random(in: 1...200, using: &random))) ?? 0
    }
    #expect(windows.isDone)
    return (rows, left)
  }

  @Test(arguments: [nil, Duration.milliseconds(25)])
  func everyRowThatCanChangeDoesAndEachOtherOneIsCountedOnce(goal: Duration?) {
    for seed in UInt64(0)..<200 {
      var random = SeededRandom(seed: seed)
      let keys = Int64([1, 3, 1_000_000].randomElement(using: &random)!)
      let stuck = [0, 2, 50].randomElement(using: &random)!
      let rows = (0..<[0, 1, 10, 700].randomElement(using: &random)!).map { _ in
        Row(
          key: Int64.random(in: 0..<keys, using: &random), size: [0, 1, 3, 1_000].randomElement(using: &random)!,
          fate: Int.random(in: 0..<100, using: &random) < stuck
            ? Fate.allCases.randomElement(using: &random)! : .changes)
      }.sorted { $0.key < $1.key }
      let after = Self.run(rows, goal: goal, &random)
      #expect(after.rows.allSatisfy { $0.isDue == ($0.fate != .changes) }, "seed \(seed)")
      #expect(after.left == rows.count { $0.fate != .changes }, "seed \(seed)")
    }
  }

  @Test func aWindowTakesAboutItsGoal() {
    var windows = LinkedWindows(goal: .milliseconds(25))
    let answer = LinkedWindows.Answer(due: 100, changed: 100, lastKey: 1, dueAtLastKey: 0)
    _ = windows.swept(answer, in: .milliseconds(50))
    #expect(windows.limit == LinkedWindows.initialLimit / 2)
    _ = windows.swept(answer, in: .milliseconds(1))
    #expect(windows.limit == LinkedWindows.initialLimit * 2)
    for _ in 0..<10 { _ = windows.swept(answer, in: .milliseconds(1)) }
    #expect(windows.limit == LinkedWindows.limits.upperBound)
    for _ in 0..<10 { _ = windows.swept(answer, in: .seconds(1)) }
    #expect(windows.limit == LinkedWindows.limits.lowerBound)
  }
}
