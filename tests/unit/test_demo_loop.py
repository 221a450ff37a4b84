"""What the demo asks of the loop. Its commands are real ones; here they are only listened to."""

import json

import pytest
from rich.console import Console

from pipelines.demo_loop import Loop, LoopPlan


class EnoughError(Exception):
    """The turn was asked for."""


def test_rows_that_are_compared_are_not_learnt_from(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    for family in ("cards", "tools"):
        (tmp_path / f"{family}.jsonl").write_text("")
    asked = []

    def run(arguments):
        asked.append(arguments)
        if arguments[0] == "flywheel":
            raise EnoughError
        return json.dumps({"total": {}})

    plan = LoopPlan(
        workload=tmp_path, registry=tmp_path / "registry.yaml", state=tmp_path, url="http://gateway",
        learn_calls=30, compare_calls=10, rate=1.0, tasks=2, seed=7,
    )  # fmt: skip
    with pytest.raises(EnoughError):
        Loop(plan, run, Console(quiet=True)).show()
    compared, learnt, turn = asked
    assert compared[compared.index("--split") + 1] == "dev" and learnt[learnt.index("--split") + 1] == "train"
    excluded = [turn[at + 1] for at, word in enumerate(turn) if word == "--exclude"]
    assert excluded == [str(tmp_path / "cards.jsonl"), str(tmp_path / "tools.jsonl")]
