"""What a specialist's trial has shown, for the people who answer for it: one value, as HTML, Markdown and JSON.

Verdict first, then each gate with its value, interval and calls, what was fixed and broken, what was saved, and what
cannot be decided yet. Knows nothing of where calls come from and decides nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.promotion_page import Cell, Page, Section, Tone, render_page
from policies.promotion import GateResult, PromotionDecision, PromotionPolicy, TrialState

MOST_EXAMPLES: Final = 10
MOST_CHARS: Final = 2_000
TITLES: Final = {
    "well_formed": "Well-formed answers",
    "success_parity": "Right answers against what was served",
    "latency_increase": "Change of latency",
    "cost_saving": "Saving against the frontier",
    "escalations": "Escalated calls",
    "accepted_wrong": "Believed and wrong",
}
MEANINGS: Final = {
    "well_formed": "share of the specialist's own answers that parse and fit their schema",
    "success_parity": "right answers of the specialist with its escalations, for each right answer of what was served",
    "latency_increase": "total time over that of what was served, less 1; a call counts at most 3 times its reference",
    "cost_saving": "1 less total cost over the frontier's; a call counts at most 2 times its reference",
    "escalations": "share of calls whose answer was not believed and went on to the frontier",
    "accepted_wrong": "share of all calls whose answer was believed and wrong",
}
VERDICTS: Final = {"promote": "Promote", "wait": "Wait", "reject": "Do not promote"}
TONES: Final[dict[str, Tone]] = {
    "promote": "good", "wait": "open", "reject": "bad", "pass": "good", "undecided": "open", "fail": "bad",
}  # fmt: skip
GATE_VERDICTS: Final = {"pass": "proven", "undecided": "open", "fail": "failed"}


class Example(Struct, frozen=True, kw_only=True):
    """One call on which the two differ. Texts are redacted already."""

    call_id: str
    input: str
    served: str
    """What was served."""
    answered: str
    """What the specialist's chain answered."""


class Money(Struct, frozen=True):
    """US dollars over the calls of the trial whose costs are known, nothing cut."""

    calls: int
    specialist_usd: float
    frontier_usd: float
    saved_usd: float


class PromotionReport(Struct, frozen=True, kw_only=True):
    """The whole report. Made by `report_of`."""

    specialist: str
    stage: str
    share: float
    alpha: float
    decision: PromotionDecision
    headline: str
    fixed: int
    broken: int
    fixed_examples: tuple[Example, ...]
    broken_examples: tuple[Example, ...]
    money: Money
    undecided: tuple[str, ...]
    """What cannot be said yet."""
    made_at: str = ""
    """As people write it; empty when the caller gave no time."""
    evidence: str = ""
    """The sha256 of the evidence shown, which the ledger's entry of a move names; empty when it was not kept."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    def as_markdown(self) -> str:
        """Return the report as Markdown; what models and callers wrote stands in code blocks."""
        return _markdown(self)

    def as_html(self) -> str:
        """Return the report as one HTML file that loads nothing from anywhere."""
        return render_page(_page(self))


class Examples(Struct, frozen=True):
    """Calls on which the specialist's chain was right and what was served wrong, and the other way round."""

    fixed: Sequence[Example] = ()
    broken: Sequence[Example] = ()


def report_of(
    state: TrialState, decision: PromotionDecision, policy: PromotionPolicy, examples: Examples, made_at: str = ""
) -> PromotionReport:
    """Make the report of a decision on a trial. At most `MOST_EXAMPLES` of each kind are shown, long texts cut."""
    return PromotionReport(
        specialist=state.specialist,
        stage=state.stage,
        share=state.share,
        alpha=policy.alpha,
        decision=decision,
        headline=_headline(state, decision),
        fixed=state.fixed,
        broken=state.broken,
        fixed_examples=tuple(_shortened(item) for item in examples.fixed[:MOST_EXAMPLES]),
        broken_examples=tuple(_shortened(item) for item in examples.broken[:MOST_EXAMPLES]),
        money=Money(state.cost.seen, state.cost.total, state.cost.reference_total, state.saved_usd),
        undecided=_undecided(state, decision, policy),
        made_at=made_at,
    )


def shown(value: float | None, gate: str) -> str:
    """Return a gate's quantity as people read it."""
    if value is None:
        return "-"
    return f"{value:+.1%}" if gate == "latency_increase" else f"{value:.1%}"


def wanted(gate: GateResult) -> str:
    """Return a gate's bound as people read it."""
    return f"{'at least' if gate.at_least else 'at most'} {shown(gate.bound, gate.name)}"


def _headline(state: TrialState, decision: PromotionDecision) -> str:
    after = f"after {decision.calls:,} calls in {_place(state.stage, state.share)}"
    if decision.move is not None:
        to = _place(decision.move.stage, decision.move.share)
        ask = " once a person agrees" if decision.move.mode == "ask" and decision.verdict == "promote" else ""
        return f"{VERDICTS[decision.verdict]}: to {to}{ask}, {after}"
    more = "" if decision.calls_more is None else f"; about {decision.calls_more:,} more if they go on as so far"
    return f"{VERDICTS[decision.verdict]}: not decided {after}{more}"


def _place(stage: str, share: float) -> str:
    return f"canary at {share:.0%}" if stage == "canary" else stage


