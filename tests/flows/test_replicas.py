"""Replicas behind one backend, against real servers: who is asked, and what becomes of a call whose server fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from registry.entries import BackendEntry, Deadlines, ReplicaEntry
from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendRejectedError,
    BackendTimeoutError,
    BackendUnavailableError,
    StreamCutError,
)
from specialists.adapters import AdapterSet
from specialists.backends import BackendContext, make_backend
from specialists.calls import Call, Message
from specialists.server_adapters import Canary
from tests.flows.model_server import Server, serving

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")

ASK = Call("base", (Message("user", "hello"),))
A, B = "a@0123456789ab", "b@0123456789ab"


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()


@asynccontextmanager
async def replicas(names="xyz", **entry):
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(Server(name))) for name in names]
        backend = backend_of([server.url for server in servers], **entry)
        stack.push_async_callback(backend.close)
        yield backend, servers


def backend_of(urls, **entry):
    made = BackendEntry(name="many", kind="vllm", urls=tuple(urls), **entry)
    return make_backend(made, BackendContext(state=Path("unused"), draw=lambda: 0.0))


def refused_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


async def texts(backend, count, call=ASK, budget_ms=5000):
    return Counter([(await backend.complete(call, budget_ms)).text for _ in range(count)])


async def streamed(backend, call=ASK, budget_ms=5000):
    return "".join([delta.text async for delta in backend.stream(call, budget_ms)])


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_calls_one_after_the_other_go_to_all_in_turn():
    async with replicas() as (backend, _):
        assert await texts(backend, 9) == {"x": 3, "y": 3, "z": 3}


async def test_a_call_goes_to_whoever_has_the_fewest_under_way():
    async with replicas() as (backend, (x, y, z)):
        x.gate.clear()
        waiting = [asyncio.create_task(backend.complete(ASK, 5000)) for _ in range(3)]
        await until(lambda: len(x.calls) == 1 and len(y.calls) == 1 and len(z.calls) == 1)
        await until(lambda: sum(one.outstanding for one in backend.replicas) == 1)
        assert await texts(backend, 8) == {"y": 4, "z": 4}
        x.gate.set()
        await asyncio.gather(*waiting)
        assert all(one.outstanding == 0 for one in backend.replicas)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_a_failing_replica_costs_no_call(status):
    async with replicas() as (backend, (x, _, _)):
        x.status = status
        assert set(await texts(backend, 9)) == {"y", "z"}
        assert backend.replicas[0].failovers >= 1
        assert await streamed(backend) in ("yyy", "zzz", "yy", "zz")


async def test_a_replica_that_refuses_connections_costs_no_call_and_is_left_alone_until_it_is_there():
    gone = refused_url()
    async with serving(Server("x")) as x:
        backend = backend_of([gone, x.url])
        assert await texts(backend, 6) == {"x": 6}
        down = backend.replicas[0]
        await until(lambda: not down.health().ok)
        assert backend.health().ok and "cannot be reached" in down.health().reason
        before = down.failovers
        assert await texts(backend, 6) == {"x": 6} and down.failovers == before
        async with serving(Server("back"), int(gone.split(":")[2].removesuffix("/v1"))):
            assert (await down.probe()).ok
            assert await texts(backend, 4) == {"x": 2, "back": 2}
        await backend.close()


async def test_a_refused_request_is_not_carried_around():
    async with replicas() as (backend, servers):
        for server in servers:
            server.status = 400
        with pytest.raises(BackendRejectedError, match="broken"):
            await backend.complete(ASK, 5000)
        assert sum(len(server.calls) for server in servers) == 1


async def test_when_all_fail_the_call_is_tried_again_as_often_as_on_one_server_and_then_fails():
    async with replicas(max_retries=2) as (backend, servers):
        for server in servers:
            server.status = 500
        with pytest.raises(BackendUnavailableError, match="broken"):
            await backend.complete(ASK, 5000)
        assert [len(server.calls) for server in servers] == [3, 3, 3]


async def test_overload_everywhere_is_told_as_overload():
    async with replicas(max_retries=0) as (backend, servers):
        for server in servers:
            server.status = 429
        with pytest.raises(BackendOverloadedError):
            await backend.complete(ASK, 5000)


async def test_overload_everywhere_is_not_made_worse_by_trying_everybody():
    async with replicas("uvwxyz", max_retries=0, breaker_failures=1000) as (backend, servers):
        for server in servers:
            server.status = 429
        for _ in range(40):
            with pytest.raises(BackendOverloadedError):
                await backend.complete(ASK, 5000)
        assert sum(len(server.calls) for server in servers) <= 40 * 2 + 3 + 40 // 10


async def test_a_stream_that_broke_before_its_first_word_goes_on_elsewhere_whole():
    async with replicas("xy", max_retries=0) as (backend, (x, _)):
        x.pieces = 1  # says who it is, and is gone
        for _ in range(4):
            assert await streamed(backend) == "yy"


async def test_a_stream_that_broke_after_its_first_word_is_not_begun_again():
    async with replicas("xy", max_retries=0) as (backend, (x, y)):
        x.pieces = y.pieces = 2
        seen = []
        with pytest.raises(StreamCutError):
            async for delta in backend.stream(ASK, 5000):
                seen.append(delta.text)
        assert "".join(seen) in ("x", "y") and len(x.calls) + len(y.calls) == 1
        assert all(one.outstanding == 0 for one in backend.replicas)


async def test_a_first_token_that_does_not_come_is_asked_for_elsewhere_within_the_time():
    deadlines = Deadlines(first_token_ms=200)
    async with replicas("xy", max_retries=0, deadlines=deadlines) as (backend, (x, _)):
        x.pieces = 1
        x.gate.clear()
        began = time.monotonic()
        for _ in range(2):
            assert await streamed(backend) == "yy"
        assert time.monotonic() - began < 2.0
        x.gate.set()


async def test_the_callers_time_ends_the_call_wherever_it_is():
    async with replicas("xy") as (backend, servers):
        for server in servers:
            server.gate.clear()
        began = time.monotonic()
        with pytest.raises(BackendTimeoutError):
            await backend.complete(ASK, 300)
        assert time.monotonic() - began < 1.0
        assert all(one.outstanding == 0 for one in backend.replicas)
        for server in servers:
            server.gate.set()


async def test_a_caller_that_goes_frees_its_replica():
    async with replicas("x") as (backend, (x,)):
        x.gate.clear()
        task = asyncio.create_task(backend.complete(ASK, 5000))
        await until(lambda: x.calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        deltas = backend.stream(ASK, 5000)
        assert (await anext(deltas)).text == ""
        await deltas.aclose()
        assert backend.replicas[0].outstanding == 0
        x.gate.set()


async def test_two_failed_probes_take_a_frozen_replica_out_and_one_good_one_brings_it_back(monkeypatch):
    monkeypatch.setattr("specialists.openai_http.PROBE_MS", 100.0)
    async with replicas("xy") as (backend, (x, _)):
        x.gate.clear()
        assert not (await backend.replicas[0].probe()).ok
        assert backend.replicas[0].health().ok  # a single slow answer is no death
        await backend.replicas[0].probe()
        assert not backend.replicas[0].health().ok
        assert await texts(backend, 4) == {"y": 4}
        x.gate.set()
        await backend.replicas[0].probe()
        assert await texts(backend, 4) == {"x": 2, "y": 2}


async def test_calls_that_wait_for_a_frozen_replica_go_on_elsewhere_once_its_probes_fail(monkeypatch):
    monkeypatch.setattr("specialists.openai_http.PROBE_MS", 100.0)
    async with replicas("xy") as (backend, (x, y)):
        x.gate.clear()
        y.gate.clear()
        waiting = [asyncio.create_task(backend.complete(ASK, 20_000)) for _ in range(6)]
        await until(lambda: len(x.calls) == 3 and len(y.calls) == 3)
        frozen = backend.replicas[0]
        y.gate.set()
        for _ in range(2):
            await frozen.probe()
        assert [one.text for one in await asyncio.gather(*waiting)] == ["y"] * 6
        assert frozen.outstanding == 0 and frozen.failovers == 3
        x.gate.set()


async def test_a_replica_whose_connections_are_all_busy_is_not_dead_and_keeps_its_adapters():
    deadlines = Deadlines(connect_ms=500)
    async with replicas("xy", max_connections=1, deadlines=deadlines) as (backend, (x, y)):
        adapters = AdapterSet(backend)
        adapters.want({A: "/a"})
        assert await adapters.sync() == []
        x.lists_always = y.lists_always = True
        x.gate.clear(), y.gate.clear()
        waiting = [asyncio.create_task(backend.complete(ASK, 20_000)) for _ in range(2)]
        await until(lambda: [one.outstanding for one in backend.replicas] == [1, 1])
        for _ in range(2):
            assert [(await one.probe()).ok for one in backend.replicas] == [True, True]
        for held in adapters.servers().values():
            held._checked_at_s = 0.0
        assert await adapters.sync() == [] and adapters.ready(A)
        x.gate.set(), y.gate.set()
        assert {one.text for one in await asyncio.gather(*waiting)} == {"x", "y"}


async def test_where_nobody_else_is_well_calls_wait_for_a_frozen_replica(monkeypatch):
    monkeypatch.setattr("specialists.openai_http.PROBE_MS", 100.0)
    async with replicas("x") as (backend, (x,)):
        x.gate.clear()
        waiting = asyncio.create_task(backend.complete(ASK, 20_000))
        await until(lambda: x.calls)
        for _ in range(2):
            await backend.replicas[0].probe()
        assert not backend.health().ok
        x.gate.set()
        assert (await waiting).text == "x" and backend.health().ok


async def test_a_draining_replica_gets_no_new_calls_and_those_under_way_end():
    async with replicas("xy") as (backend, (x, y)):
        x.gate.clear()
        under_way = [asyncio.create_task(backend.complete(ASK, 5000)) for _ in range(2)]
        await until(lambda: x.calls and y.calls)
        draining = BackendEntry(name="many", kind="vllm", urls=(ReplicaEntry(url=x.url, drain=True), y.url))
        assert backend.can_follow(draining) and backend.follow(draining) == []
        assert await texts(backend, 5) == {"y": 5}
        x.gate.set()
        assert {one.text for one in await asyncio.gather(*under_way)} == {"x", "y"}
        assert backend.health().ok


async def test_when_every_replica_drains_nobody_is_asked():
    async with replicas("x") as (backend, (x,)):
        backend.follow(BackendEntry(name="many", kind="vllm", urls=(ReplicaEntry(url=x.url, drain=True),)))
        assert "draining" in backend.health().reason
        with pytest.raises(BackendUnavailableError, match="draining"):
            await backend.complete(ASK, 5000)
        assert x.calls == []


async def test_a_replica_that_left_the_list_ends_its_calls_and_one_that_came_is_used():
    async with replicas("xy") as (backend, (x, y)), serving(Server("new")) as new:
        x.gate.clear()
        under_way = [asyncio.create_task(backend.complete(ASK, 5000)) for _ in range(2)]
        await until(lambda: x.calls and y.calls)
        kept = backend.replicas[1]
        gone = backend.follow(BackendEntry(name="many", kind="vllm", urls=(y.url, new.url)))
        assert [one.entry.url for one in gone] == [x.url] and backend.replicas[0] is kept
        await asyncio.gather(*(one.close() for one in gone))
        assert await texts(backend, 4) == {"y": 2, "new": 2}
        x.gate.set()
        assert {one.text for one in await asyncio.gather(*under_way)} == {"x", "y"}


async def test_an_adapter_is_ready_once_one_replica_has_it_and_only_those_that_have_it_are_asked():
    async with replicas("xy") as (backend, (x, y)):
        adapters = AdapterSet(backend)
        adapters.want({A: "/not/on/x", B: "/b"})
        problems = await adapters.sync()
        assert len(problems) == 1 and "no such folder" in problems[0] and x.url[7:-3] in problems[0]
        assert adapters.ready_names() == [A, B] and set(x.adapters) == {B} and set(y.adapters) == {A, B}
        assert set(await texts(backend, 6, Call(A, ASK.messages))) == {"y"}
        y.status = 500
        with pytest.raises(BackendUnavailableError):
            await backend.complete(Call(A, ASK.messages), 1000)
        assert A not in x.calls


async def test_an_adapter_is_not_ready_where_its_only_replica_was_found_dead(monkeypatch):
    async with replicas("xy") as (backend, (_, y)):
        adapters = AdapterSet(backend)
        adapters.want({A: "/not/on/x", B: "/b"})
        await adapters.sync()
        assert adapters.ready_names() == [A, B]
        monkeypatch.setattr("specialists.openai_http.PROBE_MS", 100.0)
        y.gate.clear()
        for _ in range(2):
            await backend.replicas[1].probe()
        assert backend.health().ok and adapters.ready_names() == [B]
        y.gate.set()


async def test_an_adapter_that_fails_its_canary_on_one_replica_is_asked_of_the_other():
    async with replicas("xy") as (backend, _):
        adapters = AdapterSet(backend)
        adapters.want({A: "/a"}, {A: Canary("say", "y")})
        assert len(await adapters.sync()) == 1
        assert await texts(backend, 4, Call(A, ASK.messages)) == {"y": 4}


async def test_an_adapter_stays_where_it_was_used_lately_until_that_replica_has_more_to_do():
    async with replicas("xy") as (backend, (x, y)):
        adapters = AdapterSet(backend)
        adapters.want({A: "/a"})
        await adapters.sync()
        call = Call(A, ASK.messages)
        x.calls.clear(), y.calls.clear()
        assert len(await texts(backend, 6, call)) == 1
        warm, cold = (x, y) if x.calls else (y, x)
        warm.gate.clear()
        waiting = [asyncio.create_task(backend.complete(call, 5000)) for _ in range(4)]
        await until(lambda: A in cold.calls)
        warm.gate.set()
        await asyncio.gather(*waiting)


async def test_a_replica_that_lost_an_adapter_is_found_out_by_the_call_which_goes_on_elsewhere():
    async with replicas("xy") as (backend, (x, y)):
        adapters = AdapterSet(backend)
        adapters.want({A: "/a"})
        await adapters.sync()
        x.adapters.clear()  # restarted, unnoticed
        x.calls.clear()
        call = Call(A, ASK.messages)
        for replica in backend.replicas:
            replica._used.clear()
        assert set(await texts(backend, 6, call)) == {"y"}
        assert x.calls in ([A], [])
        y.adapters.clear()
        with pytest.raises(BackendRejectedError):
            await backend.complete(call, 1000)
        await adapters.sync()
        assert set(x.adapters) == set(y.adapters) == {A} and adapters.ready(A)


async def test_names_of_models_are_those_of_all_replicas_that_answer():
    async with replicas("xy") as (backend, _):
        await backend.load_adapter(A, "/not/on/x")
        assert await backend.served_models() == {"base", A}
        await backend.unload_adapter(A)
        assert await backend.served_models() == {"base"}
        with pytest.raises(BackendError):
            await backend_of([refused_url()]).served_models()
