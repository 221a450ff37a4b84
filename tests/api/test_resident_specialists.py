"""A gateway with more specialists than places: who is loaded follows the calls; a plan says how long a load takes."""

import asyncio
from pathlib import Path

import pytest

from specialists.echo import EchoBackend

FIRST, SECOND = "first@0123456789ab", "second@0123456789ab"
REGISTRY = """
version: 1
defaults: {{frontier: big}}
backends:
  - {{name: provider, kind: echo}}
  - {{name: few, kind: echo, max_cpu_loras: 1}}
models:
  - {{model_name: big, backend: provider, upstream_name: echo, safety_grade: A, context_len: 32768,
     eval_scores: {{"*": 0.9}}, max_tokens_per_s: 1000, first_token_ms: 50,
     prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}}}
  - {{model_name: small, backend: few, upstream_name: echo, supported_clusters: [], safety_grade: A,
     context_len: 32768, max_tokens_per_s: 1000, first_token_ms: 50}}
specialists:
  - {{name: first, digest: "0123456789ab", base: small, adapter: {adapter}, clusters: [letters], stage: active,
     eval_scores: {{letters: 0.99}}}}
  - {{name: second, digest: "0123456789ab", base: small, adapter: {adapter}, clusters: [parcels], stage: active,
     eval_scores: {{parcels: 0.99}}}}
"""
CLUSTERS = """
clusters:
  - {name: letters, system_patterns: ["^You sort letters"]}
  - {name: parcels, system_patterns: ["^You sort parcels"]}
"""


@pytest.fixture
async def client(make_client, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("specialists.placement.MIN_STAY_S", 0.0)
    for folder in ("adapter", "policies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "policies" / "clusters.yaml").write_text(CLUSTERS)
    return await make_client(REGISTRY.format(adapter=tmp_path / "adapter"), policies=tmp_path / "policies")


async def ask(client, what, model="auto", **routing):
    messages = [{"role": "system", "content": f"You sort {what}."}, {"role": "user", "content": "where does it go?"}]
    body = {"model": model, "messages": messages, "routing": routing}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    plan = (await client.get(f"/v1/plans/{answer['id']}")).json() if "id" in answer else None
    return answer, plan


def seen(plan, name):
    return next(one for one in plan["candidates"] if one["name"] == name)


async def resident(client):
    return (await client.get("/readyz")).json()["placement"]["few"]["resident"]


async def until(holds):
    for _ in range(200):
        if await holds():
            return
        await asyncio.sleep(0.02)
    assert await holds()


async def test_who_is_loaded_follows_the_calls(client):
    for what, mine, other in (("letters", FIRST, SECOND), ("parcels", SECOND, FIRST)):
        for _ in range(120):
            answer, plan = await ask(client, what)
            if answer["model"] == mine:
                break
            told = seen(plan, mine)["rejection"]
            assert told["code"] == "health" and "there is room for 1, and others are asked for more" in told["reason"]
            assert answer["model"] == "big"
        assert answer["model"] == mine and await resident(client) == [mine]
        (shown,) = (await client.get("/readyz")).json()["placement"].values()
        assert shown["limit"] == 1 and shown["demand"].keys() == {mine, other}
        assert set(client.services.roster.backends()["few"].inner.adapters) == {mine}
    metrics = (await client.get("/metrics")).text
    assert 'journeyman_adapters_resident{backend="few"} 1.0' in metrics
    assert 'journeyman_adapter_loads_total{backend="few",outcome="loaded"} ' in metrics


async def test_a_load_that_fits_the_call_s_time_is_waited_for_and_one_that_does_not_is_not(client, monkeypatch):
    original = EchoBackend.load_adapter

    async def slowly(self, name, path):
        await asyncio.sleep(0.4)
        await original(self, name, path)

    monkeypatch.setattr(EchoBackend, "load_adapter", slowly)
    roster = client.services.roster
    for _ in range(10):
        roster.backends()["few"].asked([FIRST])
    await until(lambda: _ready(roster, FIRST))

    for _ in range(400):
        roster.backends()["few"].placement.asked([SECOND], 0.0)
    answer, plan = await ask(client, "parcels", latency_budget_ms=500)
    told = seen(plan, SECOND)["rejection"]
    assert answer["model"] == "big" and told["code"] == "latency" and "budget is 500 ms" in told["reason"]
    await until(lambda: _ready(roster, SECOND))
    for _ in range(400):
        roster.backends()["few"].placement.asked([FIRST], 0.0)
    answer, plan = await ask(client, "letters", latency_budget_ms=60_000)
    assert answer["model"] == FIRST
    assert seen(plan, FIRST)["load_ms"] > 0
    assert seen(plan, FIRST)["expected_latency_p95_ms"] > seen(plan, FIRST)["load_ms"]
    (attempt,) = plan["attempts"]
    assert attempt["latency_ms"] >= 300


async def _ready(roster, name):
    return name in roster.adapter_sets()["few"].ready_names()


async def test_a_specialist_that_is_asked_for_by_name_is_loaded(client):
    for name in (FIRST, SECOND, FIRST):
        for _ in range(120):
            answer, _ = await ask(client, "nothing in particular", model=name)
            if answer.get("model") == name:
                break
            assert "room for 1" in answer["error"]["message"]
        assert answer["model"] == name and await resident(client) == [name]
