"""What a gateway does about its servers all the time goes on, whatever one of them does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import structlog
from structlog.testing import capture_logs

from policies.conduct import ConductBook
from policies.terms import PlannerPolicy
from registry.entries import BackendEntry
from registry.errors import BackendUnavailableError
from registry.loading import parse_catalog
from router_service import upkeep
from router_service.beliefs import Beliefs
from router_service.roster import Roster
from router_service.upkeep import Upkeep
from router_service.vectors import TextVectors
from specialists.backend import Health
from specialists.backends import BackendContext, make_backend
from specialists.echo import EchoBackend
from specialists.embedder import hashing_embedder
from specialists.replica import Replica

REGISTRY = """
defaults: {frontier: big}
backends: [{name: bad, kind: echo}, {name: good, kind: echo}]
models: [{model_name: big, backend: bad}, {model_name: small, backend: good}]
specialists:
  - {name: a, digest: '0123456789ab', base: big, adapter: adapter, clusters: [x], stage: shadow}
  - {name: b, digest: '0123456789ab', base: small, adapter: adapter, clusters: [x], stage: shadow}
"""
A, B = "a@0123456789ab", "b@0123456789ab"


class Faulty(EchoBackend):
    """Fails with what is none of our errors, or hangs, as long as it is told to."""

    fault = ""

    async def served_models(self):
        if self.fault == "adapters":
            raise RuntimeError("nobody thought of this")
        if self.fault == "hang":
            await asyncio.Event().wait()
        return await super().served_models()

    async def probe(self):
        if self.fault == "probe":
            raise RuntimeError("nobody thought of this")
        return await super().probe()


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    catalog = parse_catalog(REGISTRY, tmp_path / "registry.yaml", {}).catalog
    context = BackendContext(state=tmp_path)
    beliefs = Beliefs(PlannerPolicy(), TextVectors(hashing_embedder(4)))
    return Roster(
        catalog,
        lambda entry: Faulty(entry) if entry.name == "bad" else make_backend(entry, context),
        ConductBook(),
        beliefs,
    )


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(upkeep, "ADAPTER_INTERVAL_S", 0.01)
    monkeypatch.setattr(upkeep, "PROBE_INTERVAL_S", 0.01)
    monkeypatch.setattr(upkeep, "_log", structlog.get_logger())


@contextlib.asynccontextmanager
async def kept(roster, **how):
    task = asyncio.create_task(Upkeep(roster, **how).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["adapters", "probe"])
async def test_an_error_that_nobody_thought_of_is_logged_and_the_next_round_comes(roster, fault):
    bad = roster.backends()["bad"]
    bad.fault = fault
    with capture_logs() as logs:
        async with kept(roster):
            await until(lambda: [log for log in logs if log["log_level"] == "error"])
            assert "RuntimeError: nobody thought of this" in logs[0]["reason"] and logs[0]["backend"] == "bad"
            bad.fault = ""
            await until(lambda: roster.adapter_sets()["bad"].ready_names() == [A])


async def test_a_server_that_hangs_holds_up_nobody_else(roster):
    roster.backends()["bad"].fault = "hang"
    async with kept(roster):
        await until(lambda: roster.adapter_sets()["good"].ready_names() == [B])
        assert roster.adapter_sets()["bad"].ready_names() == []


async def test_a_replica_that_a_call_found_dead_is_told_gone_and_back(roster):
    server = EchoBackend(BackendEntry(name="bad", kind="echo"))
    replica = Replica("10.0.0.8:8000", server)
    keeper = Upkeep(roster)
    answers = [Health(True), Health(False, "refused"), Health(False, "refused"), Health(True)]
    with capture_logs() as logs:
        for number, health in enumerate(answers):
            server.probe = AsyncMock(return_value=health)
            if number == 1:
                replica.failed(BackendUnavailableError("refused", backend="bad"), "base")
                await until(lambda: not replica.health().ok)
            await keeper._probe("bad", replica.name, replica)
    assert [log["event"] for log in logs] == ["replica is gone", "replica is back"]


async def test_a_chore_that_fails_is_done_again(roster):
    done = []

    def chore():
        done.append(1)
        raise ValueError("not today")

    with capture_logs() as logs:
        async with kept(roster, chore=chore):
            await until(lambda: len(done) > 2)
    assert "ValueError: not today" in logs[0]["reason"]
