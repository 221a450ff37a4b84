"""A live gateway in front of the real vLLM server: its registry, its clusters, and calls as a caller makes them."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai

from pipelines.quick_trial import QUICK_PROMOTION
from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.vllm.trained_adapters import DESKS, Adapter, request
from tests.vllm.vllm_process import MODEL

READY_S = 300.0
BACKENDS = """
version: 1
defaults: {{frontier: echo}}
backends:
  - name: vllm
    kind: vllm
    url: {url}
    max_loras: 8
    breaker_open_ms: 1000
    deadlines: {{first_token_ms: 120_000, between_tokens_ms: 60_000, total_ms: 240_000}}
  - {{name: echo, kind: echo}}
models:
  - {{model_name: small, backend: vllm, upstream_name: {model}, supported_clusters: [], context_len: 1024}}
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
    eval_scores: {{"*": 0.97}}
"""
TEMPLATE = {"prompt": "{input}\n", "answer": "json"}


def specialist(adapter: Adapter, **changed: Any) -> dict[str, Any]:
    """The registry's entry of an adapter, serving the cluster of its desk."""
    return {
        "name": adapter.desk,
        "digest": adapter.digest,
        "base": "small",
        "adapter": str(adapter.folder),
        "clusters": [adapter.desk],
        "stage": "active",
        "eval_scores": {adapter.desk: 0.96},
        "template": TEMPLATE,
        "canary": adapter.canary,
    } | changed


def id_of(entry: dict[str, Any]) -> str:
    return f"{entry['name']}@{entry['digest'][:12]}"


def registry(url: str, entries: Sequence[dict[str, Any]] = ()) -> str:
    """registry.yaml; JSON is YAML."""
    return BACKENDS.format(url=url, model=MODEL) + (f"specialists: {json.dumps(list(entries))}\n" if entries else "")


def write_policies(folder: Path) -> Path:
    """A cluster for each desk, told by the system prompt; no learning, so that who answers does not drift, and nobody
    is demoted for being late where gateway, vLLM and tests share the cores.
    """
    folder.mkdir()
    clusters = [{"name": desk, "system_patterns": [f"^You sort for the {desk} desk"]} for desk in DESKS]
    (folder / "clusters.yaml").write_text(json.dumps({"clusters": clusters}))
    (folder / "planner.yaml").write_text("learning: {enabled: false}\n")
    shutil.copyfile(QUICK_PROMOTION, folder / "promotion.yaml")
    return folder


@contextlib.contextmanager
def running_fleet(
    folder: Path, url: str, entries: Sequence[dict[str, Any]] = (), **environment: str
) -> Iterator[GatewayProcess]:
    """A gateway whose specialists are all ready."""
    policies = write_policies(folder / "policies")
    environment |= {"JOURNEYMAN_POLICIES": str(policies), "JOURNEYMAN_LOAD_RECORDS": "false"}
    with running_gateway(folder, registry(url, entries), **environment) as gateway:
        wait_until_ready(gateway, [id_of(entry) for entry in entries])
        yield gateway


def readiness(gateway: GatewayProcess) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(gateway.url + "/readyz", timeout=10) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def ready_names(gateway: GatewayProcess) -> set[str]:
    return set(readiness(gateway)["adapters"].get("vllm", []))


def wait_until_ready(gateway: GatewayProcess, names: Sequence[str], most_s: float = READY_S) -> None:
    end = time.monotonic() + most_s
    while missing := set(names) - ready_names(gateway):
        assert time.monotonic() < end, f"not ready: {missing}; {readiness(gateway)}\n{gateway.log.read_text()[-3000:]}"
        time.sleep(0.3)


def messages(desk: str, number: int) -> list[dict[str, Any]]:
    """One of the agent's calls: the same system prompt each time, other words."""
    return [
        {"role": "system", "content": f"You sort for the {desk} desk."},
        {"role": "user", "content": request(number)},
    ]


def caller(gateway: GatewayProcess) -> openai.AsyncOpenAI:
    """A caller that never tries again: what fails is seen."""
    return openai.AsyncOpenAI(base_url=gateway.base_url, api_key="unused", max_retries=0, timeout=300)


async def plan_of(client: openai.AsyncOpenAI, call_id: str) -> dict[str, Any]:
    return dict(await client.get(f"/plans/{call_id}", cast_to=dict))  # type: ignore[type-var]
