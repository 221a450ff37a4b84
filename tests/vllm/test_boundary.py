"""Between callers and vLLM: its own routes are not reached, and of a call's fields only the named ones arrive."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.vllm_surface import FIELDS, ROUTES
from tests.vllm.fleet import id_of, messages, running_fleet, specialist
from tests.vllm.trained_adapters import Adapter
from tests.vllm.vllm_process import VllmServer

pytestmark = pytest.mark.vllm
OURS = {"/v1/chat/completions", "/v1/models", "/metrics"}
ADMIN = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/reset_prefix_cache", "/tokenize", "/detokenize"}
CHAT = {"model", "messages", "max_tokens", "temperature", "cache_salt"}
TEXT = {"model", "prompt", "max_tokens", "temperature", "logprobs", "cache_salt"}
ODD = {"n", "best_of", "prompt"}
"""Fields that the gateway answers with a refusal, or that it uses itself."""


class Relay:
    """Passes everything on to vLLM and keeps the calls' bodies."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.bodies: list[dict] = []

    async def handle(self, asked: web.Request) -> web.StreamResponse:
        raw = await asked.read()
        if asked.path.endswith("/completions"):
            self.bodies.append(json.loads(raw))
        async with (
            aiohttp.ClientSession() as session,
            session.request(asked.method, self._target + asked.path, data=raw, headers=_kept(asked)) as answer,
        ):
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)


def _kept(asked: web.Request) -> dict[str, str]:
    return {"content-type": asked.headers.get("content-type", "application/json")}


@pytest.fixture
async def relay(vllm: VllmServer) -> AsyncIterator[tuple[Relay, str]]:
    relay = Relay(vllm.url)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", relay.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield relay, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_of_everything_that_vllm_takes_only_the_named_fields_arrive(
    relay: tuple[Relay, str], adapters: list[Adapter], tmp_path: Path
) -> None:
    seen, url = relay
    entry = specialist(adapters[0])
    fields = {name: value for name, value in FIELDS.items() if name not in ODD}
    assert {"chat_template", "chat_template_kwargs", "prompt_embeds"} <= set(fields)
    manager = running_fleet(tmp_path, url, [entry])
    gateway = await asyncio.to_thread(manager.__enter__)
    try:
        before = len(seen.bodies)
        async with aiohttp.ClientSession() as session:
            for model in ("small", id_of(entry)):
                body = {"model": model, "messages": messages("north", 400), "max_tokens": 16, "temperature": 0}
                async with session.post(gateway.base_url + "/chat/completions", json=body | fields) as answer:
                    assert answer.status == 200, await answer.text()
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
    chat, text = seen.bodies[before:]
    assert set(chat) == CHAT and set(text) == TEXT
    assert chat["cache_salt"] == text["cache_salt"] != fields["cache_salt"]


def test_vllm_itself_looks_at_a_template_of_the_caller_s(vllm: VllmServer) -> None:
    body = {"model": "smollm2-135m", "messages": messages("north", 401), "max_tokens": 2, "chat_template": "{{ 1 }}"}
    asked = urllib.request.Request(
        vllm.base_url + "/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    assert "chat template" in refused.value.read().decode().lower(), "it looked at the field"


async def test_no_route_of_vllm_s_own_is_reached_through_the_gateway(vllm: VllmServer, fleet: GatewayProcess) -> None:
    async with aiohttp.ClientSession() as session, session.get(vllm.url + "/openapi.json") as described:
        offered = set((await described.json())["paths"])
    assert {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize"} <= offered, "the server has what is hidden"
    asked = {path.replace("{", "").replace("}", "") for path in (offered | ADMIN | set(ROUTES)) - OURS}
    reached = {}
    async with aiohttp.ClientSession() as session:
        for path in sorted(asked):
            for method in ("GET", "POST"):
                body = {"lora_name": "x", "lora_path": "/tmp/x"} if method == "POST" else None
                async with session.request(method, fleet.url + path, json=body) as answer:
                    if answer.status != 404:
                        reached[f"{method} {path}"] = answer.status
    assert reached == {}
