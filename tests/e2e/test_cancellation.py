"""When the caller goes, the upstream is let go within a second, in each of the three windows."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.e2e.slow_upstream import REGISTRY, SlowUpstream, slow_upstream


@pytest.fixture
async def upstream() -> AsyncIterator[SlowUpstream]:
    async with slow_upstream() as server:
        yield server


@pytest.fixture
async def slow_gateway(upstream: SlowUpstream, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    manager = running_gateway(tmp_path, REGISTRY.format(url=upstream.url))
    process = await asyncio.to_thread(manager.__enter__)
    yield process
    await asyncio.to_thread(manager.__exit__, None, None, None)


@pytest.mark.parametrize(("stream", "tokens"), [(True, 0), (True, 3), (False, 0)])
async def test_the_upstream_is_cancelled_within_a_second(
    upstream: SlowUpstream, slow_gateway: GatewayProcess, stream: bool, tokens: int
) -> None:
    upstream.tokens_before_stall = tokens
    body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(_ask(session, slow_gateway.base_url, body, read=tokens > 0))
        await asyncio.wait_for(upstream.asked.wait(), 10)
        if tokens:
            await asyncio.sleep(0.2)
        went_at = time.monotonic()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(upstream.left.wait(), 5)
    assert upstream.left_at is not None and upstream.left_at - went_at < 1.0
    await _expect_recorded(slow_gateway)


async def _ask(session: aiohttp.ClientSession, base_url: str, body: dict, *, read: bool) -> None:
    async with session.post(base_url + "/chat/completions", json=body) as response:
        async for _ in response.content:
            assert read


async def _expect_recorded(gateway: GatewayProcess) -> None:
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/metrics") as response:
        text = await response.text()
    assert 'outcome="cancelled"' in text
    assert "journeyman_calls_in_flight 0.0" in text


async def test_only_listed_fields_travel_to_the_upstream(upstream: SlowUpstream, slow_gateway: GatewayProcess) -> None:
    smuggled = {"chat_template": "{{ x }}", "prompt_embeds": "AAAA", "user": "jane", "metadata": {"a": "b"}, "lora": 1}
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "seed": 3} | smuggled
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(_ask(session, slow_gateway.base_url, body, read=False))
        await asyncio.wait_for(upstream.asked.wait(), 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    sent = upstream.bodies[0]
    assert sent["model"] == "slow" and sent["seed"] == 3
    assert not {"chat_template", "prompt_embeds", "metadata", "lora", "routing", "user"} & set(sent)
