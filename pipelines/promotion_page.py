"""The HTML of a promotion report: one file, no script, no request, escaped, for light, dark and paper.

Knows how a page looks, not what its words mean.
"""

from __future__ import annotations

from html import escape
from typing import Final, Literal

from msgspec import Struct

Tone = Literal["good", "open", "bad"]


class Cell(Struct, frozen=True, kw_only=True):
    """One gate: its texts, and where its interval, bound and value lie from 0 (left) to 1 (right)."""

    title: str
    meaning: str
    value: str
    interval: str
    wanted: str
    calls: str
    verdict: str
    tone: Tone
    places: tuple[float, ...]
    """Lower limit, upper limit, bound."""
    dot: float | None


class Section(Struct, frozen=True):
    """Examples under a heading: each a few named texts."""

    title: str
    blocks: tuple[tuple[tuple[str, str], ...], ...]
    note: str


class Page(Struct, frozen=True, kw_only=True):
    """What stands on the page, from top to bottom."""

    title: str
    kicker: str
    headline: str
    tone: Tone
    reasons: tuple[str, ...]
    cells: tuple[Cell, ...]
    caption: str
    figures: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    undecided: tuple[str, ...]


STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--paper:#fff;--tint:#f6f8fa;
--good:#1a7f37;--open:#7d4e00;--bad:#cf222e;--band:#9fb4c9}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--line:#3a424b;--paper:#0f1318;--tint:#171d24;
--good:#4ac26b;--open:#e0a93b;--bad:#ff7b72;--band:#4d6478}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0 .6rem}
h2{font-size:1.15rem;margin:2.4rem 0 .6rem}
.kicker,.note,.meaning,caption{color:var(--soft)}
.kicker{overflow-wrap:anywhere;margin:0}
.verdict{border-left:.4rem solid currentColor;padding-left:1rem}
.verdict h1,.verdict ul{color:var(--ink)}
.good{color:var(--good)}.open{color:var(--open)}.bad{color:var(--bad)}
ul{padding-left:1.2rem;margin:.4rem 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;font-size:.85rem;padding-top:.6rem}
th,td{text-align:left;vertical-align:top;padding:.55rem .8rem .55rem 0;border-bottom:1px solid var(--line)}
thead th{font-size:.85rem;color:var(--soft);font-weight:600}
tbody th{font-weight:600;min-width:12rem}
.meaning{display:block;font-weight:400;font-size:.82rem}
.figure{white-space:nowrap}
td.verdict-word{font-weight:700}
svg{display:block;width:9rem;height:1.1rem;margin-top:.25rem}
dl.money{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;margin:.5rem 0}
dl.money dt{color:var(--soft)}
dd{margin:0;font-variant-numeric:tabular-nums}
article{border:1px solid var(--line);border-radius:.5rem;background:var(--tint);padding:.8rem 1rem;margin:.8rem 0}
article dl{margin:0}article dt{color:var(--soft);font-size:.8rem}
pre{margin:.1rem 0 .5rem;white-space:pre-wrap;overflow-wrap:anywhere;
font:.88rem/1.45 ui-monospace,Menlo,Consolas,monospace}
@media print{:root{--ink:#000;--soft:#333;--line:#999;--paper:#fff;--tint:#fff;
--good:#0a5c23;--open:#5c3900;--bad:#9c0d18}
main{max-width:none;padding:0}article,tr{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}}
"""


def render_page(page: Page) -> str:
    """Return the page. Every text is escaped; a content policy forbids scripts and requests."""
    body = "".join((_verdict(page), _gates(page), _money(page), *map(_section, page.sections), _open(page.undecided)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n"
        "</html>\n"
    )


def _verdict(page: Page) -> str:
    return (
        f'<p class="kicker">{escape(page.kicker)}</p>\n'
        f'<div class="verdict {page.tone}">\n<h1>{escape(page.headline)}</h1>\n{_list(page.reasons)}</div>\n'
    )


def _gates(page: Page) -> str:
    heads = ("Gate", "Verdict", "Seen", "Interval", "Wanted", "Calls")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<h2>Gates</h2>\n<div class="scroll">\n<table>\n<caption>{escape(page.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(map(_row, page.cells))}</tbody>\n</table>\n</div>\n"
    )


def _row(cell: Cell) -> str:
    return (
        f'<tr><th scope="row">{escape(cell.title)}<span class="meaning">{escape(cell.meaning)}</span></th>'
        f'<td class="verdict-word {cell.tone}">{escape(cell.verdict)}</td><td class="figure">{escape(cell.value)}</td>'
        f'<td><span class="figure">{escape(cell.interval)}</span>{_drawing(cell)}</td>'
        f'<td>{escape(cell.wanted)}</td><td class="figure">{escape(cell.calls)}</td></tr>\n'
    )


def _drawing(cell: Cell) -> str:
    """The interval as a band, the value as a dot, the bound as a line."""
    low, high, bound = (4 + 136 * place for place in cell.places)
    label = escape(f"{cell.title}: {cell.value}, interval {cell.interval}, wanted {cell.wanted}")
    dot = "" if cell.dot is None else f'<circle cx="{4 + 136 * cell.dot:.1f}" cy="9" r="4" fill="currentColor"/>'
    return (
        f'<svg viewBox="0 0 144 18" role="img" aria-label="{label}" class="{cell.tone}">'
        f'<rect x="{low:.1f}" y="6" width="{max(high - low, 1.0):.1f}" height="6" rx="3" fill="var(--band)"/>'
        f'<line x1="{bound:.1f}" y1="0" x2="{bound:.1f}" y2="18" stroke="var(--ink)" stroke-width="2"/>{dot}</svg>'
    )


def _money(page: Page) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in page.figures)
    return f'<h2>Cost</h2>\n<dl class="money">\n{rows}</dl>\n'


def _section(section: Section) -> str:
    articles = "".join(map(_article, section.blocks))
    return f'<h2>{escape(section.title)}</h2>\n<p class="note">{escape(section.note)}</p>\n{articles}'


def _article(block: tuple[tuple[str, str], ...]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd><pre>{escape(text)}</pre></dd>\n" for name, text in block)
    return f"<article>\n<dl>\n{rows}</dl>\n</article>\n"


def _open(lines: tuple[str, ...]) -> str:
    return f"<h2>What cannot be decided yet</h2>\n{_list(lines)}"


def _list(lines: tuple[str, ...]) -> str:
    return f"<ul>\n{''.join(f'<li>{escape(line)}</li>' + chr(10) for line in lines)}</ul>\n"
