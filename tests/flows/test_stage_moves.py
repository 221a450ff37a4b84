"""Stage moves on a running gateway: they count within two seconds, no call fails, each is recorded once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from observations.records import StageMoveRecord
from observations.segments import scan_segment
from registry.entries import Prices
from registry.registrar import Note, Registrar
from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.unit.made_specialists import flip, make_folder, manifest

REGISTRY = """
version: 1
defaults: {frontier: echo}
backends:
  - {name: echo, kind: echo}
models:
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    eval_scores: {"*": 0.97}
    prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}
  - {model_name: small, backend: echo, upstream_name: echo, supported_clusters: []}
"""
CLUSTERS = 'clusters: [{name: parcels, system_patterns: ["^You sort"]}]\n'
PLANNER = "learning: {enabled: false}\n"
BODY = {
    "model": "auto",
    "messages": [{"role": "system", "content": "You sort parcels."}, {"role": "user", "content": "hi"}],
}
ANN = Note("ann", "test")
SWAPS = 20


@dataclass
class Floor:
    """A live gateway, the registrar on its state, and two versions of one specialist."""

    gateway: GatewayProcess
    registrar: Registrar
    old: str
    new: str
    answers: list[tuple[float, int, str]] = field(default_factory=list)

    async def ask(self, session: aiohttp.ClientSession, model: str = "auto") -> str:
        async with session.post(self.gateway.base_url + "/chat/completions", json=BODY | {"model": model}) as response:
            said = await response.json()
            self.answers.append((time.monotonic(), response.status, said.get("model", "")))
            return str(said.get("model", ""))

    async def until_answered_by(self, name: str, most_s: float = 5.0) -> float:
        """How long it takes until a call is answered by a name."""
        started_s = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while (seen := await self.ask(session)) != name:
                assert time.monotonic() - started_s < most_s, f"still answered by {seen}"
                await asyncio.sleep(0.03)
        return time.monotonic() - started_s

    async def readiness(self) -> dict:
        async with aiohttp.ClientSession() as session, session.get(self.gateway.url + "/readyz") as response:
            return await response.json()

    def raise_to(self, specialist: str, stage: str) -> None:
        while self.registrar.history().stages[specialist].stage != stage:
            self.registrar.promote(specialist, ANN)

    def recorded(self) -> list[StageMoveRecord]:
        """What the gateway wrote into its spool."""
        segments = [path for path in (self.gateway.state / "spool").rglob("*") if path.is_file()]
        events = [event for path in segments for event in scan_segment(path.read_bytes()).events]
        return [event for event in events if isinstance(event, StageMoveRecord)]


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "clusters.yaml").write_text(CLUSTERS)
    (policies / "planner.yaml").write_text(PLANNER)
    registrar = Registrar(tmp_path / "state")
    dear, cheap = Prices(output_usd_per_mtok=1.0), Prices(output_usd_per_mtok=0.1)
    old = registrar.register(make_folder(tmp_path / "old", b"\x01" * 16), manifest(prices=dear), ANN)
    new = registrar.register(make_folder(tmp_path / "new", b"\x02" * 16), manifest(prices=cheap), ANN)
    environment = {"JOURNEYMAN_POLICIES": str(policies), "JOURNEYMAN_LOAD_RECORDS": "false"}
    with running_gateway(tmp_path, REGISTRY, **environment) as gateway:
        yield Floor(gateway, registrar, old, new)


async def test_twenty_swaps_under_load_count_within_two_seconds_and_fail_no_call(floor: Floor) -> None:
    floor.raise_to(floor.old, "active")
    floor.registrar.promote(floor.new, ANN)
    await floor.until_answered_by(floor.old, 15)
    done = asyncio.Event()

    async def keep_asking() -> None:
        async with aiohttp.ClientSession() as session:
            while not done.is_set():
                await floor.ask(session)

    askers = [asyncio.create_task(keep_asking()) for _ in range(3)]
    took_s = []
    for _ in range(SWAPS // 2):
        await asyncio.to_thread(floor.registrar.promote, floor.new, ANN, "canary", 1.0)
        await asyncio.to_thread(floor.registrar.promote, floor.new, ANN)
        took_s.append(await floor.until_answered_by(floor.new))
        await asyncio.to_thread(floor.registrar.rollback, "parcels", ANN)
        took_s.append(await floor.until_answered_by(floor.old))
    done.set()
    await asyncio.gather(*askers)
    assert max(took_s) < 2.0, took_s
    assert Counter(status for _, status, _ in floor.answers).keys() == {200}
    assert {name for _, _, name in floor.answers} <= {floor.old, floor.new, "echo"}
    entries = floor.registrar.history().entries
    await asyncio.sleep(1.2)
    recorded = floor.recorded()
    assert len({record.id for record in recorded}) == len(recorded) == sum(len(e.entry.moves) for e in entries)
    last = next(record for record in recorded if record.id == f"{entries[-1].digest}:1")
    assert (last.specialist, last.before, last.after, last.actor) == (floor.old, "deprecated", "active", "ann")


async def test_a_canary_answers_its_share_and_its_namesake_s_callers_keep_the_active_version(floor: Floor) -> None:
    floor.raise_to(floor.old, "active")
    floor.registrar.promote(floor.new, ANN)
    floor.registrar.promote(floor.new, ANN, "canary", 0.5)
    await floor.until_answered_by(floor.new, 15)
    async with aiohttp.ClientSession() as session:
        seen = Counter([await floor.ask(session) for _ in range(100)])
        assert set(seen) == {floor.old, floor.new} and 25 < seen[floor.new] < 75, seen
        assert Counter([await floor.ask(session, "sorter") for _ in range(5)]) == {floor.old: 5}
        assert await floor.ask(session, floor.new) == floor.new, "who asks for a canary by name gets it"


async def test_a_specialist_whose_bytes_change_is_out_of_service_at_once_and_back_once_mended(floor: Floor) -> None:
    floor.raise_to(floor.old, "active")
    await floor.until_answered_by(floor.old, 15)
    digest = floor.registrar.check(floor.old).adapter_digest
    weights = floor.gateway.state / "artifacts" / digest / "adapter_model.safetensors"
    flip(weights)
    assert await floor.until_answered_by("echo") < 2.0
    report = await floor.readiness()
    assert report["status"] == "degraded" and report["catalog"]["ok"]
    assert any("adapter_model.safetensors was changed" in line for line in report["trouble"]), report["trouble"]
    flip(weights)
    await floor.until_answered_by(floor.old, 15)
    assert (await floor.readiness())["status"] == "ready"


async def test_a_tampered_ledger_changes_nothing_and_is_told(floor: Floor) -> None:
    floor.raise_to(floor.old, "active")
    await floor.until_answered_by(floor.old, 15)
    ledger = floor.gateway.state / "ledger" / "ledger.jsonl"
    good = ledger.read_bytes()
    ledger.write_bytes(b"".join(good.splitlines(keepends=True)[:-1]))
    end = time.monotonic() + 3
    while (report := await floor.readiness())["status"] != "degraded":
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    assert "ledger" in report["trouble"][0] and "are gone" in report["trouble"][0]
    async with aiohttp.ClientSession() as session:
        assert await floor.ask(session) == floor.old
    ledger.write_bytes(good)
    floor.registrar.demote(floor.old, ANN)
    assert await floor.until_answered_by("echo") < 2.0
