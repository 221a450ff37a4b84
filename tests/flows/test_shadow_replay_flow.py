"""A registered specialist proves itself on recorded calls: asked once each, recorded, judged by people, promoted."""

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from observations.records import CallRecord, FeedbackRecord, ShadowRecord
from observations.spool import Spool
from observations.state import StatePaths
from pipelines.dataset_contents import Choice, choose
from pipelines.datasets import DatasetStore
from pipelines.promote import look_at_all
from pipelines.shadow_command import shadow
from pipelines.shadow_replay import ReplayOptions, replay, replay_to_shadows
from policies.promotion import Gates, PromotionPolicy, Step
from registry.entries import CanaryEntry
from registry.errors import BackendError, BadInputError, EnvironmentFaultError, NotFoundError
from registry.loading import load_catalog
from registry.registrar import Note, Registrar
from tests.flows.recorded_state import record
from tests.flows.specialist_server import specialist_server
from tests.unit.curated_calls import curated
from tests.unit.made_specialists import make_folder, manifest
from tests.unit.recorded_calls import ask
from tests.unit.tiny_model import write_tiny_model

ANN = Note("ann", "to be proven")
AT_ONCE = ReplayOptions(wait_s=0.0)
REGISTRY = """
version: 1
defaults: {{frontier: large}}
backends:
  - {{name: cluster, kind: {kind}, {place}}}
  - {{name: echo, kind: echo}}
models:
  - {{model_name: small, backend: cluster, prices: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}}}
  - {{model_name: large, backend: echo, safety_grade: A}}
"""


def told(number):
    """Half of the calls are judged: one of eight of those was answered wrongly and corrected."""
    if number % 2 == 0:
        return curated(number)
    return curated(number, answer_source="correction" if number % 16 == 1 else "feedback")


@pytest.fixture
def state(tmp_path):
    return StatePaths(tmp_path / "state").create()


@pytest.fixture
def server():
    with specialist_server() as served:
        yield served


def catalog_at(folder, server):
    path = folder / "registry.yaml"
    path.write_text(REGISTRY.format(kind="vllm", place=f'url: "{server.url}", max_retries: 0'))
    return load_catalog(path).catalog


@pytest.fixture
def catalog(tmp_path, server):
    return catalog_at(tmp_path, server)


def shadow_of(state, dataset, adapter, **other):
    """Register a specialist of a dataset and move it to shadow."""
    registrar = Registrar(state.root)
    given = {
        "dataset": dataset.uri,
        "dataset_sha256": dataset.sha256,
        "clusters": (dataset.manifest.cluster,),
        "template": dataset.manifest.template,
        "confidence_threshold": -1.0,
    }
    made = registrar.register(adapter, manifest("bank", **given | other), ANN)
    registrar.promote(made, ANN)
    return made


@pytest.fixture
def dataset(state):
    return DatasetStore(state.root).add("bank", choose("bank", [told(n) for n in range(400)], Choice()))


@pytest.fixture
def made(state, dataset, server, tmp_path):
    specialist = shadow_of(state, dataset, make_folder(tmp_path / "adapter"))
    server.served = {"small", specialist}
    return specialist


def test_held_back_calls_are_asked_once_each_and_judged_by_what_people_said(state, catalog, made, dataset, server):
    part = list(dataset.rows("shadow"))
    server.wrong = ("holiday fund",)
    server.unsure = ("rent",)
    report = replay(state, catalog, made, AT_ONCE)
    wrong = [one for one in part if "holiday fund" in one.prompt]
    corrected = [one for one in part if one.answer_source == "correction"]
    assert (report.asked, report.waiting, report.judged) == (len(part), 0, len(part))
    assert report.right == len(part) - len(wrong) and report.believed_wrong == len(wrong) > 0
    assert report.reference_right == len(part) - len(corrected) < len(part)
    assert report.believed == sum("rent" not in one.prompt for one in part) < len(part)
    assert sorted(server.prompts) == sorted(one.prompt for one in part)
    rows = ask(
        state,
        'SELECT source, cluster, outcome, agrees, "right", reference_right, cost_usd, reference_cost_usd, reference, '
        "reference_latency_ms, confidence, threshold FROM slm_shadow WHERE call_id = ?",
        next(one for one in corrected if one not in wrong and "rent" not in one.prompt).call_id,
    )
    assert rows == [("replay", "bank", "verified", False, True, False, 30e-6, 0.001, "large", 800.0, -0.1, -1.0)]
    assert replay(state, catalog, made, AT_ONCE).asked == 0 and len(server.prompts) == len(part)


