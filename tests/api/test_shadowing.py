"""Specialists in shadow see live calls, are compared and recorded, and never answer a caller."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from observations.records import ShadowRecord
from observations.segments import scan_segment
from router_service import shadowing
from router_service.shadowing import Mirror, is_drawn
from tests.e2e.engine_process import make_adapter

SPECIALIST = "sorter@0123456789ab"
REGISTRY = """
version: 1
defaults: {{frontier: echo}}
backends:
  - {{name: echo, kind: echo}}
models:
  - {{model_name: echo, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {{"*": 0.97}},
     prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}}}
  - {{model_name: small, backend: echo, upstream_name: echo, supported_clusters: []}}
specialists:
  - {{name: sorter, digest: "0123456789ab", base: small, adapter: {adapter}, clusters: [parcels], stage: {stage},
     template: {{prompt: "{{input}}", answer: text}}}}
"""
CLUSTERS = 'clusters: [{name: parcels, system_patterns: ["^You sort"]}]\n'
BODY = {
    "messages": [{"role": "system", "content": "You sort parcels."}, {"role": "user", "content": "to jane@example.org"}]
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    make_adapter(folder, seed=3, scale=0.001)
    return folder


@pytest.fixture
def start(make_client, adapter, tmp_path: Path):
    async def started(stage="shadow", **settings):
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "clusters.yaml").write_text(CLUSTERS)
        client = await make_client(REGISTRY.format(adapter=adapter, stage=stage), policies=policies, **settings)
        if stage != "candidate":
            await until(lambda: SPECIALIST in client.services.roster.adapter_sets()["echo"].ready_names())
        return client

    return started


async def until(holds):
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.05)
    assert holds()


def shadows(tmp_path: Path):
    files = [path for path in (tmp_path / "state" / "spool").rglob("*") if path.is_file()]
    events = [event for path in files for event in scan_segment(path.read_bytes()).events]
    return [event for event in events if isinstance(event, ShadowRecord)]


async def test_a_shadow_is_asked_compared_and_never_heard(start, tmp_path: Path) -> None:
    client = await start()
    answer = (await client.post("/v1/chat/completions", json=BODY | {"model": "auto"})).json()
    assert answer["model"] == "echo"
    await until(lambda: shadows(tmp_path))
    (seen,) = shadows(tmp_path)
    assert (seen.specialist, seen.call_id, seen.cluster) == (SPECIALIST, answer["id"], "parcels")
    assert seen.outcome == "verified" and seen.agrees is True and seen.reference == "echo"
    assert "jane@example.org" not in json.dumps(seen.answer_text), "redacted like every other record"
    plan = (await client.get(f"/v1/plans/{answer['id']}")).json()
    told = next(c for c in plan["candidates"] if c["name"] == SPECIALIST)
    assert told["rejection"]["code"] == "stage" and len(plan["attempts"]) == 1
    assert f'journeyman_shadow_total{{outcome="verified",specialist="{SPECIALIST}"}} 1.0' in (
        (await client.get("/metrics")).text
    )


@pytest.mark.parametrize(("stage", "settings"), [("candidate", {}), ("shadow", {"shadow_share": 0.0})])
async def test_nothing_is_mirrored_to_a_candidate_or_when_it_is_switched_off(start, tmp_path, stage, settings) -> None:
    client = await start(stage, **settings)
    await client.post("/v1/chat/completions", json=BODY | {"model": "auto"})
    await asyncio.sleep(0.3)
    assert shadows(tmp_path) == []


async def test_another_clusters_calls_are_not_mirrored(start, tmp_path: Path) -> None:
    client = await start()
    await client.post("/v1/chat/completions", json={"model": "auto", "messages": BODY["messages"][1:]})
    await asyncio.sleep(0.3)
    assert shadows(tmp_path) == []


async def test_what_finds_no_room_is_left_out_and_counted(start) -> None:
    client = await start(shadow_max_in_flight=1)
    backend = client.services.roster.backends()["echo"]
    gate = asyncio.Event()
    complete = backend.complete

    async def slow(call, budget_ms):
        if call.prompt is not None:
            await gate.wait()
        return await complete(call, budget_ms)

    backend.complete = slow
    for number in range(60):
        body = {"model": "auto", "messages": [BODY["messages"][0], {"role": "user", "content": f"parcel {number}"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    text = (await client.get("/metrics")).text
    assert f'journeyman_shadow_total{{outcome="shed",specialist="{SPECIALIST}"}} 27.0' in text
    gate.set()


async def test_a_shadow_whose_adapter_left_while_the_call_waited_is_not_blamed(start, tmp_path, monkeypatch) -> None:
    client = await start()
    adapters = client.services.roster.adapter_sets()["echo"]
    offer = Mirror.offer

    def offer_and_leave(mirror, job, served):
        offer(mirror, job, served)
        adapters.want({})

    monkeypatch.setattr(Mirror, "offer", offer_and_leave)
    await client.post("/v1/chat/completions", json=BODY | {"model": "auto"})
    await asyncio.sleep(0.3)
    assert f'journeyman_shadow_total{{outcome="shed",specialist="{SPECIALIST}"}} 1.0' in (
        (await client.get("/metrics")).text
    )
    assert shadows(tmp_path) == []


async def test_a_mirrored_call_lets_a_callers_go_first_but_not_for_ever(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shadowing, "PATIENCE_S", 0.5)
    client = await start()
    lulls, backend = client.services.roster.lulls, client.services.roster.backends()["echo"]
    complete, seen = backend.complete, []

    async def watched(call, budget_ms):
        seen.append((call.prompt is not None, lulls.is_answering("echo"), time.monotonic()))
        return await complete(call, budget_ms)

    monkeypatch.setattr(backend, "complete", watched)
    with lulls.answering("echo"):
        await client.post("/v1/chat/completions", json=BODY | {"model": "auto"})
        await until(lambda: shadows(tmp_path))
    await client.post("/v1/chat/completions", json=BODY | {"model": "auto"})
    await until(lambda: len(shadows(tmp_path)) == 2)
    (_, _, asked_s), mirrored, live, mirrored_again = seen
    assert mirrored[:2] == (True, True) and mirrored[2] - asked_s >= 0.5
    assert live[:2] == (False, True) and mirrored_again[:2] == (True, False)


def test_the_share_that_is_mirrored_is_the_share_asked_for() -> None:
    drawn = sum(is_drawn(f"call_{number}", SPECIALIST, 0.2) for number in range(5_000))
    assert 900 < drawn < 1_100
    assert is_drawn("x", "y", 1.0) and not is_drawn("x", "y", 0.0)
