"""What a replay of the record amounts to, in sentences that say neither more nor less than its figures do."""

from __future__ import annotations

from typing import Final

from pipelines.offpolicy_values import Estimates, Overlap
from pipelines.replay_recorded_report import PER_CALLS, WRITTEN, Judged, Quantity, RecordedReport

FEW: Final = 30
"""Below so many (effective) decisions an interval is not worth much."""
_MOSTLY: Final = 0.5
_NOTABLE: Final = 0.005

_REFUSALS: Final = {
    "no_candidate": "nobody may answer under it",
    "hint_not_allowed": "it does not know what the caller hinted",
    "unknown_tier": "it lacks the key's tier",
}


def verdict_of(report: RecordedReport) -> str:
    """What a report amounts to."""
    if report.total is None:
        if not report.read:
            return "There is nothing to judge by: no call was recorded in what was asked for."
        return f"There is nothing to judge by: none of the {report.read} recorded calls can be decided again."
    quantities = report.total.quantities
    overlap = quantities["cost_usd"].overlap
    if report.changed == 0.0:
        return f"The new policy decides all {overlap.decisions} calls as they were decided."
    found = {name: one for name, one in quantities.items() if name in _WORDS}
    clear = [_clear(name, one) for name, one in found.items() if one.dr_difference.excludes_zero]
    open_ = [_open(name, one) for name, one in found.items() if not one.dr_difference.excludes_zero]
    said = [f"Judged by {overlap.decisions} decisions, the new policy would {_listed(clear)}."] if clear else []
    if open_:
        said.append(f"No clear difference in {_listed(open_)}.")
    return " ".join(said + _reservations(report, overlap))


_WORDS: Final[dict[Quantity, tuple[str, str, str]]] = {
    "reward": ("reward", "earn {} more reward a call", "earn {} less reward a call"),
    "cost_usd": (
        "cost",
        f"cost ${{}} more for {PER_CALLS:,} calls",
        f"cost ${{}} less for {PER_CALLS:,} calls",
    ),
    "escalated": ("escalations", "escalate {} more of the calls", "escalate {} fewer of the calls"),
    "latency_ms": ("latency", "take {} ms longer", "take {} ms less"),
}


def _clear(name: Quantity, found: Estimates) -> str:
    change, write = found.dr_difference, WRITTEN[name]
    _, more, less = _WORDS[name]
    relative = f"{change.mean / found.logged.mean:+.0%}, " if found.logged.mean > 0.0 else ""
    said = (more if change.mean > 0 else less).format(write(abs(change.mean)))
    return f"{said} ({relative}95 % interval {_bounds(name, found)})"


def _open(name: Quantity, found: Estimates) -> str:
    return f"{_WORDS[name][0]} ({_bounds(name, found)})"


def _bounds(name: Quantity, found: Estimates) -> str:
    write, change = WRITTEN[name], found.dr_difference
    return f"{write(change.low)} to {write(change.high)}"


def _reservations(report: RecordedReport, overlap: Overlap) -> list[str]:
    """What stands between the figures and the truth."""
    said = []
    if overlap.refused > 0.0:
        reasons = _listed([f"{count} because {_REFUSALS[code]}" for code, count in report.refusals.items()])
        said.append(
            f"It would turn {overlap.refused:.1%} of the calls away ({reasons}); they count as no reward at no cost."
        )
    if overlap.unsupported >= _NOTABLE:
        mostly = "Mostly the model's word: for" if overlap.unsupported > _MOSTLY else "For"
        said.append(
            f"{mostly} {overlap.unsupported:.0%} of its choices the record holds no try, so weights cannot judge them: "
            "there the figures rest on the planner's own predictions, and no interval covers their error."
        )
        reward = report.total.quantities.get("reward") if report.total else None
        if reward is not None:
            low, high = reward.within
            said.append(f"Without the predictions, its reward lies anywhere between {low:.2f} and {high:.2f}.")
    if overlap.elsewhere >= _NOTABLE:
        said.append(
            f"In {overlap.elsewhere:.0%} of the calls it starts alike and then escalates elsewhere: predicted, too."
        )
    said += _on_rewards(report.rewards)
    if overlap.effective < FEW:
        said.append(
            f"The record is worth {overlap.effective:.0f} calls made by the new policy itself: too few to rely on."
        )
    if overlap.clipped > 0.0:
        said.append(
            f"Weights were cut for {overlap.clipped:.1%} of the calls: SNIPS and DR lean to what is common, "
            f"by up to {overlap.weight_lost:.3f} of the reward."
        )
    return said


def _on_rewards(rewards: Judged) -> list[str]:
    known = rewards.feedback + rewards.verifier
    said = []
    if known and not rewards.feedback:
        said.append(
            "Nobody gave feedback: the reward is the checks' word, which takes every believed answer for right."
        )
    if rewards.unknown > _NOTABLE * (known + rewards.unknown):
        said.append(
            f"Of {rewards.unknown} answers nobody knows whether they were right: they count in all but the reward."
        )
    return said


def _listed(pieces: list[str]) -> str:
    if len(pieces) < 2:
        return "".join(pieces)
    return ", ".join(pieces[:-1]) + " and " + pieces[-1]
