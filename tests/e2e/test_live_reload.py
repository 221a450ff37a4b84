"""Edits of registry.yaml under live traffic: the good ones count within two seconds, the bad ones change nothing."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from tests.e2e.gateway_process import GatewayProcess, running_gateway

GOOD = """
version: 1
defaults: {{frontier: {frontier}}}
backends:
  - {{name: echo, kind: echo{extra}}}
models:
  - {{model_name: {frontier}, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {{"*": 0.95}}}}
"""
ONE = GOOD.format(frontier="one", extra="")
TWO = GOOD.format(frontier="two", extra="")
OTHER_BACKEND = GOOD.format(frontier="one", extra=", max_connections: 7")
BAD = {
    "an unknown key": ONE.replace("version: 1", "version: 1\nfrontier_model: x"),
    "a backend that is not there": ONE.replace("backend: echo", "backend: ech0"),
    "not YAML": ONE + "  - {",
    "empty": "",
    "binary": "\x00\x01",
}
SLOW = """
version: 1
defaults: {frontier: slow}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: slow, upstream_name: "echo:slow", backend: echo, safety_grade: A, eval_scores: {"*": 0.95}}
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("reload"), ONE) as gateway:
        yield gateway


@pytest.fixture
async def live(process: GatewayProcess) -> AsyncIterator[GatewayProcess]:
    """The gateway with the first registry in force."""
    edit(process, ONE)
    await until(lambda: served_by(process), "one", 10)
    yield process


def edit(process: GatewayProcess, text: str) -> None:
    draft = process.registry.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(process.registry)


async def until(look: Callable, wanted: object, most_s: float) -> float:
    """Wait for a value; how long it took."""
    started_s = time.monotonic()
    while (seen := await look()) != wanted:
        assert time.monotonic() - started_s < most_s, seen
        await asyncio.sleep(0.05)
    return time.monotonic() - started_s


async def post(process: GatewayProcess) -> tuple[int, str]:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(process.base_url + "/chat/completions", json=body) as response,
    ):
        return response.status, (await response.json()).get("model", "")


async def served_by(process: GatewayProcess) -> str:
    return (await post(process))[1]


async def names(process: GatewayProcess) -> list[str]:
    """What can be asked for."""
    async with aiohttp.ClientSession() as session, session.get(process.base_url + "/models") as response:
        return sorted(model["id"] for model in (await response.json())["data"])


async def readiness(process: GatewayProcess) -> dict:
    async with aiohttp.ClientSession() as session, session.get(process.url + "/readyz") as response:
        return {"http": response.status} | await response.json()


async def metric(process: GatewayProcess, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(process.url + "/metrics") as response:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await response.text(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_a_good_edit_counts_within_two_seconds(live: GatewayProcess) -> None:
    taken = await metric(live, 'journeyman_registry_reloads_total{result="taken"}')
    edit(live, TWO)
    assert await until(lambda: served_by(live), "two", 5) < 2.0
    assert await metric(live, 'journeyman_registry_reloads_total{result="taken"}') == taken + 1


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_edit_keeps_the_last_good_one_and_says_so(live: GatewayProcess, name: str) -> None:
    digest = (await readiness(live))["catalog"]["digest"]
    refused = await metric(live, 'journeyman_registry_reloads_total{result="refused"}')
    edit(live, BAD[name])
    await until(lambda: metric(live, "journeyman_registry_ok"), 0.0, 3)
    report = await readiness(live)
    assert (report["http"], report["status"], report["catalog"]["ok"]) == (200, "degraded", False)
    assert report["catalog"]["digest"] == digest
    assert any("registry.yaml" in reason for reason in report["trouble"]), report["trouble"]
    assert await post(live) == (200, "one")
    assert await metric(live, 'journeyman_registry_reloads_total{result="refused"}') == refused + 1
    assert "the last good one stays in force" in live.log.read_text().splitlines()[-1]
    edit(live, ONE)
    await until(lambda: metric(live, "journeyman_registry_ok"), 1.0, 3)
    assert (await readiness(live))["status"] == "ready"


async def test_a_deleted_file_changes_nothing(live: GatewayProcess) -> None:
    live.registry.unlink()
    await until(lambda: metric(live, "journeyman_registry_ok"), 0.0, 3)
    assert await post(live) == (200, "one")


async def test_no_call_fails_under_fifty_edits(live: GatewayProcess) -> None:
    seen: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            seen.append(await post(live))

    askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    for number in range(50):
        edit(live, (ONE, TWO, OTHER_BACKEND, BAD["not YAML"], TWO)[number % 5])
        await asyncio.sleep(0.12)
    done.set()
    await asyncio.gather(*askers)
    assert len(seen) > 50 and {status for status, _ in seen} == {200}
    assert {model for _, model in seen} <= {"one", "two"}
    edit(live, TWO)
    await until(lambda: served_by(live), "two", 3)


async def test_a_call_under_way_is_answered_though_its_model_and_backend_have_gone(live: GatewayProcess) -> None:
    edit(live, SLOW)
    await until(lambda: names(live), ["auto", "slow"], 3)
    asking = [asyncio.create_task(post(live)) for _ in range(3)]
    await asyncio.sleep(0.3)
    edit(live, TWO.replace("name: echo", "name: other").replace("backend: echo", "backend: other"))
    await until(lambda: names(live), ["auto", "two"], 1.6)
    assert await asyncio.gather(*asking) == [(200, "slow")] * 3
    assert await post(live) == (200, "two")
    async with aiohttp.ClientSession() as session, session.get(live.url + "/metrics") as response:
        up = re.findall(r"^journeyman_backend_up.*$", await response.text(), re.MULTILINE)
    assert up == ['journeyman_backend_up{backend="other"} 1.0']
