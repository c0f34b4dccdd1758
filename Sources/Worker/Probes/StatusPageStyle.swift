// The style of the page at /. Invariant: the policy lets a browser apply this style sheet and load or run nothing
// else; a test computes the digest.

import Reactor

/// The page's style sheet, and the response's header fields.
enum StatusPageStyle {
  static let css: StaticString = """
    :root{color-scheme:light dark;--back:#fff;--card:#f6f7f9;--line:#d5d9df;--text:#1c2128;--dim:#57606a;\
    --good:#1a6f3c;--bad:#b42318;--plot:#5b6b7f}\
    @media(prefers-color-scheme:dark){:root{--back:#14171b;--card:#1d2127;--line:#343a43;--text:#e4e7eb;--dim:#a0a8b3;\
    --good:#63c587;--bad:#ff8a7a;--plot:#8fa1b8}}\
    *{box-sizing:border-box}\
    body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--back);color:var(--text);\
    font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}\
    h1{font-size:1.3rem;margin:0}\
    h2{font-size:1rem;margin:0 0 .25rem}\
    p{margin:0;color:var(--dim)}\
    ul{margin:.25rem 0 0;padding-left:1.2rem}\
    b{font-weight:600}\
    header,section{margin-bottom:1rem}\
    .servers{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;padding:0}\
    .attention{border-left:3px solid var(--line);padding-left:.75rem}\
    main{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:.75rem;\
    margin-bottom:1rem}\
    .sweeper{margin:0;padding:.75rem;background:var(--card);border:1px solid var(--line);border-radius:6px}\
    .sweeper h2{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 .5rem}\
    .sweeper h2 span{font-weight:400}\
    .sweeper p{font-size:.87rem}\
    .good{color:var(--good)}\
    .bad{color:var(--bad)}\
    p.note{color:var(--text);margin-top:.35rem}\
    figure{margin:.5rem 0 0}\
    figcaption{font-size:.8rem;color:var(--dim)}\
    svg{display:block;width:100%;height:24px;border-bottom:1px solid var(--line)}\
    path{fill:var(--plot)}\
    .success{fill:var(--good)}\
    .failure{fill:var(--bad)}
    """

  /// SHA-256 of the style sheet, in base64.
  static let digest = "A2ultMmg5qowBWlVvRfrV+vecP3aJ5IQKB4uC0N8cBc="

  static let headers = [
    HTTPField(
      "Content-Security-Policy",
      "default-src 'none'; style-src 'sha256-\(digest)'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    HTTPField("X-Content-Type-Options", "nosniff"),
    HTTPField("Referrer-Policy", "no-referrer"),
    HTTPField("Cache-Control", "no-store"),
  ]
}
