"""`journeyman flywheel run` up to where tasks would be found."""

import json

from observations.state import StatePaths
from router_service.cli import run
from tests.flows.recorded_state import record
from tests.unit.recorded_calls import call

REGISTRY = """
version: 1
defaults: {frontier: large}
backends: [{name: echo, kind: echo}]
models: [{model_name: large, backend: echo, safety_grade: A}]
"""
TEXTS = ("where is my parcel", "cancel the second order", "how do I reset the router at home")


def test_of_a_file_of_inputs_that_are_judged_by_nothing_is_learnt(tmp_path, capsys):
    state = StatePaths(tmp_path / "state").create()
    said = [
        {"messages": [{"role": "user", "content": text}], "served_by": "large", "frontier": "large"} for text in TEXTS
    ]
    record(state, [call(number, **fields) for number, fields in enumerate(said)])
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    rows = [{"input": text, "split": "train" if number == 0 else "dev"} for number, text in enumerate(TEXTS)]
    (tmp_path / "judged.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = ["flywheel", "run", "--state", str(state.root), "--registry", str(tmp_path / "registry.yaml")]
    assert run(base) == 2
    assert "3 calls are too few to find tasks in" in capsys.readouterr().err
    assert run([*base, "--exclude", str(tmp_path / "judged.jsonl")]) == 2
    assert "1 calls are too few to find tasks in" in capsys.readouterr().err
    assert run([*base, "--exclude", str(tmp_path / "none.jsonl")]) == 2
    assert "There is no file" in capsys.readouterr().err
