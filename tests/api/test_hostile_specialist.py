"""A live specialist whose answers are found wrong: how it is closed, what is said of it, and how it comes back."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.api.test_learning import candidate, judge, plan_of

NAME = "sorter@0123456789ab"
REGISTRY = """
version: 1
defaults: {frontier: frontier}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: frontier, upstream_name: echo, backend: echo, safety_grade: A, eval_scores: {"*": 0.97},
     prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
specialists:
  - {name: sorter, digest: "0123456789ab", base: frontier, adapter: ., clusters: [parcels], stage: active,
     eval_scores: {"*": 0.95}, confidence_threshold: -50.0, prices: {input_usd_per_mtok: 0.01}}
"""
POLICY = "confidence: {min_sample: 60, max_accepted_wrong: %s}\nlearning: {exploration_share: 0.5}\n"


def planner(folder: Path, bound: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "planner.yaml").write_text(POLICY % bound)
    (folder / "clusters.yaml").write_text("clusters: [{name: parcels, keywords: [parcel]}]")
    return folder


async def ready(make_client, tmp_path: Path, bound: float):
    """A client of a gateway whose specialist is loaded."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 16)
    client = await make_client(REGISTRY, policies=planner(tmp_path / "policies", bound))
    for _ in range(100):
        if "rejection" not in candidate(await plan_of(client, "my parcel"), NAME):
            return client
        plan = candidate(await plan_of(client, "my parcel"), NAME)
        if plan["rejection"]["code"] != "health":
            return client
        await asyncio.sleep(0.05)
    raise AssertionError("the specialist was not loaded")


async def close(client) -> None:
    """Call every second answer wrong until none is believed any more."""
    for number in range(100):
        plan = await plan_of(client, f"parcel {number}", model=NAME)
        await judge(client, plan["id"], outcome="failure" if number % 2 else "success")
        if candidate(await plan_of(client, "my parcel"), NAME).get("rejection", {}).get("code") == "confidence":
            return
    raise AssertionError("never closed")


async def test_a_closed_specialist_says_why_wherever_it_is_looked_at(make_client, tmp_path: Path) -> None:
    client = await ready(make_client, tmp_path, 0.05)
    await close(client)
    seen = await plan_of(client, "my parcel")
    assert seen["primary"] == "frontier"
    assert candidate(seen, NAME)["rejection"]["code"] == "confidence"
    response = await client.post("/v1/ask", json={"prompt": "my parcel", "model": NAME})
    assert response.status_code == 422 and "none of its answers may be believed" in response.text
    shown = await client.get(f"/v1/plans/{seen['id']}")
    json.loads(shown.text, parse_constant=pytest.fail)
    text = re.sub(r'le="\+Inf"', "", (await client.get("/metrics")).text)
    assert not re.search(r" (nan|[+-]?inf)$", text, re.MULTILINE | re.IGNORECASE)


async def test_a_closed_specialist_stays_closed_over_a_restart_and_opens_under_a_wider_bound(
    make_client, tmp_path: Path
) -> None:
    first = await ready(make_client, tmp_path, 0.05)
    await close(first)
    await first.__aexit__(None, None, None)
    again = await ready(make_client, tmp_path, 0.05)
    assert candidate(await plan_of(again, "my parcel"), NAME)["rejection"]["code"] == "confidence"
    await again.__aexit__(None, None, None)
    wider = await ready(make_client, tmp_path, 0.9)
    assert (await plan_of(wider, "my parcel", model=NAME))["primary"] == NAME