def test_those_that_people_judged_come_first_and_a_replay_goes_on_where_it_was(state, catalog, server, tmp_path):
    few = [curated(n, answer_source="feedback" if n % 20 == 0 else "verified") for n in range(400)]
    dataset = DatasetStore(state.root).add("bank", choose("bank", few, Choice()))
    specialist = shadow_of(state, dataset, make_folder(tmp_path / "adapter"))
    server.served = {specialist}
    judged = sum(one.is_judged for one in dataset.rows("shadow"))
    first = replay(state, catalog, specialist, ReplayOptions(max_calls=judged + 3, timed=2, wait_s=0))
    assert (first.asked, first.judged, first.waiting) == (judged + 3, judged, dataset.sizes()["shadow"] - judged - 3)
    assert ask(state, "SELECT count(latency_ms), count(*) FROM slm_shadow") == [(2, judged + 3)]
    second = replay(state, catalog, specialist, AT_ONCE)
    assert (second.asked, second.judged, second.waiting) == (first.waiting, 0, 0)
    assert len(server.prompts) == len(set(server.prompts))


def test_what_was_replayed_promotes_a_specialist_and_counts_anew_when_it_comes_back(state, catalog, made, dataset):
    part = dataset.sizes()["shadow"]
    gates = Gates(success_parity=0.7, cost_saving=0.3, accepted_wrong=0.2, well_formed=0.9, escalations=0.2)
    steps = (Step(stage="shadow", min_calls=100, prove="all", mode="auto"), *PromotionPolicy().steps[1:])
    policy = PromotionPolicy(gates=gates, steps=steps)
    replay(state, catalog, made, AT_ONCE)
    (look,) = look_at_all(state, policy)
    assert look.decision.verdict == "promote" and look.trial.calls == part, look.decision.reasons
    assert look.trial.fixed == sum(one.answer_source == "correction" for one in dataset.rows("shadow"))
    assert look.trial.broken == 0 and look.trial.success_parity.n == part
    Registrar(state.root).demote(made, ANN, "shadow")
    assert look_at_all(state, policy, move=False)[0].trial.calls == 0
    assert replay(state, catalog, made, AT_ONCE).asked == part
    assert look_at_all(state, policy, move=False)[0].trial.calls == part


def test_from_a_hundred_calls_on_that_people_judged_the_others_do_not_say_what_is_right(state, made):
    calls_ = [
        CallRecord(id=f"c{n}", at_ms=4_000_000_000_000 + n, cluster="bank", served_by="large", outcome="verified")
        for n in range(150)
    ]
    mirrored = [
        {"id": f"c{n}:{made}", "at_ms": call.at_ms, "call_id": call.id, "specialist": made, "agrees": n % 10 > 0}
        for n, call in enumerate(calls_)
    ]
    figures = {"outcome": "verified", "latency_ms": 1.0, "reference_verified": True, "reference_latency_ms": 9.0}
    record(state, [*calls_, *(ShadowRecord(**one, **figures) for one in mirrored)])
    said = [FeedbackRecord(id=f"f{n}", call_id=f"c{n}", at_ms=5, outcome="success") for n in range(100)]
    record(state, said[:99])
    (look,) = look_at_all(state, PromotionPolicy(), move=False)
    assert (look.trial.calls, look.trial.success_parity.n, look.trial.accepted_wrong.n) == (150, 150, 150)
    record(state, said[99:])
    (look,) = look_at_all(state, PromotionPolicy(), move=False)
    assert (look.trial.calls, look.trial.success_parity.n, look.trial.accepted_wrong.n) == (150, 100, 100)
    assert look.trial.well_formed.n == 150 and look.trial.broken == 10


def test_a_call_that_two_replays_asked_at_once_counts_once(state, made):
    figures = {"specialist": made, "outcome": "verified", "agrees": True, "reference_verified": True}
    for later_ms in (0, 60_000):  # loaded one after the other
        ids = [(f"c{n}:{made}", f"c{n}", 4_000_000_000_000 + n + later_ms) for n in range(20)]
        record(state, [ShadowRecord(id=i, call_id=call, at_ms=at, **figures) for i, call, at in ids])
    (look,) = look_at_all(state, PromotionPolicy(), move=False)
    assert (look.trial.calls, look.trial.accepted_wrong.n) == (20, 20)


def test_a_replay_writes_beside_a_running_gateways_loader_and_spool(state, catalog, made, dataset):
    gateway = Spool.open(state.spool)
    command = [sys.executable, "-m", "observations.loader", "--state", str(state.root), "--interval-s", "0.05"]
    loader = subprocess.Popen([*command, "--parent-pid", str(os.getpid())], stderr=subprocess.DEVNULL)
    try:
        gateway.append(CallRecord(id="live", at_ms=1))
        report = replay(state, catalog, made, AT_ONCE)
        gateway.seal()
        deadline = time.monotonic() + 20
        while not ask(state, "SELECT id FROM slm_observation_raw") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ask(state, "SELECT id FROM slm_observation_raw") == [("live",)]
        assert ask(state, "SELECT count(*), count(DISTINCT id) FROM slm_shadow") == [(report.asked, report.asked)]
        assert report.asked == dataset.sizes()["shadow"]
    finally:
        gateway.close()
        loader.terminate()
        loader.wait(20)


