"""The loop as the demo shows it: what traffic costs before, a turn of the loop on it, and what it costs afterwards.

It only runs commands that a user could run, and reads what they print. Knows nothing of what they do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.quick_trial import QUICK_PROMOTION

Run = Callable[[list[str]], str]
"""Runs one command of ours with its progress in sight; returns what it printed."""

LEARNT: Final = ("desk_triage", "ledger_lines", "comment_checks")
"""Agents of the own workload whose answers are short: a specialist for one is trained in a minute or two here."""
MOST_EXAMPLES: Final = 320
CANARY_ROUNDS: Final = 5
CANARY_CALLS: Final = 180
_TAKEN_UP_S: Final = 5.0
"""A gateway follows the ledger within two seconds, and its record a second later."""


class LoopPlan(Struct, frozen=True):
    """How the loop is shown."""

    workload: Path
    registry: Path
    state: Path
    url: str
    learn_calls: int
    compare_calls: int
    rate: float
    tasks: int
    seed: int


class Loop:
    """One showing of the loop."""

    def __init__(self, plan: LoopPlan, run: Run, console: Console) -> None:
        self._plan = plan
        self._run = run
        self._console = console

    def show(self) -> dict[str, Any]:
        """Do it all; returns the figures."""
        began_s = time.monotonic()
        self._say("1. What calls cost before: rows that nobody learns from, answered by the large model.")
        before = self._compare()
        if any("@" in model for model in before["total"]["models"]):
            self._say("Specialists of an earlier demo answer some of them already. A new --state begins with none.")
        self._say("2. Traffic of three agents to learn from. Four of ten callers say how their call went.")
        self._traffic(self._plan.learn_calls, skip=0, rate=10 * self._plan.rate)
        time.sleep(_TAKEN_UP_S)
        self._say(
            "3. A turn of the loop: find the tasks, train a specialist for each, ask it what was held back. "
            "Training takes minutes on a CPU; the gateway goes on answering meanwhile."
        )
        turn = json.loads(self._run(["flywheel", "run", *self._turn_arguments()]))
        self._show_turn(turn)
        self._say("4. Specialists that have proven themselves get half of their task's calls, then all of them.")
        stages = self._canaries(_stages_after(turn))
        self._say("5. The same rows as before.")
        after = self._compare()
        minutes = (time.monotonic() - began_s) / 60
        self._console.print(comparison(before["total"], after["total"]))
        active = sorted(name for name, stage in stages.items() if stage == "active")
        self._console.print(f"{len(active)} specialists active: {', '.join(active) or '-'}; {minutes:.1f} minutes\n")
        return {"before": before, "after": after, "turn": turn, "stages": stages, "minutes": round(minutes, 2)}

    def _say(self, line: str) -> None:
        self._console.print(f"\n[bold]{line}[/]", highlight=False)

    def _compare(self) -> dict[str, Any]:
        plan = self._plan
        which = ["--split", "dev", "--calls", str(plan.compare_calls), "--rate", f"{plan.rate:g}"]
        report: dict[str, Any] = json.loads(self._run(["traffic", *self._where(), *which, "--json"]))
        return report

    def _traffic(self, calls: int, *, skip: int, rate: float) -> None:
        which = ["--split", "train", "--calls", str(calls), "--skip", str(skip), "--rate", f"{rate:g}"]
        which += ["--families", ",".join(LEARNT), "--feedback-share", "0.4", "--corrections", "--json"]
        self._run(["traffic", *self._where(), *which])

    def _where(self) -> list[str]:
        plan = self._plan
        return ["--workload", str(plan.workload), "--base-url", f"{plan.url}/v1", "--seed", str(plan.seed)]

    def _turn_arguments(self) -> list[str]:
        plan = self._plan
        where = ["--state", str(plan.state), "--registry", str(plan.registry)]
        # The rows that are compared are on record as well; of these files only rows to learn from may be learnt.
        unseen = [word for path in sorted(plan.workload.glob("*.jsonl")) for word in ("--exclude", str(path))]
        return [
            *where,
            *unseen,
            "--promotion",
            str(QUICK_PROMOTION),
            "--max-tasks",
            str(plan.tasks),
            "--max-examples",
            str(MOST_EXAMPLES),
            "--json",
        ]

    def _show_turn(self, turn: Mapping[str, Any]) -> None:
        table = Table("specialist", "task", "right", "believed", "trained", "", box=SIMPLE_HEAD, header_style="dim")
        for made in turn["made"]:
            right = "-" if made["exact"] is None else f"{made['exact']:.0%}"
            believed = "-" if made["coverage"] is None else f"{made['coverage']:.0%}"
            what = made["description"][:60]
            table.add_row(made["specialist"] or "-", what, right, believed, f"{made['seconds']:.0f} s", made["why_not"])
        self._console.print(table)
        for look in turn["looks"]:
            self._show_look(look)

    def _canaries(self, stages: dict[str, str]) -> dict[str, str]:
        """Send calls and look, until nobody is on the way up."""
        skip = self._plan.learn_calls
        for _ in range(CANARY_ROUNDS):
            if not {"shadow", "canary"} & set(stages.values()):
                break
            time.sleep(_TAKEN_UP_S)
            self._traffic(CANARY_CALLS, skip=skip, rate=self._plan.rate)
            skip += CANARY_CALLS
            time.sleep(_TAKEN_UP_S)
            where = ["--state", str(self._plan.state), "--policy", str(QUICK_PROMOTION)]
            for look in json.loads(self._run(["flywheel", "promote", *where, "--json"])):
                self._show_look(look)
                stages[look["specialist"]] = _stage_after(look)
        return stages

    def _show_look(self, look: Mapping[str, Any]) -> None:
        place = look["stage"] if look["stage"] == "shadow" else f"{look['stage']} {look['share']:.0%}"
        moved = f" -> {look['moved_to']}" if look["moved_to"] else ""
        reason = look["decision"]["reasons"][0]
        self._console.print(f"  {look['specialist']} in {place}{moved}: {reason}", highlight=False)


def _stages_after(turn: Mapping[str, Any]) -> dict[str, str]:
    made = {one["specialist"]: "shadow" for one in turn["made"] if one["specialist"]}
    return made | {look["specialist"]: _stage_after(look) for look in turn["looks"]}


def _stage_after(look: Mapping[str, Any]) -> str:
    return str(look["moved_to"] or look["stage"]).split(" ", maxsplit=1)[0]


def comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """The same calls before and after, side by side."""
    table = Table("", "before", "after", box=SIMPLE_HEAD, header_style="dim")
    for title, value in _LINES:
        table.add_row(title, value(before), value(after))
    return table


def _by_specialists(total: Mapping[str, Any]) -> str:
    return f"{sum(share for model, share in total['models'].items() if '@' in model):.0%}"


def _right(total: Mapping[str, Any]) -> str:
    return "-" if total["correct_share"] is None else f"{total['correct_share']:.1%}"


def _cost(total: Mapping[str, Any]) -> str:
    return "-" if total["cost_usd"] is None else f"${1000 * total['cost_usd'] / total['calls']:.3f}"


def _saved(total: Mapping[str, Any]) -> str:
    whole = (total["cost_usd"] or 0.0) + (total["saved_usd"] or 0.0)
    return f"{total['saved_usd'] / whole:.0%}" if whole > 0 else "-"


_LINES: Final[tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...]] = (
    ("answered by specialists", _by_specialists),
    ("right answers", _right),
    ("cost of 1,000 calls", _cost),
    ("saved against the large model", _saved),
    ("escalated", lambda total: f"{total['escalated_share'] or 0:.0%}"),
    ("latency p50 / p95", lambda total: f"{total['latency_p50_ms']:.0f} / {total['latency_p95_ms']:.0f} ms"),
    ("failed calls", lambda total: str(sum(total["errors"].values()))),
)
