"""When one side goes: a caller leaves and vLLM stops computing; vLLM is killed, and calls go on until it is back."""

import asyncio
import time

import openai
import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.vllm.fleet import caller, id_of, messages, ready_names, specialist, wait_until_ready
from tests.vllm.trained_adapters import Adapter
from tests.vllm.vllm_process import VllmServer

pytestmark = pytest.mark.vllm
LONG = [{"role": "user", "content": "Tell me a very long story about the sea, with many chapters."}]
LET_GO_WITHIN_S = 10.0
RUNNING = "vllm:num_requests_running"


async def until_running(vllm: VllmServer, least: int, most: int, within_s: float) -> float:
    """How long it takes until vLLM computes so many requests."""
    begun = time.monotonic()
    while not least <= await asyncio.to_thread(vllm.metric, RUNNING) <= most:
        assert time.monotonic() - begun < within_s, f"{vllm.metric(RUNNING)} requests are running"
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_vllm_stops_computing_for_a_caller_who_left(
    vllm: VllmServer, fleet: GatewayProcess, streams: bool
) -> None:
    async def ask() -> None:
        call = {"model": "small", "messages": LONG, "max_tokens": 900, "temperature": 0}
        if not streams:
            await caller(fleet).chat.completions.create(**call)
            return
        async for _ in await caller(fleet).chat.completions.create(**call, stream=True):
            begun.set()

    begun = asyncio.Event()
    asking = asyncio.create_task(ask())
    if streams:
        await asyncio.wait_for(begun.wait(), 120)
    await until_running(vllm, 1, 1, 60)
    assert not asking.done(), "the answer was over before the caller could leave"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_running(vllm, 0, 0, LET_GO_WITHIN_S)


async def test_a_killed_server_costs_no_new_call_and_its_adapters_come_back_by_themselves(
    vllm: VllmServer, fleet: GatewayProcess, adapters: list[Adapter]
) -> None:
    client = caller(fleet)

    async def read_long_stream() -> None:
        call = {"model": "small", "messages": LONG, "max_tokens": 900, "temperature": 0, "stream": True}
        async for _ in await client.chat.completions.create(**call):
            begun.set()

    async def ask(number: int) -> tuple[str, str, str]:
        desk = adapters[number % len(adapters)].desk
        said = await client.chat.completions.create(model="auto", messages=messages(desk, 900 + number), max_tokens=16)
        return desk, said.model, said.choices[0].message.content or ""

    begun = asyncio.Event()
    streaming = asyncio.create_task(read_long_stream())
    await asyncio.wait_for(begun.wait(), 120)
    in_flight = [asyncio.create_task(ask(number)) for number in range(8)]
    await until_running(vllm, 4, 16, 60)
    vllm.kill()
    try:
        with pytest.raises(openai.APIError) as cut:
            await asyncio.wait_for(streaming, 30)
        assert "vllm" in str(cut.value), "the error event names the backend"
        owners = {adapter.desk: id_of(specialist(adapter)) for adapter in adapters}
        rescued = await asyncio.gather(*in_flight)
        assert {model for _, model, _ in rescued} <= {"echo", *owners.values()} and "echo" in {m for _, m, _ in rescued}
        assert {(await ask(number))[1] for number in range(100, 112)} == {"echo"}
        end = time.monotonic() + 30
        while ready_names(fleet):
            assert time.monotonic() < end, "adapters of a dead server are still called ready"
            await asyncio.sleep(0.3)
    finally:
        await asyncio.to_thread(vllm.start)
    await asyncio.to_thread(wait_until_ready, fleet, list(owners.values()))
    for number in range(200, 208):
        desk, model, text = await ask(number)
        assert (model, text) == (owners[desk], f'{{"desk":"{desk}"}}')