def test_a_backend_that_fails_half_way_costs_what_was_not_answered_yet(state, catalog, made, server):
    server.fails_after = 7
    with pytest.raises(BackendError):
        replay(state, catalog, made, AT_ONCE)
    assert ask(state, "SELECT count(*) FROM slm_shadow WHERE outcome = 'verified'") == [(7,)]
    server.fails_after = None
    replay(state, catalog, made, AT_ONCE)
    assert len(server.prompts) == len(set(server.prompts))


def test_one_that_cannot_be_asked_now_does_not_keep_the_others_from_it(state, catalog, made, dataset, server, tmp_path):
    other = shadow_of(state, dataset, make_folder(tmp_path / "other", b"\x03" * 16))
    lines = []
    (report,) = replay_to_shadows(state, catalog, AT_ONCE, lines.append)
    assert (report.specialist, report.asked) == (made, dataset.sizes()["shadow"])
    assert any(line.startswith(f"{other}: nothing is replayed, The backend") for line in lines)
    server.served.add(other)
    assert [one.specialist for one in replay_to_shadows(state, catalog, AT_ONCE, lines.append)] == [other]


def test_what_cannot_be_replayed_is_told_with_its_mend(state, catalog, made, dataset, server, tmp_path):
    server.served = {"small"}
    with pytest.raises(EnvironmentFaultError, match=f"'cluster' does not serve {made}: start the gateway"):
        replay(state, catalog, made, AT_ONCE)
    with pytest.raises(NotFoundError, match="nobody"):
        replay(state, catalog, "nobody", AT_ONCE)
    Registrar(state.root).demote(made, ANN, "candidate")
    with pytest.raises(BadInputError, match="in the stage candidate"):
        replay(state, catalog, made, AT_ONCE)
    canary = CanaryEntry(prompt="what is my balance\n", text="something else")
    server.served = {shadow_of(state, dataset, make_folder(tmp_path / "other", b"\x03" * 16), canary=canary)}
    with pytest.raises(EnvironmentFaultError, match="does not decode its canary"):
        replay(state, catalog, *server.served, AT_ONCE)
    assert ask(state, "SELECT count(*) FROM slm_shadow") == [(0,)]


def test_the_command_replays_to_everyone_in_shadow_and_says_what_came_of_it(state, made, dataset, catalog, tmp_path):
    arguments = ["--state", str(state.root), "--registry", str(tmp_path / "registry.yaml")]
    done = CliRunner().invoke(shadow, [*arguments, "--max-calls", "10", "--json"], catch_exceptions=False)
    (report,) = json.loads(done.stdout)
    assert (report["specialist"], report["asked"], report["right"]) == (made, 10, 10)
    done = CliRunner().invoke(shadow, [made, *arguments], catch_exceptions=False)
    assert f"{dataset.sizes()['shadow'] - 10} calls replayed" in done.stdout and "10 of" not in done.stdout
    assert "nothing left to replay" in CliRunner().invoke(shadow, [made, *arguments]).stdout


def test_the_embedded_engine_is_asked_in_this_process_with_the_adapter(state, tmp_path):
    pytest.importorskip("peft", reason="the training extra is not installed")
    text = [curated(n, response_format=None, answer_text=f"answer {n}", answer_source="verified") for n in range(150)]
    dataset = DatasetStore(state.root).add("bank", choose("bank", text, Choice()))
    model = write_tiny_model(tmp_path / "model")
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY.format(kind="embedded", place=f'model: "{model}"'))
    made = shadow_of(state, dataset, adapter_for(model, tmp_path / "adapter"))
    report = replay(state, load_catalog(path).catalog, made, ReplayOptions(timed=3, threads=1))
    assert report.asked == dataset.sizes()["shadow"] > 10
    rows = ask(state, "SELECT latency_ms, confidence, completion_tokens, outcome FROM slm_shadow ORDER BY at_ms")
    assert sum(row[0] is not None for row in rows) == 3 and report.latency_p50_ms > 0
    assert all(row[1] < 0 < row[2] and row[3] in ("unsure", "malformed") for row in rows)


def adapter_for(model, folder):
    """An adapter as PEFT begins it: it changes nothing yet."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model))
    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    return folder
