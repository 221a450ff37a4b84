"""`journeyman erase` on a state with a record, reports, datasets and specialists; and beside a loader that runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec import structs

from observations.erasure import recorded_end_users
from observations.queries import find_call
from observations.records import FeedbackRecord
from observations.spool import Spool
from observations.state import StatePaths
from pipelines.curate import curate
from pipelines.dataset_contents import Choice, choose
from pipelines.datasets import DatasetStore
from pipelines.promote import look_at_all
from pipelines.run import RUNS, Run
from policies.promotion import Gates, PromotionPolicy
from registry.artifacts import ArtifactStore
from registry.registrar import Note, Registrar
from router_service.cli import run
from router_service.services import hash_key
from tests.flows.mirrored_calls import mirrored, shadow_of
from tests.flows.recorded_state import record
from tests.unit.curated_calls import calls
from tests.unit.made_specialists import make_folder, manifest
from tests.unit.recorded_calls import START_MS, call

CANARY = "xylophone-marmalade-7731"


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").create()


def said(number: int, name: str = "", **fields):
    words = {"messages": [{"role": "user", "content": f"{CANARY} number {number}"}], "answer_text": CANARY}
    made = call(number, **(words | fields))
    return structs.replace(made, id=name) if name else made


def erased(state: StatePaths, capsys, *arguments: str) -> dict:
    assert run(["erase", *arguments, "--state", str(state.root), "--yes", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def holding(state: StatePaths, text: str = CANARY) -> set[str]:
    files = [path for path in state.root.rglob("*") if path.is_file()]
    return {path.name for path in files if text.encode() in path.read_bytes()}


def test_the_record_is_emptied_once_and_for_good(state, capsys):
    record(state, [said(1), call(2), FeedbackRecord(id="f", call_id=call(1).id, at_ms=START_MS, comment=CANARY)])
    assert holding(state) == {"observations.duckdb"}
    report = erased(state, capsys, call(1).id, "chatcmpl-unknown")
    assert (report["erased"], report["before"], report["unknown"]) == ([call(1).id], [], ["chatcmpl-unknown"])
    assert holding(state) == set() and report["waiting"] == []
    assert find_call(state, call(2).id) == call(2)
    again = erased(state, capsys, call(1).id)
    assert (again["erased"], again["before"]) == ([], [call(1).id])
    record(state, [said(1), said(3, "chatcmpl-unknown")])
    assert holding(state) == set() and find_call(state, "chatcmpl-unknown").erased_at_ms


def test_an_end_user_and_a_tenant(state, capsys):
    hash_key(state.root / "hash.key")
    ann = recorded_end_users(state, "ann")[1]
    record(state, [said(n, end_user=ann, tenant="a" if n < 3 else "b") for n in range(5)] + [call(9)])
    report = erased(state, capsys, "--end-user", "ann", "--tenant", "a")
    assert len(report["erased"]) == 3 and find_call(state, call(4).id).messages
    assert run(["erase", call(4).id, "--tenant", "a", "--state", str(state.root), "--yes"]) == 2
    assert "is a call of the tenant b" in capsys.readouterr().err
    assert len(erased(state, capsys, "--end-user", ann)["erased"]) == 2
    assert erased(state, capsys, "--end-user", "ann")["erased"] == []
    assert holding(state) == set()


def test_what_the_loop_made_of_a_call_is_listed_and_reports_no_longer_quote_it(state, capsys):
    specialist = shadow_of(state, "poor")
    rows = [event for n in range(40) for event in (said(n, f"call_{n}"), mirrored(specialist, n, agrees=n > 20))]
    record(state, rows)
    look_at_all(state, PromotionPolicy(gates=Gates(escalations=0.4)), move=False)
    store = DatasetStore(state.root)
    held = [calls(240)[n] for n in range(240)]
    ds = store.add("parcels", choose("t-0123456789", held, Choice()))
    registrar = Registrar(state.root)
    learnt = registrar.register(
        make_folder(state.root.parent / "l", b"\x05" * 16),
        manifest("learnt", dataset=ds.uri, dataset_sha256=ds.sha256), Note("ann"),
    )  # fmt: skip
    gone = next(iter(ds.parts_of_calls()))
    curated = state.root / RUNS / "r1" / "curate" / "curated.jsonl"
    curated.parent.mkdir(parents=True)
    curated.write_text(json.dumps({"call_id": gone, "input": CANARY}) + "\n")
    (state.quarantine / "20260101-segment.sealed").write_text(f'"{gone}"')
    (state.quarantine / "20260101-observations.duckdb").write_bytes(b"?")
    page = state.root / "reports" / specialist / "promotion.html"
    assert "call_20<" in page.read_text()
    report = erased(state, capsys, gone, "call_20")
    assert report["left"]["datasets"] == {ds.uri: [gone]}
    assert report["left"]["specialists"] == {learnt: ds.uri}
    assert report["left"]["files"] == {str(curated): [gone]}
    assert {Path(path).name: found for path, found in report["left"]["quarantine"].items()} == {
        "20260101-segment.sealed": [gone],
        "20260101-observations.duckdb": [],
    }
    assert report["reports"] == [str(page.parent)] and "call_20<" not in page.read_text()
    assert run(["erase", gone, "--state", str(state.root), "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"{ds.uri}: {gone}" in told and learnt in told and str(curated) in told


def test_what_cannot_be_read_does_not_hide_what_else_holds_a_call(state, capsys):
    store, registrar, made = DatasetStore(state.root), Registrar(state.root), {}
    for number, name in enumerate(("broken", "parcels", "whole")):
        ds = store.add(name, choose("t-0123456789", calls(240), Choice()))
        folder = make_folder(state.root.parent / name, bytes([number + 1]) * 16)
        own = manifest(name, dataset=ds.uri, dataset_sha256=ds.sha256)
        made[name] = (registrar.register(folder, own, Note("ann")), ds)
    record(state, [said(1)])
    gone = next(iter(made["whole"][1].parts_of_calls()))
    (made["broken"][1].folder / "manifest.json").chmod(0o600)
    (made["broken"][1].folder / "manifest.json").write_text("{")
    shutil.rmtree(ArtifactStore(registrar.paths.artifacts).path(registrar.check(made["parcels"][0]).adapter_digest))
    training = state.root / RUNS / "r1" / "train" / "training.json"
    training.parent.mkdir(parents=True)
    training.write_text("[]")
    left = erased(state, capsys, gone)["left"]
    assert left["datasets"] == {made[name][1].uri: [gone] for name in ("parcels", "whole")}
    assert left["specialists"] == {made["whole"][0]: made["whole"][1].uri}
    told = "\n".join(left["unchecked"])
    assert len(left["unchecked"]) == 3 and str(training) in told and str(made["broken"][1].folder) in told


def test_curation_leaves_an_erased_call_out_and_notices_a_later_erasure(state, capsys):
    record(
        state,
        [
            call(n, messages=[{"role": "user", "content": f"word{n} " * 9}], served_by="big", frontier="big")
            for n in range(3)
        ],
    )
    with Run.open(state.root / RUNS, "r", say=lambda line: None) as one:
        assert curate(state, one).report.kept == 3
    report = erased(state, capsys, call(1).id)
    assert [Path(path).name for path in report["left"]["files"]] == ["curated.jsonl"]
    with Run.open(state.root / RUNS, "r", say=lambda line: None) as one:
        again = curate(state, one)
    assert not again.skipped and again.report.kept == 2 and again.report.dropped["erased"].calls == 1
    assert call(1).id not in again.rows.read_text()


def test_it_asks_first_and_refuses_what_cannot_be(state, tmp_path, capsys, monkeypatch):
    record(state, [said(1)])
    empty = tmp_path / "empty"
    empty.mkdir()
    base = ["--state", str(state.root)]
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115, PTH123  nobody there to say yes
    assert run(["erase", call(1).id, *base]) == 130
    assert find_call(state, call(1).id).messages
    for wrong, words in (
        ([*base, "--yes"], "Name calls by their ids"),
        (["x y", *base, "--yes"], "is no call id"),
        ([call(1).id, *base, "--json"], "say --yes"),
        ([call(1).id, "--state", str(tmp_path / "none"), "--yes"], "There is no state directory"),
        ([call(1).id, "--state", str(empty), "--yes"], "holds no record"),
    ):
        assert run(["erase", *wrong]) == 2
        assert words in capsys.readouterr().err


def test_beside_a_running_gateway_and_its_loader(state, capsys):
    """The call is in a segment that its writer has open, and another process holds the loader's lock by turns."""
    spool = Spool.open(state.spool)
    spool.append(said(1))
    command = [
        sys.executable,
        "-m",
        "observations.loader",
        "--state",
        str(state.root),
        "--parent-pid",
        str(os.getpid()),
    ]
    loader = subprocess.Popen([*command, "--interval-s", "0.05"], stderr=subprocess.PIPE)
    try:
        while not state.loader_status.exists():
            time.sleep(0.05)
        report = erased(state, capsys, call(1).id)
        assert report["erased"] == [call(1).id] and report["waiting"] == []
        assert holding(state) == set()
        spool.append(FeedbackRecord(id="late", call_id=call(1).id, at_ms=START_MS, comment=CANARY))
        spool.append(call(2))
        spool.close()
        deadline = time.monotonic() + 20
        while holding(state) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert holding(state) == set() and find_call(state, call(2).id) == call(2)
    finally:
        loader.terminate()
        loader.wait()
