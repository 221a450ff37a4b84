"""What the demo asks of the loop. Its commands are real ones; here they are only listened to."""

import io
import json

import pytest
from rich.console import Console

from pipelines.demo_loop import Loop, LoopPlan


class EnoughError(Exception):
    """The turn was asked for."""


def shown(tmp_path, console, models):
    """Show the loop up to its turn; returns the commands."""
    asked = []

    def run(arguments):
        asked.append(arguments)
        if arguments[0] == "flywheel":
            raise EnoughError
        return json.dumps({"total": {"models": models}})

    plan = LoopPlan(
        workload=tmp_path, registry=tmp_path / "registry.yaml", state=tmp_path, url="http://gateway",
        learn_calls=30, compare_calls=10, rate=1.0, tasks=2, seed=7,
    )  # fmt: skip
    with pytest.raises(EnoughError):
        Loop(plan, run, console).show()
    return asked


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_rows_that_are_compared_are_not_learnt_from(tmp_path):
    for family in ("cards", "tools"):
        (tmp_path / f"{family}.jsonl").write_text("")
    compared, learnt, turn = shown(tmp_path, Console(quiet=True), {"large": 1.0})
    assert compared[compared.index("--split") + 1] == "dev" and learnt[learnt.index("--split") + 1] == "train"
    excluded = [turn[at + 1] for at, word in enumerate(turn) if word == "--exclude"]
    assert excluded == [str(tmp_path / "cards.jsonl"), str(tmp_path / "tools.jsonl")]


@pytest.mark.parametrize(("models", "told"), [({"large": 1.0}, False), ({"large": 0.4, "cards@0123": 0.6}, True)])
def test_specialists_of_an_earlier_demo_are_told(tmp_path, models, told):
    console = Console(record=True, width=200, file=io.StringIO())
    shown(tmp_path, console, models)
    assert ("Specialists of an earlier demo" in console.export_text()) is told
