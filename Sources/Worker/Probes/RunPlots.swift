// A sweeper's last runs as small SVG plots: their outcomes, durations and rows. Pure.
// Invariant: an outcome is a height and not only a colour; a plot's size does not depend on its values.

import Coordination

/// Writes the plots of one sweeper.
struct RunPlots {
  /// A run's width, including the gap to the next one.
  private static let step = 3
  private static let width = step * CoordinationScripts.overviewRuns
  private static let height = 24

  /// The oldest first.
  let runs: [RunMark]

  /// The three plots, each with a text alternative.
  func write(to html: inout HTMLWriter) {
    let failures = runs.count { $0.outcome == .failure }
    let summary =
      runs.isEmpty
      ? "no runs yet"
      : failures == 0 ? "last \(runs.count) runs: none failed" : "\(failures) of \(runs.count) runs failed"
    figure(summary, to: &html) { html in
      for (outcome, height) in [(RunMark.Outcome.success, 8), (.failure, Self.height), (.drained, 3)] {
        html.markup("<path class=\"")
        html.text(outcome.rawValue)
        html.markup("\" d=\"")
        bars(to: &html) { $0.outcome == outcome ? height : 0 }
        html.markup("\"/>")
      }
    }
    let longest = runs.map(\.durationMilliseconds).max() ?? 0
    figure("took up to \(FleetStatus.duration(longest))", to: &html) { html in
      html.markup("<path class=\"took\" d=\"")
      bars(to: &html) { Self.scaled($0.durationMilliseconds, to: longest) }
      html.markup("\"/>")
    }
    let most = runs.map(\.changed).max() ?? 0
    figure(most == 1 ? "up to 1 row changed" : "up to \(most) rows changed", to: &html) { html in
      html.markup("<path class=\"rows\" d=\"")
      bars(to: &html) { Self.scaled($0.changed, to: most) }
      html.markup("\"/>")
    }
  }

  private static func scaled(_ value: Int64, to most: Int64) -> Int {
    guard value > 0, most > 0 else { return 0 }
    // Keeps a run that did something visible.
    return max(1, Int((Double(value) / Double(most) * Double(height)).rounded()))
  }

  private func figure(_ caption: String, to html: inout HTMLWriter, _ plot: (inout HTMLWriter) -> Void) {
    html.markup("<figure><svg viewBox=\"0 0 ")
    html.number(Self.width)
    html.markup(" ")
    html.number(Self.height)
    html.markup("\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"")
    html.text(caption)
    html.markup("\">")
    plot(&html)
    html.markup("</svg><figcaption>")
    html.text(caption)
    html.markup("</figcaption></figure>")
  }

  /// A bar for each run, newest on the right; none if the height is 0.
  private func bars(to html: inout HTMLWriter, height: (RunMark) -> Int) {
    var x = Self.width - runs.count * Self.step
    for run in runs {
      let barHeight = height(run)
      if barHeight > 0 {
        html.markup("M")
        html.number(x)
        html.markup(" ")
        html.number(Self.height)
        html.markup("v-")
        html.number(barHeight)
        html.markup("h2v")
        html.number(barHeight)
        html.markup("z")
      }
      x += Self.step
    }
  }
}
