"""`journeyman flywheel run` up to where a specialist would be trained."""

import json
import shutil

from observations.state import StatePaths
from pipelines.dataset_contents import Choice, choose
from pipelines.datasets import DatasetStore
from pipelines.flywheel import specialist_of
from registry.artifacts import ArtifactStore
from registry.registrar import Note, Registrar
from router_service.cli import run
from tests.flows.recorded_state import record
from tests.unit.curated_calls import calls
from tests.unit.made_specialists import make_folder, manifest
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


def test_a_damaged_specialist_keeps_no_other_from_being_made(tmp_path):
    state, said, made = tmp_path / "state", [], {}
    registrar, store = Registrar(state), DatasetStore(state)
    for number, name in enumerate(("broken", "whole"), start=1):
        ds = store.add(name, choose("bank", calls(100 + number), Choice(least_examples=50)))
        own = manifest(name, dataset=ds.uri, dataset_sha256=ds.sha256)
        made[name] = (registrar.register(make_folder(tmp_path / name, bytes([number]) * 16), own, Note("ann")), ds)
    broken, of_broken = made["broken"]
    shutil.rmtree(ArtifactStore(registrar.paths.artifacts).path(registrar.check(broken).adapter_digest))
    assert specialist_of(registrar, made["whole"][1], said.append) == made["whole"][0]
    assert specialist_of(registrar, of_broken, said.append) is None
    assert said[0].startswith(f"{broken}: passed over, ")


def test_a_folder_without_a_record_is_named_and_nothing_is_made_in_it(tmp_path, capsys):
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    state = tmp_path / "none"
    assert run(["flywheel", "run", "--state", str(state), "--registry", str(tmp_path / "registry.yaml")]) == 2
    assert str(state) in capsys.readouterr().err and not state.exists()
