"""The look of report pages, light and dark."""

STYLE = """
:root { --ink: #1c1f24; --soft: #667080; --paper: #fff; --line: #dfe3e8; --fill: #e8eefb; --mark: #fff3d6;
  --c0: #3b62c9; --c1: #d98a00; --c2: #d8503f; --c3: #2f9c86; --c4: #8a4fd0; --c5: #3a9440; --c6: #d0609a; --c7: #6f8fb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #98a2b0; --paper: #15181c; --line: #2c323a;
  --fill: #24344f; --mark: #443a1c; --c0: #7d9df2; --c1: #efb118; --c2: #ff7f6c; --c3: #5cc9b1; --c4: #b78bf5;
  --c5: #6cc571; --c6: #f293c0; --c7: #a5c1e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 16px 0 6px; }
p { margin: 4px 0 10px; color: var(--soft); }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
td.n, th.n { text-align: right; }
td.mid { text-align: center; }
td.best { font-weight: 700; }
td.bar { min-width: 110px; padding-left: 6px; padding-right: 6px; border-left: 8px solid transparent;
  background: linear-gradient(to right, var(--fill) var(--share), transparent var(--share)) padding-box; }
td.code { font: 13px ui-monospace, monospace; white-space: normal; overflow-wrap: anywhere; max-width: 420px; }
td.differs { background: var(--mark); }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--soft); }
.key { font-weight: 600; margin-right: 14px; }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px;
  background: var(--c); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); }
img, svg { width: 100%; height: auto; display: block; border-radius: 4px; }
.wide { max-width: 760px; }
svg text { font-size: 10px; fill: var(--soft); } svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .rule { stroke: var(--line); fill: none; } svg .zero { stroke: var(--soft); fill: none; }
svg .line { stroke: var(--c); stroke-width: 1.6; fill: none; stroke-linejoin: round; }
svg .second { stroke-dasharray: 4 3; stroke-width: 1.2; opacity: .7; } svg .bar { stroke-width: 3; }
svg .dot { fill: var(--c); stroke: none; opacity: 1; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
"""
