// One run's route in isolation, through random tables: what it must have read when it ends.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SweepRouteTests {
  /// A table as the route sees it.
  private struct Table {
    struct Row {
      var page: Int
      var key: Int
      /// Whether its key is below the cutoff, so that the index finds it.
      var isReached: Bool
      var isDue: Bool
      var isInIndex: Bool
      /// Whether every statement that would change it fails.
      var isPoison = false
    }

    var rows: [Row]
    var pages: Int
    var file = 7
    /// Every statement that reads this page fails.
    var damagedPage: Int?
    /// Index entries that were read.
    var entriesRead = 0
    var pagesRead = 0
    var tableProbes = 0
    var givenUp = 0
    /// Statements that failed, and those about single rows.
    var tries = 0

    var size: TableSize { TableSize(pages: pages, file: file) }

    /// Another file takes its place, in which each row may lie on any page.
    mutating func rewrite(_ random: inout SeededRandom) {
      file += 1
      for place in rows.indices { rows[place].page = Int.random(in: 0..<max(1, pages), using: &random) }
    }

    /// Whether a row is due that can be changed: one that the index has, where `inIndex` is given.
    func hasDue(inIndex: Bool = false) -> Bool {
      for row in rows where row.isDue && !row.isPoison && (row.isInIndex || !inIndex) { return true }
      return false
    }

    /// The entries that a scan or a gathering from `key` on meets, as places in `rows`.
    func entries(from key: Int64?) -> [Int] {
      let highest = key.map { Int($0) } ?? .max
      return rows.indices.filter { rows[$0].isInIndex && rows[$0].isReached && rows[$0].key <= highest }
        .sorted { (rows[$0].key, $0) > (rows[$1].key, $1) }
    }

    /// Does what a step says, and stops after `most` changed rows where it is given.
    mutating func perform(_ step: SweepRoute.Step, on route: inout SweepRoute, most: Int?) {
      if fails(step) { return retreat(from: step, on: &route) }
      switch step.reads {
      case .indexScan(let key), .unorderedIndexScan(let key as Int64?):
        var found = entries(from: key)
        let isOrdered = if case .indexScan = step.reads { true } else { false }
        entriesRead += isOrdered ? min(found.count, SweepRoute.entryLimit) : found.count
        if !isOrdered { found = found.filter { rows[$0].isDue } }
        found = Array(found.prefix(SweepRoute.entryLimit))
        let due = found.filter { rows[$0].isDue }
        let changed = due.prefix(most ?? due.count)
        let tooManyForIndex =
          isOrdered && key == nil && due.count * 2 >= SweepRoute.entryLimit
          && entries(from: nil).count { rows[$0].isDue } > pages / SweepRoute.pagesPerFoundRow
        for place in changed { rows[place].isDue = false }
        route.found(
          entries: found.count, due: due.count, changed: changed.count,
          lowestKey: isOrdered ? found.last.map { Int64(rows[$0].key) } : nil, tooManyForIndex: tooManyForIndex,
          wasStopped: changed.count < due.count)
      case .probeTable:
        tableProbes += 1
        if most == 1 {
          _ = route.retreat(from: step, isRefused: true)
        } else {
          route.probed(
            firstDue: rows.filter(\.isDue).map(\.page).min(), in: .milliseconds(10), table: size)
        }
      case .pages(let range) where step.parts > 1:
        pagesRead += range.count
        let parts = PageRanges.parts(of: range, count: step.parts)
        let changes = parts.enumerated().map { number, part in
          most.map { number >= $0 } ?? false ? 0 : change(part, most: nil).changed
        }
        let duration = most == nil ? Duration.milliseconds(10) : BatchTime().partLimit
        let stop = PageRanges.stop(of: range, changes: changes, in: duration)
        route.swept(range, until: stop, changed: changes.reduce(0, +), in: duration, table: size)
      case .pages(let range):
        pagesRead += range.count
        let (changed, left) = change(range, most: most)
        route.swept(range, until: left, changed: changed, in: .milliseconds(10), table: size)
      case .dueRows(let page):
        let due = rows.indices.filter { rows[$0].page == page && rows[$0].isDue }
        route.listed(due.map { RowPlace(table: 1, place: "\($0)") }, table: size)
      case .rows(let places):
        tries += 1
        for place in places { rows[Int(place.place)!].isDue = false }
        route.finishedRows(table: size)
      }
    }

    /// Whether the step would change a row that cannot be changed.
    private func fails(_ step: SweepRoute.Step) -> Bool {
      func isPoison(_ place: Int) -> Bool { rows[place].isDue && rows[place].isPoison }
      switch step.reads {
      case .indexScan(let key): return entries(from: key).prefix(SweepRoute.entryLimit).contains(where: isPoison)
      case .unorderedIndexScan(let key): return entries(from: key).contains(where: isPoison)
      case .pages(let range):
        return damagedPage.map(range.contains) ?? false
          || rows.indices.contains { range.contains(rows[$0].page) && isPoison($0) }
      case .rows(let places): return places.contains { isPoison(Int($0.place)!) }
      case .probeTable: return damagedPage != nil
      case .dueRows(let page): return damagedPage == page
      }
    }

    func fails(_ steps: [SweepRoute.Step]) -> Bool { steps.contains { fails($0) } }

    private mutating func retreat(from step: SweepRoute.Step, on route: inout SweepRoute) {
      tries += 1
      switch route.retreat(from: step, isRefused: true) {
      case .smaller: break
      case .givenUp(let count):
        givenUp += count
        route.finishedRows(table: size)
      case .none: Issue.record("nothing smaller was found than \(step)")
      }
    }

    /// Changes the due rows of these pages, `most` of them where it is given; `left` is where the next one lies.
    private mutating func change(_ range: Range<Int>, most: Int?) -> (changed: Int, left: Int?) {
      let due = rows.indices.filter { range.contains(rows[$0].page) && rows[$0].isDue }
        .sorted { (rows[$0].page, $0) < (rows[$1].page, $1) }
      let changed = due.prefix(most ?? due.count)
      for place in changed { rows[place].isDue = false }
      return (changed.count, due.count > changed.count ? rows[due[changed.count]].page : nil)
    }
  }

  /// Runs the whole route and returns the table as it is then.
  private static func run(
    _ table: Table, index: Bool, record: String?, passes: Bool, at now: Int64, rewrites: Int = 0,
    random: inout SeededRandom
  ) -> (table: Table, route: SweepRoute, steps: Int) {
    var table = table
    let pass = passes ? FullPass(promise: .seconds(900), interval: .seconds(60), record: record) : nil
    var route = SweepRoute(hasIndex: index, pass: pass)
    route.measured(table.size, at: now)
    if table.fails(route.opening) {
      // The first batch failed as a whole; it is made again without what failed.
    } else {
      for step in route.opening { table.perform(step, on: &route, most: nil) }
    }
    var steps = 0
    var rewrites = rewrites
    while let step = route.next, steps < 50_000 {
      steps += 1
      if rewrites > 0, Int.random(in: 0..<3, using: &random) == 0 {
        rewrites -= 1
        table.rewrite(&random)
      }
      let isStopped = Int.random(in: 0..<8, using: &random) == 0
      table.perform(step, on: &route, most: isStopped ? Int.random(in: 1...20, using: &random) : nil)
    }
    return (table, route, steps)
  }

  private static func table(_ random: inout SeededRandom, everyDueRowInIndex: Bool) -> Table {
    let pages = [0, 1, 63, 64, 65, 500, 9_999, 10_001, 40_000].randomElement(using: &random)!
    guard pages > 0 else { return Table(rows: [], pages: 0) }
    let count = [0, 1, 10, 999, 1_000, 1_001, 3_000].randomElement(using: &random)!
    let keys = [1, 5, 1_000_000].randomElement(using: &random)!
    let dueShare = [0, 1, 50, 99, 100].randomElement(using: &random)!
    let indexShare = everyDueRowInIndex ? 100 : [0, 50, 100].randomElement(using: &random)!
    let rows = (0..<count).map { _ in
      let isReached = Int.random(in: 0..<100, using: &random) < 80
      return Table.Row(
        page: Int.random(in: 0..<pages, using: &random), key: Int.random(in: 0..<keys, using: &random),
        isReached: isReached, isDue: isReached && Int.random(in: 0..<100, using: &random) < dueShare,
        isInIndex: Int.random(in: 0..<100, using: &random) < indexShare)
    }
    return Table(rows: rows, pages: pages)
  }

  @Test func withAnIndexOfEveryDueRowNoneIsLeftWhateverTheTableIsLike() {
    for seed in UInt64(0)..<400 {
      var random = SeededRandom(seed: seed)
      let before = Self.table(&random, everyDueRowInIndex: true)
      let after = Self.run(before, index: true, record: nil, passes: false, at: 1_000_000, random: &random)
      #expect(after.route.next == nil && !after.table.hasDue(), "seed \(seed)")
      #expect(after.route.record == nil, "seed \(seed)")
    }
  }

  @Test func withoutAnIndexEveryPageIsReadOnceAndNoDueRowIsLeft() {
    for seed in UInt64(0)..<200 {
      var random = SeededRandom(seed: seed)
      let before = Self.table(&random, everyDueRowInIndex: true)
      let after = Self.run(before, index: false, record: nil, passes: false, at: 1_000_000, random: &random)
      #expect(after.route.next == nil && !after.table.hasDue(), "seed \(seed)")
    }
  }

  /// Whatever rewrites a table moves rows from pages that are ahead to pages that were read.
  @Test func aTableThatIsRewrittenMeanwhileIsReadAgainUntilNoDueRowIsLeft() {
    for seed in UInt64(0)..<300 {
      var random = SeededRandom(seed: seed)
      let before = Self.table(&random, everyDueRowInIndex: false)
      let after = Self.run(
        before, index: false, record: nil, passes: false, at: 1_000_000, rewrites: SweepRoute.rewriteLimit,
        random: &random)
      #expect(after.route.next == nil && !after.table.hasDue() && !after.route.isPartial, "seed \(seed)")
    }
  }

  @Test func aTableThatIsRewrittenAgainAndAgainIsReadInPart() {
    var route = SweepRoute(hasIndex: false, pass: nil)
    route.measured(TableSize(pages: 10, file: 1), at: 1_000_000)
    for file in 2...(2 + SweepRoute.rewriteLimit) {
      #expect(!route.isPartial)
      route.swept(0..<64, changed: 1, in: .milliseconds(1), table: TableSize(pages: 10, file: file))
    }
    #expect(route.isPartial && route.next == nil)
  }

  /// Pages so full of due rows that they are written in parts, which the clock may stop.
  @Test func ofFullPagesWrittenInPartsNoDueRowIsLeft() {
    for seed in UInt64(0)..<100 {
      var random = SeededRandom(seed: seed)
      let rows = (0..<8_000).map { number in
        Table.Row(
          page: number / 20, key: 0, isReached: true, isDue: Int.random(in: 0..<10, using: &random) < 6,
          isInIndex: false)
      }
      let after = Self.run(
        Table(rows: rows, pages: 400), index: false, record: nil, passes: false, at: 1_000_000, random: &random)
      #expect(after.route.next == nil && !after.table.hasDue(), "seed \(seed)")
    }
  }

  @Test func aTableWithoutDueRowsCostsItsFirstPagesAndOneProbe() {
    var random = SeededRandom(seed: 5)
    let empty = Self.run(
      Table(rows: [], pages: 30_000), index: false, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(empty.table.pagesRead == PageRanges.initialPages && empty.table.tableProbes == 1 && empty.steps == 1)
    // A table that a probe takes too long for, or is too much for, is read in ranges.
    for pages in [500, 1_000_000] {
      let table = Table(rows: [], pages: pages)
      let ranged = Self.run(table, index: false, record: nil, passes: false, at: 1_000_000, random: &random)
      #expect(ranged.table.tableProbes == 0 && ranged.table.pagesRead >= pages)
    }
  }

  @Test func aTableProbeLeadsToTheFirstDueRow() {
    var random = SeededRandom(seed: 6)
    let row = Table.Row(page: 20_000, key: 0, isReached: true, isDue: true, isInIndex: false)
    let after = Self.run(
      Table(rows: [row], pages: 20_100), index: false, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(!after.table.hasDue() && after.table.tableProbes == 1)
    #expect(after.table.pagesRead < 200 + PageRanges.initialPages)
  }

  @Test func whatAPartialIndexLacksWaitsForTheFullPassAndNoLonger() {
    for seed in UInt64(0)..<400 {
      var random = SeededRandom(seed: seed)
      var table = Self.table(&random, everyDueRowInIndex: false)
      let wasRead = FullPassTests.wholePass(at: 1_000_000)
      let first = Self.run(table, index: true, record: wasRead, passes: true, at: 1_060_000, random: &random)
      #expect(first.route.next == nil, "seed \(seed)")
      table = first.table
      if table.pages <= FullPass.smallTablePages {
        #expect(!table.hasDue() && first.route.record == nil, "seed \(seed)")
        continue
      }
      #expect(!table.hasDue(inIndex: true), "seed \(seed)")
      // Fifteen minutes after the pass before it: by now the next one is due.
      let second = Self.run(
        table, index: true, record: first.route.record ?? wasRead, passes: true, at: 1_900_000, random: &random)
      #expect(!second.table.hasDue(), "seed \(seed)")
    }
  }

  @Test func aLargeTableWhoseIndexHasNothingIsNotRead() {
    var random = SeededRandom(seed: 1)
    let table = Table(rows: [], pages: 1_000_000)
    let record = FullPassTests.wholePass(at: 1_000_000)
    let after = Self.run(table, index: true, record: record, passes: true, at: 1_060_000, random: &random)
    #expect(after.steps == 0)
    #expect(after.table.pagesRead == PageRanges.initialPages)
  }

  @Test func aFewDueRowsInALargeTableAreFoundByTheIndexAlone() {
    var random = SeededRandom(seed: 2)
    let rows = (0..<2_500).map {
      Table.Row(page: $0 * 10, key: $0, isReached: true, isDue: true, isInIndex: true)
    }
    let table = Table(rows: rows, pages: 100_000)
    let after = Self.run(table, index: true, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(!after.table.hasDue())
    #expect(after.table.pagesRead == 0)
  }

  @Test func manyRowsThatAreNoLongerDueAreReadOnceUnordered() {
    var random = SeededRandom(seed: 3)
    let rows = (0..<20_000).map {
      Table.Row(page: $0, key: $0, isReached: true, isDue: $0 % 5_000 == 0, isInIndex: true)
    }
    let table = Table(rows: rows, pages: 100_000)
    let after = Self.run(table, index: true, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(!after.table.hasDue())
    #expect(after.table.pagesRead == 0)
    #expect(after.table.entriesRead <= 22_000)
  }

  /// A pass that an earlier run left in its middle, and so much found by the index that the pages are to be read: those
  /// before the middle come after the end.
  @Test func plentyOnPagesThatThePassHasBehindItIsSweptInTheSameRun() {
    var random = SeededRandom(seed: 4)
    var left = FullPassTests.pass()
    _ = left.start(TableSize(pages: 20_000, file: 7), at: 1_000_000)
    left.reached(15_000, after: .seconds(1))
    let rows = (0..<20_000).map {
      Table.Row(page: $0, key: $0, isReached: true, isDue: true, isInIndex: true)
    }
    let after = Self.run(
      Table(rows: rows, pages: 20_000), index: true, record: left.record.text, passes: true, at: 1_060_000,
      random: &random)
    #expect(!after.table.hasDue())
    let record = after.route.record.flatMap { FullPass.Record($0) }
    #expect(record?.endedPassBegan == 1_060_000)
  }

  /// Of any number of rows whose change fails, anywhere, each is left and no other one is.
  @Test func rowsThatCannotBeChangedKeepNoOtherFromBeingChanged() {
    for seed in UInt64(0)..<300 {
      var random = SeededRandom(seed: seed)
      var before = Self.table(&random, everyDueRowInIndex: true)
      for place in before.rows.indices {
        before.rows[place].isPoison = Int.random(in: 0..<50, using: &random) == 0
      }
      let poison = before.rows.count { $0.isPoison && $0.isDue }
      let after = Self.run(
        before, index: seed % 2 == 0, record: nil, passes: false, at: 1_000_000, random: &random)
      #expect(after.route.next == nil && !after.table.hasDue(), "seed \(seed)")
      #expect(after.table.givenUp == poison, "seed \(seed)")
    }
  }

  @Test func oneRowThatCannotBeChangedCostsAFewStatements() {
    var random = SeededRandom(seed: 8)
    var rows = (0..<30_000).map {
      Table.Row(page: $0 / 30, key: 0, isReached: true, isDue: true, isInIndex: false)
    }
    rows[17_000].isPoison = true
    let after = Self.run(
      Table(rows: rows, pages: 1_000), index: false, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(!after.table.hasDue() && after.table.givenUp == 1)
    #expect(after.table.tries < 30)
  }

  @Test func aDamagedPageStopsNoneBehindIt() {
    var random = SeededRandom(seed: 7)
    let rows = (0..<3_000).map {
      Table.Row(page: $0 / 30, key: 0, isReached: true, isDue: $0 / 30 != 40, isInIndex: false)
    }
    let table = Table(rows: rows, pages: 100, damagedPage: 40)
    let after = Self.run(table, index: false, record: nil, passes: false, at: 1_000_000, random: &random)
    #expect(!after.table.hasDue() && after.table.givenUp == 1)
  }

  @Test func anIndexScanThatTakesTooLongIsGivenUpForThePages() {
    var route = SweepRoute(hasIndex: true, pass: nil)
    route.measured(TableSize(pages: 500, file: 7), at: 1_000_000)
    let scan = SweepRoute.Step(reads: .indexScan(from: nil))
    #expect(route.next == scan)
    #expect(route.retreat(from: scan, isRefused: true) == .smaller)
    #expect(route.next == SweepRoute.Step(reads: .pages(0..<PageRanges.initialPages)))
  }
}
