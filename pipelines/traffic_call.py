"""One call of a workload: send it, read the answer off the wire, take the time.

It knows OpenAI's wire format and the gateway's response headers; neither graders nor when calls are due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from pipelines.graders import Answer, ToolCall
from registry.errors import BadInputError, EnvironmentFaultError

_HEADERS: Final = {
    "id": "x-journeyman-id",
    "plan": "x-journeyman-plan",
    "model": "x-journeyman-model",
    "cost_usd": "x-journeyman-cost-usd",
    "saved_usd": "x-journeyman-saved-usd",
    "escalated": "x-journeyman-escalated",
    "outcome": "x-journeyman-outcome",
}


class Received(msgspec.Struct):
    """What came back from one call. `error` is empty when there is an answer; times are in ms."""

    answer: Answer = Answer()
    error: str = ""
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    model: str = ""
    call_id: str = ""
    plan: str = ""
    escalated: bool | None = None
    outcome: str = ""
    """`verified` or `unverified`, when the gateway said so."""
    cost_usd: float | None = None
    saved_usd: float | None = None
    """Against what the frontier alone would have cost."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def call_chat(session: aiohttp.ClientSession, url: str, body: dict[str, Any], start: float) -> Received:
    """Send one chat request; faults of server and network go into `error`. `start` (perf_counter): when due."""
    received = Received()
    try:
        async with session.post(url, data=msgspec.json.encode(body)) as response:
            _read_headers(received, response.headers)
            if response.status != 200:
                received.error = _error_code(response.status, await response.read())
            elif body.get("stream"):
                await _read_stream(received, response, start)
            else:
                _read_body(received, await response.read())
    except TimeoutError:
        received.error = "timeout"
    except (aiohttp.ClientError, ConnectionError) as error:
        received.error = f"connection:{type(error).__name__}"
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError):
        received.error = "bad_response"
    received.latency_ms = (time.perf_counter() - start) * 1000
    return received


async def post_feedback(session: aiohttp.ClientSession, url: str, call_id: str, said: Mapping[str, Any]) -> bool:
    """Tell the gateway how a call went (`outcome`, `score`, `correction`); whether it took it."""
    body = {"id": call_id, "source": "grader", **said}
    try:
        async with session.post(url, data=msgspec.json.encode(body)) as response:
            return response.status < 300
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return False


async def check_reachable(session: aiohttp.ClientSession, base_url: str) -> None:
    """Make sure that somebody answers before a thousand calls fail.

    Raises:
        EnvironmentFaultError: nobody listens there.
        BadInputError: the key is refused, or the URL is none.
    """
    try:
        async with asyncio.timeout(10), session.get(f"{base_url}/models") as response:
            if response.status in (401, 403):
                raise BadInputError(f"{base_url}: the api key is refused (HTTP {response.status}); give --api-key")
    except aiohttp.InvalidURL:
        raise BadInputError(f"{base_url!r} is not a URL; write http://HOST:PORT/v1") from None
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise EnvironmentFaultError(f"{base_url}: not reachable ({error or 'no answer in 10 s'})") from None


def _read_headers(received: Received, headers: Mapping[str, str]) -> None:
    received.call_id = headers.get(_HEADERS["id"], "")
    received.plan = headers.get(_HEADERS["plan"], "")
    received.model = headers.get(_HEADERS["model"], "")
    received.cost_usd = _number(headers.get(_HEADERS["cost_usd"]))
    received.saved_usd = _number(headers.get(_HEADERS["saved_usd"]))
    received.outcome = headers.get(_HEADERS["outcome"], "")
    escalated = headers.get(_HEADERS["escalated"])
    received.escalated = None if escalated is None else escalated == "true"


def _read_body(received: Received, content: bytes) -> None:
    body = msgspec.json.decode(content)
    message = body["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    received.answer = Answer(
        message.get("content") or "", tuple(ToolCall(call["name"], call["arguments"]) for call in calls)
    )
    _read_facts(received, body)


async def _read_stream(received: Received, response: aiohttp.ClientResponse, start: float) -> None:
    texts: list[str] = []
    calls: dict[int, list[str]] = {}
    ended = False
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            ended = True
            break
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            received.error = f"stream:{chunk['error'].get('code') or 'error'}"
            return
        if _take_chunk(chunk, texts, calls) and received.ttft_ms is None:
            received.ttft_ms = (time.perf_counter() - start) * 1000
        _read_facts(received, chunk)
    if not ended:
        received.error = "stream:cut"
    received.answer = Answer("".join(texts), tuple(ToolCall(name, text) for name, text in calls.values()))


def _take_chunk(chunk: dict[str, Any], texts: list[str], calls: dict[int, list[str]]) -> bool:
    """Add a chunk to the answer; whether it brought any of it."""
    brought = False
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("content"):
            texts.append(delta["content"])
            brought = True
        for part in delta.get("tool_calls") or ():
            function = part.get("function") or {}
            call = calls.setdefault(part.get("index", 0), ["", ""])
            call[0] += function.get("name") or ""
            call[1] += function.get("arguments") or ""
            brought = True
    return brought


def _read_facts(received: Received, body: dict[str, Any]) -> None:
    received.model = received.model or body.get("model") or ""
    usage = body.get("usage")
    if usage:
        received.prompt_tokens = usage.get("prompt_tokens") or 0
        received.completion_tokens = usage.get("completion_tokens") or 0
    told = body.get("journeyman")
    if isinstance(told, dict):
        # In a stream the bill is known only after the headers are gone.
        received.cost_usd = _number(told.get("cost_usd", received.cost_usd))
        received.saved_usd = _number(told.get("saved_usd", received.saved_usd))
        received.outcome = told.get("outcome") or received.outcome
        received.model = told.get("model") or received.model
        received.escalated = told.get("escalated", received.escalated)


def _error_code(status: int, content: bytes) -> str:
    try:
        code = msgspec.json.decode(content)["error"]["code"]
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        code = None
    return f"http_{status}:{code}" if code else f"http_{status}"


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
