"""Callers cannot make Prometheus series, however many names they think of; and what the three open routes say."""

import asyncio
import random
import re
import string
from collections.abc import Iterator

import aiohttp
import pytest

from router_service.metrics import METRICS
from tests.e2e.gateway_process import GatewayProcess, running_gateway

CALLS = 10_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("series"), JOURNEYMAN_LOG_LEVEL="error") as process:
        yield process


def name(draw: random.Random) -> str:
    return "".join(draw.choices(string.ascii_letters + string.digits + '"\\/{}= ', k=12))


async def exposition(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain")
        return await response.text()


def series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


async def call(session: aiohttp.ClientSession, url: str, draw: random.Random, kind: int) -> None:
    body: dict = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    headers, path = {}, "/v1/chat/completions"
    if kind == 0:
        body["model"] = name(draw)
    elif kind == 1:
        body["routing"] = {"task_type": name(draw), "user_tier": name(draw)}
    elif kind == 2:
        headers = {"x-journeyman-task-type": name(draw), "x-tenant": name(draw), "x-api-key": name(draw)}
        body |= {"user": name(draw), "metadata": {name(draw): name(draw)}}
    elif kind == 3:
        body["routing"] = {"safety_level": name(draw)}
    else:
        path = "/v1/" + name(draw).replace("/", "").replace("\\", "").replace(" ", "")
    async with session.post(url + path, json=body, headers=headers) as response:
        await response.read()
        assert response.status < 500


async def run_calls(url: str, count: int) -> None:
    draw = random.Random(3)
    async with aiohttp.ClientSession() as session:
        for start in range(0, count, 50):
            await asyncio.gather(*(call(session, url, draw, n % 5) for n in range(start, min(start + 50, count))))


async def test_ten_thousand_names_make_no_series(gateway: GatewayProcess) -> None:
    await run_calls(gateway.url, 50)
    before = series(await exposition(gateway.url))
    await run_calls(gateway.url, CALLS)
    assert series(await exposition(gateway.url)) == before


async def test_the_page_has_every_metric_and_counts_calls_and_refusals(gateway: GatewayProcess) -> None:
    await run_calls(gateway.url, 10)
    text = await exposition(gateway.url)
    documented = {name.removesuffix("_total") for name in METRICS}
    shown = {n.removesuffix("_total") for n in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)}
    assert documented <= {n.removesuffix("_created") for n in shown}
    assert re.search(r'^journeyman_calls_total{.*outcome="verified".*} [1-9]', text, re.MULTILINE)
    for code in ("model_not_found", "invalid_request"):
        assert re.search(rf'^journeyman_errors_total{{code="{code}",route="chat"}} [1-9]', text, re.MULTILINE), code
    assert "journeyman_calls_in_flight 0.0" in text


async def test_refused_keys_and_bodies_are_counted(gateway: GatewayProcess) -> None:
    url = gateway.base_url + "/ask"
    async with aiohttp.ClientSession() as session, session.post(url, data=b"a" * 5_000_000) as response:
        assert response.status == 413
    assert 'journeyman_errors_total{code="payload_too_large",route="ask"}' in await exposition(gateway.url)


async def test_health_and_readiness(gateway: GatewayProcess) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(gateway.url + "/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        async with session.get(gateway.url + "/readyz") as response:
            report = await response.json()
    assert report["status"] == "ready" and report["trouble"] == []
    assert report["backends"] == {"echo": {"ok": True, "reason": ""}}
    assert report["catalog"]["ok"] is True and len(report["catalog"]["digest"]) >= 12
