"""A specialist whose live answers break their format is taken out of service, signed, and nobody's call fails."""

import asyncio
from pathlib import Path

import pytest

from registry.registrar import Note, Registrar
from tests.unit.made_specialists import make_folder, manifest

REGISTRY = """
version: 1
defaults: {frontier: big}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: big, upstream_name: echo, backend: echo, safety_grade: A, context_len: 32768,
     prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}, eval_scores: {"*": 0.97}}
  - {model_name: small, backend: echo, upstream_name: echo, safety_grade: A, supported_clusters: []}
"""
CLUSTERS = 'clusters: [{name: parcels, system_patterns: ["^You sort"]}]\n'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
BODY = {
    "model": "auto",
    "messages": [{"role": "system", "content": "You sort parcels."}, {"role": "user", "content": "to Rome"}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "parcel", "schema": SCHEMA}},
}
ANN = Note("ann")


@pytest.fixture
def start(make_client, tmp_path: Path):
    async def started(name: str):
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "clusters.yaml").write_text(CLUSTERS)
        registrar = Registrar(tmp_path / "state")
        scores = {"clusters": ("parcels",), "eval_scores": {"parcels": 0.95}, "base": "small"}
        made = registrar.register(make_folder(tmp_path / "adapter"), manifest(name, **scores), ANN)
        while registrar.history().stages[made].stage != "active":
            registrar.promote(made, ANN)
        client = await make_client(REGISTRY, policies=policies, reload_interval_s=0.05, shadow_share=0.0)
        await until(lambda: made in client.services.roster.adapter_sets()["echo"].ready_names())
        return client, made, registrar

    return started


async def until(holds):
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.05)
    assert holds()


async def test_broken_formats_take_a_specialist_out_of_service(start) -> None:
    client, made, registrar = await start("echo.malformed")
    for _ in range(100):
        response = await client.post("/v1/chat/completions", json=BODY)
        assert response.status_code == 200 and response.json()["model"] == "big"
        await asyncio.sleep(0)
        if registrar.history().stages[made].stage != "active":
            break
    entry = registrar.history().entries[-1].entry
    assert registrar.history().stages[made].stage == "shadow"
    assert entry.actor == "journeyman gateway" and "malformed answers in the last" in entry.reason
    await until(lambda: client.services.catalog.specialists[made].stage == "shadow")
    plan = (await client.get(f"/v1/plans/{(await client.post('/v1/chat/completions', json=BODY)).json()['id']}")).json()
    assert plan["primary"] == "big" and len(plan["attempts"]) == 1
    assert f'journeyman_demotions_total{{cause="formatting",specialist="{made}"}} 1.0' in (
        (await client.get("/metrics")).text
    )


async def test_a_good_one_stays(start) -> None:
    client, made, registrar = await start("sorter")
    served = [(await client.post("/v1/chat/completions", json=BODY)).json()["model"] for _ in range(80)]
    assert served.count(made) > 60
    assert registrar.history().stages[made].stage == "active"
