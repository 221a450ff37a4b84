"""A specialist of the registry behind a live gateway: a real adapter, loaded into the real engine, its template."""

import json
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from tests.e2e.engine_process import make_adapter
from tests.e2e.gateway_process import GatewayProcess, running_gateway

SYSTEM = "You sort parcels for a depot."
SPECIALIST = "sorter@0123456789ab"
REGISTRY = """
version: 1
defaults: {{frontier: echo}}
backends:
  - {{name: engine, kind: embedded, model: smollm2-135m-instruct}}
  - {{name: echo, kind: echo}}
models:
  - {{model_name: small, backend: engine, upstream_name: smollm2-135m-instruct, supported_clusters: []}}
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
    eval_scores: {{"*": 0.97}}
specialists:
  - name: sorter
    digest: "0123456789ab"
    base: small
    adapter: {adapter}
    clusters: [parcels]
    stage: active
    eval_scores: {{parcels: 0.95}}
    template: {{prompt: "{{input}}\\n", answer: text}}
    {threshold}
"""
CLUSTERS = """
clusters:
  - {name: parcels, system_patterns: ["^You sort parcels"]}
"""


def ask(gateway: GatewayProcess, words: str) -> tuple[str, dict]:
    client = openai.OpenAI(base_url=gateway.base_url, api_key="unused", timeout=60)
    raw = client.chat.completions.with_raw_response.create(
        model="auto",
        max_tokens=6,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}],
    )
    answer = raw.parse()
    return answer.model, client.get(f"/plans/{answer.id}", cast_to=dict)  # type: ignore[return-value]


def wait_for_specialist(gateway: GatewayProcess) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with urllib.request.urlopen(gateway.url + "/readyz", timeout=5) as response:
            if SPECIALIST in json.load(response)["adapters"].get("engine", []):
                return
        time.sleep(0.3)
    raise AssertionError("the adapter was never ready")


@pytest.mark.engine
@pytest.mark.parametrize("threshold", ["", "confidence_threshold: -0.000001"])
def test_it_answers_its_cluster_unless_its_confidence_is_below_its_threshold(tmp_path: Path, threshold: str) -> None:
    make_adapter(tmp_path / "adapter", seed=3, scale=0.001)
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "clusters.yaml").write_text(CLUSTERS)
    registry = REGISTRY.format(adapter=tmp_path / "adapter", threshold=threshold)
    with running_gateway(tmp_path, registry, JOURNEYMAN_POLICIES=str(policies)) as gateway:
        wait_for_specialist(gateway)
        model, plan = ask(gateway, "The capital of France is")
        assert plan["cluster_id"] == "parcels" and plan["primary"] == SPECIALIST
        first = plan["attempts"][0]
        assert first["candidate"] == SPECIALIST
        assert first["prompt_tokens"] < 15, "the template sends what varies, not the system prompt"
        if threshold:
            assert (first["outcome"], model) == ("unsure", "echo") and plan["escalated"]
            assert first["confidence"] < -0.000001
        else:
            assert (first["outcome"], model) == ("verified", SPECIALIST)