def _undecided(state: TrialState, decision: PromotionDecision, policy: PromotionPolicy) -> tuple[str, ...]:
    """Say what is open, what was never measured, what was switched off, and what the cuts leave out."""
    lines = []
    for gate in decision.gates:
        if gate.n == 0:
            lines.append(f"{TITLES[gate.name]}: no call bears on it.")
        elif gate.verdict == "undecided":
            more = f"about {gate.calls_more or 0:,} more calls at this rate"
            lines.append(f"{TITLES[gate.name]}: {'never at this rate' if gate.calls_more is None else more}.")
    lines += [f"{TITLES[name]}: switched off in promotion.yaml." for name in TITLES if name not in policy.gates_on]
    for name, amounts in (("latency", state.latency), ("cost", state.cost)):
        if amounts.cut:
            lines.append(f"{amounts.cut:,} of {amounts.seen:,} calls were cut in the gate of {name}: no proof beyond.")
    return tuple(lines)


def _shortened(example: Example) -> Example:
    cut = {name: _cut(getattr(example, name)) for name in ("input", "served", "answered")}
    return msgspec.structs.replace(example, **cut)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]} … ({len(text):,} characters)"


def _caption(report: PromotionReport) -> str:
    return (
        f"The limits hold at every look at once, each with probability {1 - report.alpha:.0%} or more. "
        f"A promotion although some required gate does not hold: at most {report.alpha:.0%}."
    )


def _page(report: PromotionReport) -> Page:
    decision = report.decision
    return Page(
        title=f"{report.specialist}: {VERDICTS[decision.verdict].lower()}",
        kicker=_kicker(report),
        headline=report.headline,
        tone=TONES[decision.verdict],
        reasons=decision.reasons,
        cells=tuple(_cell(gate) for gate in decision.gates),
        caption=_caption(report),
        figures=_figures(report),
        sections=(
            Section(f"Fixed: {report.fixed:,} calls", _blocks(report.fixed_examples), "Served wrong, now right."),
            Section(f"Broken: {report.broken:,} calls", _blocks(report.broken_examples), "Served right, now wrong."),
        ),
        undecided=report.undecided or ("Nothing.",),
    )


def _kicker(report: PromotionReport) -> str:
    evidence = f"evidence {report.evidence}" if report.evidence else ""
    return ", ".join(part for part in (f"Trial of {report.specialist}", report.made_at, evidence) if part)


def _cell(gate: GateResult) -> Cell:
    ends = (gate.lower, gate.upper, gate.bound, *(() if gate.value is None else (gate.value,)))
    low, high = min(ends), max(ends)
    return Cell(
        title=TITLES[gate.name],
        meaning=MEANINGS[gate.name],
        value=shown(gate.value, gate.name),
        interval=f"{shown(gate.lower, gate.name)} to {shown(gate.upper, gate.name)}",
        wanted=wanted(gate) + ("" if gate.required else " (watched only)"),
        calls=f"{gate.n:,}",
        verdict=GATE_VERDICTS[gate.verdict],
        tone=TONES[gate.verdict],
        places=tuple((end - low) / ((high - low) or 1.0) for end in (gate.lower, gate.upper, gate.bound)),
        dot=None if gate.value is None else (gate.value - low) / ((high - low) or 1.0),
    )


def _figures(report: PromotionReport) -> tuple[tuple[str, str], ...]:
    money = report.money
    if not money.calls:
        return (("Saved in this trial", "not known: no call had both costs"),)
    share = f" ({money.saved_usd / money.frontier_usd:.0%})" if money.frontier_usd else ""
    return (
        ("Saved in this trial", _usd(money.saved_usd) + share),
        ("Specialist with its escalations", _usd(money.specialist_usd)),
        ("Frontier on the same calls", _usd(money.frontier_usd)),
        ("Saved on 1,000 calls", _usd(1000 * money.saved_usd / money.calls)),
    )


def _usd(amount: float) -> str:
    """Dollars with cents, or to the millionth where they are few."""
    figure = f"{abs(amount):,.2f}" if abs(amount) >= 1.0 else f"{abs(amount):.6f}"
    return f"{'-' if amount < 0 else ''}${figure}"


def _blocks(examples: tuple[Example, ...]) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(
        (("Call", item.call_id), ("Asked", item.input), ("Served", item.served), ("Specialist", item.answered))
        for item in examples
    )


def _markdown(report: PromotionReport) -> str:
    page = _page(report)
    lines = [f"# {_plain(page.headline)}", "", _plain(page.kicker), ""]
    lines += [f"- {_plain(reason)}" for reason in page.reasons]
    lines += ["", "| gate | verdict | seen | interval | wanted | calls |", "|---|---|---|---|---|---|"]
    lines += [f"| {c.title} | {c.verdict} | {c.value} | {c.interval} | {c.wanted} | {c.calls} |" for c in page.cells]
    lines += ["", page.caption, "", *(f"- {name}: {value}" for name, value in page.figures)]
    for section in page.sections:
        lines += ["", f"## {section.title}", "", section.note]
        for block in section.blocks:
            lines += ["", *(line for name, text in block for line in (f"{name}:", "", *_fenced(text), ""))]
    lines += ["", "## What cannot be decided yet", "", *(f"- {line}" for line in page.undecided)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text on one line, nothing in it taken for Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> list[str]:
    """A code block that its text cannot leave."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return [f"{fence}text", *text.splitlines(), fence]
