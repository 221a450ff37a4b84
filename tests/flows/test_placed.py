"""More adapters than a server may hold: who is loaded, and what becomes of the calls for the others."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from registry.entries import BackendEntry
from registry.errors import BackendTimeoutError, BackendUnavailableError
from specialists.backends import BackendContext, make_backend
from specialists.calls import Call, Message
from specialists.placed import PlacedBackend
from specialists.placement import BARRED_S, IDLE_S, MIN_STAY_S
from tests.flows.model_server import Server, serving

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")

A, B, C, D = (f"{name}@0123456789ab" for name in "abcd")


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def ask(name):
    return Call(name, (Message("user", "hello"),))


@asynccontextmanager
async def placed(limit, names=(A, B, C, D), servers=1, clock=None, **more):
    """A placed backend whose servers refuse one adapter more than the limit."""
    async with serving(Server("x")) as x, serving(Server("y")) as y:
        x.limit = y.limit = limit
        where = {"url": x.url} if servers == 1 else {"urls": (x.url, y.url)}
        entry = BackendEntry(name="few", kind="vllm", max_cpu_loras=limit, **where, **more)
        inner = make_backend(entry, BackendContext(state=Path("unused"), draw=lambda: 0.0))
        backend = PlacedBackend(inner, clock) if clock else PlacedBackend(inner)
        backend.compete({name: f"/{name[0]}" for name in names}, dict.fromkeys(names, 1.0))
        try:
            yield backend, x, y
        finally:
            await backend.close()


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_whatever_is_asked_for_a_server_never_holds_more_than_it_may_nor_refuses_a_load():
    rng, clock = random.Random(3), Clock()
    async with placed(2, clock=clock) as (backend, x, _):
        for step in range(120):
            clock.now_s += 7.0
            favourite = (A, B, C, D)[step // 30]
            backend.asked([rng.choice([favourite] * 4 + [A, B, C, D])])
            assert await backend.adapters.sync() == []
            assert len(x.adapters) <= 2
        assert x.most_loaded == 2 and D in x.adapters and backend.adapters.loading.failed == 0


async def test_a_call_for_an_adapter_on_its_way_waits_for_it():
    async with placed(4) as (backend, x, _):
        x.load_s = 0.3
        assert backend.load_ms(A) == 2000.0  # nothing was measured yet
        began = time.monotonic()
        assert (await backend.complete(ask(A), 5000)).text == "x"
        assert 0.3 <= time.monotonic() - began < 3.0
        assert backend.load_ms(A) == 0.0
        await until(lambda: len(x.adapters) == 4)
        assert 300 <= backend.adapters.loading.load_ms < 1500
        assert "".join([delta.text async for delta in backend.stream(ask(B), 1000)]) == "xx"


async def test_callers_that_wait_for_the_same_adapter_load_it_once():
    async with placed(1, (A,)) as (backend, x, _):
        x.load_s = 0.2
        answers = await asyncio.gather(*(backend.complete(ask(A), 5000) for _ in range(20)))
        assert len(answers) == 20 and backend.adapters.loading.loaded == 1


async def test_a_load_that_takes_longer_than_the_call_has_is_finished_for_the_next_one():
    async with placed(1, (A,)) as (backend, x, _):
        x.load_s = 0.5
        began = time.monotonic()
        with pytest.raises(BackendTimeoutError, match="not loaded within 100 ms"):
            await backend.complete(ask(A), 100)
        assert time.monotonic() - began < 0.4
        await until(lambda: backend.load_ms(A) == 0.0)
        assert (await backend.complete(ask(A), 1000)).text == "x"


async def test_a_load_that_takes_far_longer_than_expected_leaves_time_for_somebody_else():
    async with placed(1, (A,)) as (backend, x, _):
        x.load_s = 1.6
        backend.adapters.loading.load_ms = 100.0
        began = time.monotonic()
        with pytest.raises(BackendTimeoutError, match="not loaded within 1000 ms"):
            await backend.complete(ask(A), 20_000)
        assert time.monotonic() - began < 1.5
        assert backend.load_ms(A) > 900.0  # so long it has lasted already
        await until(lambda: backend.load_ms(A) == 0.0)


async def test_one_without_a_place_is_not_waited_for_and_the_reason_is_told():
    async with placed(1, (A, B)) as (backend, x, _):
        await backend.adapters.sync()
        (there,), (absent,) = x.adapters, {A, B} - x.adapters.keys()
        assert backend.load_ms(there) == 0.0 and backend.load_ms(absent) is None
        assert backend.why_not(absent) == (
            "its adapter is not loaded: there is room for 1, and others are asked for more"
        )
        with pytest.raises(BackendUnavailableError, match="room for 1"):
            await backend.complete(ask(absent), 1000)
        assert (await backend.complete(ask("base"), 1000)).text == "x"  # the base model needs no place


async def test_a_call_under_way_ends_before_its_adapter_goes_and_the_next_load_waits_for_that():
    clock = Clock()
    async with placed(1, (A, B), clock=clock) as (backend, x, _):
        backend.asked([A])
        await backend.adapters.sync()
        clock.now_s = MIN_STAY_S
        for _ in range(400):
            backend.asked([A])
        await backend.adapters.sync()
        assert set(x.adapters) == {A}
        x.lists_always = True
        x.gate.clear()
        under_way = asyncio.create_task(backend.complete(ask(A), 5000))
        before = len(x.calls)
        await until(lambda: len(x.calls) > before)
        clock.now_s += IDLE_S
        backend.asked([B])
        await backend.adapters.sync()
        assert set(x.adapters) == {A} and backend.load_ms(A) is None  # no new calls for it
        waiting = asyncio.create_task(backend.complete(ask(B), 5000))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        x.gate.set()
        assert (await under_way).text == "x" and (await waiting).text == "x"
        assert set(x.adapters) == {B} and x.most_loaded == 1


async def test_an_adapter_that_cannot_be_loaded_keeps_nobody_waiting():
    async with placed(1, (A,)) as (backend, x, _):
        x.limit = 0
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError, match="cannot be loaded"):
            await backend.complete(ask(A), 20_000)
        assert time.monotonic() - began < 2.0
        assert backend.load_ms(A) is None and backend.adapters.loading.failed == 1
        assert any("unload one first" in problem for problem in await backend.adapters.sync())


async def test_one_that_cannot_be_loaded_gives_its_place_back_and_takes_nobody_s_for_a_while():
    clock = Clock()
    async with placed(1, (A,), clock=clock) as (backend, *_):
        await backend.adapters.sync()
        backend.compete({A: "/a", B: "/not/on/x"}, {A: 1.0, B: 1.0})
        clock.now_s = MIN_STAY_S
        for _ in range(20):
            backend.asked([B])
        assert backend.placement.resident() == {B}
        for _ in range(4):
            await backend.adapters.sync()
            clock.now_s += 10.0
            backend.asked([B])
        assert backend.placement.resident() == {A} and "cannot be loaded" in backend.why_not(B)
        await backend.adapters.sync()
        assert backend.load_ms(A) == 0.0
        clock.now_s += BARRED_S - 60.0
        backend.asked([B])
        assert backend.placement.resident() == {A}
        clock.now_s += 60.0
        backend.asked([B])
        assert backend.placement.resident() == {B}


async def test_an_adapter_keeps_its_place_while_the_server_is_too_busy_to_load_it():
    clock = Clock()
    async with placed(1, (A, B), clock=clock, max_retries=0, breaker_failures=1000) as (backend, x, _):
        x.status = 429
        (there,) = backend.placement.resident()
        for _ in range(20):
            await backend.adapters.sync()
            clock.now_s += 5.0
            backend.asked([there])
        assert backend.adapters.loading.failed > 3 and backend.placement.resident() == {there}


async def test_where_nobody_can_be_loaded_the_place_is_kept_and_used_once_that_is_mended():
    clock = Clock()
    async with placed(1, (A, B), clock=clock) as (backend, x, _):
        x.limit = 0
        for _ in range(30):
            await backend.adapters.sync()
            clock.now_s += 5.0
            backend.asked([A])
            backend.asked([B])
        (there,) = backend.placement.resident()
        x.limit = 1
        clock.now_s += 60.0
        await backend.adapters.sync()
        assert backend.load_ms(there) == 0.0


async def test_what_goes_wrong_while_callers_wait_is_told_once():
    async with placed(2, (A, B), servers=2, clock=Clock()) as (backend, x, y):
        x.load_s = y.load_s = 0.1
        backend.compete({A: "/a", B: "/not/on/x"}, {A: 1.0, B: 1.0})
        adapters = backend.adapters
        for _ in range(8):
            adapters._hasten()
            await until(lambda: not adapters._hastened)
        told = await adapters.sync()
        assert len(told) == len(set(told)) == 1 and "no such folder" in told[0]


async def test_replicas_hold_the_same_adapters_each_within_the_limit():
    async with placed(2, servers=2) as (backend, x, y):
        await backend.adapters.sync()
        assert x.adapters.keys() == y.adapters.keys() == backend.placement.resident() and len(x.adapters) == 2
