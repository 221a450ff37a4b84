"""A live gateway before model servers of their own processes: one dies under load, drains, leaves and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter

import aiohttp
import pytest

from tests.e2e.gateway_process import running_gateway
from tests.e2e.stub_replica import stub_replica

SPECIALIST = "intents@0123456789ab"
REGISTRY = """
version: 1
defaults: {{frontier: base, max_tokens: 100}}
backends:
  - {{name: many, kind: vllm, urls: [{urls}], deadlines: {{total_ms: 20000}}}}
models:
  - {{model_name: base, backend: many, safety_grade: A, context_len: 32768, eval_scores: {{"*": 0.9}}}}
specialists:
  - {{name: intents, digest: "0123456789ab", base: base, adapter: adapter, clusters: [x], stage: active}}
"""
CALL = {"model": "base", "messages": [{"role": "user", "content": "who are you?"}]}
DELAY_S = 0.05


@pytest.fixture
def three():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(stub_replica(DELAY_S)) for _ in range(3)]


@contextlib.contextmanager
def gateway(folder, replicas):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with running_gateway(folder, registry(*replicas)) as process:
        yield process


def registry(*listed):
    urls = [one if isinstance(one, str) else f'"{one.url}"' for one in listed]
    return REGISTRY.format(urls=", ".join(urls))


async def ask(session, model="base", **more):
    """(status, which replica answered): for a stream all that came, and whether it ended well."""
    async with session.post("/v1/chat/completions", json={**CALL, "model": model, **more}) as response:
        if not more.get("stream"):
            body = await response.json()
            return response.status, body["choices"][0]["message"]["content"] if response.status == 200 else body
        text = (await response.read()).decode()
        words = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        failed = any("error" in word for word in words)
        said = "".join(c["delta"].get("content") or "" for w in words for c in w.get("choices", ()))
        return "cut" if failed or "[DONE]" not in text else 200, said


async def load(session, seconds, at_once, **more):
    """So many callers ask again and again; returns what each call brought."""
    end, results = time.monotonic() + seconds, []

    async def caller():
        while time.monotonic() < end:
            results.append(await ask(session, **more))

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return results


async def ready(session):
    async with session.get("/readyz") as response:
        return await response.json()


async def until_shown(session, condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition(shown := await ready(session)):
        assert time.monotonic() < end, shown
        await asyncio.sleep(0.1)
    return shown


def session_of(process):
    return aiohttp.ClientSession(process.url, connector=aiohttp.TCPConnector(limit=0))


@pytest.mark.slow
async def test_a_replica_killed_under_load_costs_no_call_and_is_used_again_when_it_is_back(tmp_path, three):
    victim = three[0]
    with gateway(tmp_path, three) as process:
        async with session_of(process) as session:
            await until_shown(session, lambda shown: shown["adapters"].get("many") == [SPECIALIST])
            under_load = asyncio.create_task(load(session, 6.0, 200))
            await asyncio.sleep(2.0)
            victim.kill()
            results = await under_load
            assert Counter(status for status, _ in results) == {200: len(results)}
            answered = Counter(text for _, text in results)
            assert set(answered) == {str(one.port) for one in three}
            shown = await ready(session)
            assert shown["status"] == "degraded" and not shown["replicas"]["many"][victim.name]["ok"]
            assert shown["backends"]["many"]["ok"] and any(victim.name in line for line in shown["trouble"])

            with stub_replica(DELAY_S, victim.port):
                well = await until_shown(session, lambda shown: shown["status"] == "ready")
                assert well["replicas"]["many"][victim.name]["ok"]
                again = await load(session, 1.0, 30)
                assert Counter(status for status, _ in again) == {200: len(again)}
                assert set(Counter(text for _, text in again)) == set(answered)
                back = await until_shown(
                    session, lambda shown: shown["replicas"]["many"][victim.name]["adapters"] == [SPECIALIST]
                )
                assert back["adapters"]["many"] == [SPECIALIST]
            async with session.get("/metrics") as response:
                metrics = await response.text()
            labels = f'{{backend="many",replica="{victim.name}"}}'
            assert float(re.findall(rf"journeyman_replica_failovers_total{re.escape(labels)} (\S+)", metrics)[0]) > 0


@pytest.mark.slow
async def test_a_replica_that_froze_gives_its_calls_back(tmp_path, three):
    """Its connections stay open and say nothing, as after a power cut."""
    with gateway(tmp_path, three) as process:
        async with session_of(process) as session:
            await until_shown(session, lambda shown: shown["status"] == "ready")
            routing = {"latency_budget_ms": 20_000}
            under_load = asyncio.create_task(load(session, 2.0, 60, routing=routing))
            await asyncio.sleep(1.0)
            three[0].freeze()
            results = await under_load
            assert Counter(status for status, _ in results) == {200: len(results)}
            shown = await ready(session)
            assert not shown["replicas"]["many"][three[0].name]["ok"]
            three[0].thaw()
            await until_shown(session, lambda shown: shown["status"] == "ready")


@pytest.mark.slow
async def test_streams_that_had_begun_end_in_an_error_and_all_others_are_whole(tmp_path, three):
    with gateway(tmp_path, three) as process:
        async with session_of(process) as session:
            under_load = asyncio.create_task(load(session, 3.0, 60, stream=True))
            await asyncio.sleep(1.0)
            three[0].kill()
            results = await under_load
    words = [text.split() for status, text in results if status == 200]
    assert all(len(said) == 5 and len(set(said)) == 1 for said in words)  # none begun here and ended there
    cut = [text for status, text in results if status == "cut"]
    assert all(text.startswith(str(three[0].port)) for text in cut)
    assert len(cut) <= 60 and len(words) > 100


@pytest.mark.slow
async def test_draining_and_leaving_cost_no_call(tmp_path, three):
    first, second, third = three
    with gateway(tmp_path, [first, second]) as process:
        async with session_of(process) as session:
            await until_shown(session, lambda shown: shown["adapters"].get("many") == [SPECIALIST])
            under_load = asyncio.create_task(load(session, 6.0, 50))
            await asyncio.sleep(1.0)
            draining = f'{{url: "{first.url}", drain: true}}'
            process.registry.write_text(registry(draining, second, third))
            shown = await until_shown(session, lambda shown: third.name in shown["replicas"]["many"])
            assert shown["replicas"]["many"][first.name]["draining"] and shown["adapters"]["many"] == [SPECIALIST]
            idle = {"ok": True, "draining": True, "calls_in_flight": 0}
            await until_shown(session, lambda shown: idle.items() <= shown["replicas"]["many"][first.name].items())
            first.kill()  # an operator's restart: nobody is asking it
            process.registry.write_text(registry(second, third))
            await until_shown(session, lambda shown: first.name not in shown["replicas"]["many"])
            results = await under_load
            assert Counter(status for status, _ in results) == {200: len(results)}
            after = await load(session, 0.5, 20)
            assert {text for _, text in after} == {str(second.port), str(third.port)}
            async with session.get("/metrics") as response:
                assert first.name not in await response.text()


@pytest.mark.slow
async def test_a_specialist_is_asked_of_the_replicas_that_hold_it(tmp_path, three):
    with gateway(tmp_path, three) as process:
        async with session_of(process) as session:
            await until_shown(
                session,
                lambda shown: all(one["adapters"] == [SPECIALIST] for one in shown["replicas"]["many"].values()),
            )
            three[0].kill()
            with stub_replica(DELAY_S, three[0].port):  # back at once, without its adapter
                results = await load(session, 1.5, 40, model=SPECIALIST)
                assert Counter(status for status, _ in results) == {200: len(results)}
