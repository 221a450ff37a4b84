"""What callers of a live gateway see when its upstream hangs, breaks off, refuses or talks nonsense."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.e2e.raw_http import CHAT, connect, request, sockets_of
from tests.e2e.scripted_upstream import (
    REGISTRY,
    WHOLE,
    ScriptedUpstream,
    answer,
    events,
    scripted_upstream,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREVER_S = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProcess]:
    manager = running_gateway(tmp_path_factory.mktemp("failures"), REGISTRY.format(url=upstream.url))
    process = await asyncio.to_thread(manager.__enter__)
    yield process
    await asyncio.to_thread(manager.__exit__, None, None, None)


def body_of(*, streams: bool) -> dict:
    return {"model": "auto", "stream": streams, "messages": [{"role": "user", "content": "hi"}]}


class Seen:
    def __init__(self, status: int, raw: bytes, headers: aiohttp.typedefs.LooseHeaders, took_s: float) -> None:
        self.status, self.raw, self.headers, self.took_s = status, raw, headers, took_s

    @property
    def error(self) -> dict:
        return json.loads(self.raw)["error"]


async def ask(gateway: GatewayProcess, *, streams: bool, path: str = CHAT) -> Seen:
    started_s = time.monotonic()
    body = body_of(streams=streams)
    if path == "/v1/ask":
        body.pop("stream")
    async with aiohttp.ClientSession() as session, session.post(gateway.url + path, json=body) as response:
        raw = await response.read()
        return Seen(response.status, raw, response.headers, time.monotonic() - started_s)


HEAD = stream(b"")
PART = events("one", "two")[:150]
HANGS = [
    ("no head", True, [FOREVER_S], 0.7, "first_token"),
    ("no head, whole", False, [FOREVER_S], 1.5, "total"),
    ("a head and no token", True, [HEAD, FOREVER_S], 0.7, "first_token"),
    ("half a body", False, [answer(WHOLE)[:-20], FOREVER_S], 0.5, "between_tokens"),
    ("a drip without end", False, [p for n in range(200) for p in (b"H" if n == 0 else b"T", 0.1)], 1.5, "total"),
]


@pytest.mark.parametrize(("name", "streams", "pieces", "deadline_s", "phase"), HANGS)
async def test_a_hang_is_a_504_at_its_deadline(
    upstream: ScriptedUpstream,
    gateway: GatewayProcess,
    name: str,
    streams: bool,
    pieces: list,
    deadline_s: float,
    phase: str,
) -> None:
    upstream.pieces = pieces
    seen = await ask(gateway, streams=streams)
    if name == "a drip without end":
        assert seen.status in (502, 504)  # it may be found out to be no HTTP before its time is up
        return
    assert seen.status == 504 and seen.error["type"] == "upstream_timeout"
    assert f"{phase}_ms" in seen.error["message"]
    assert seen.took_s <= deadline_s * 1.1 + 0.35, seen.took_s  # and room for a busy machine
    assert seen.took_s >= deadline_s * 0.95


async def test_a_stall_between_tokens_is_an_error_event(upstream: ScriptedUpstream, gateway: GatewayProcess) -> None:
    upstream.pieces = [stream(PART), FOREVER_S]
    seen = await ask(gateway, streams=True)
    assert seen.status == 200 and b"[DONE]" not in seen.raw
    last = json.loads(seen.raw.strip().rpartition(b"data: ")[2])
    assert last["error"]["type"] == "upstream_timeout" and "between_tokens_ms" in last["error"]["message"]
    assert seen.took_s <= 0.5 * 1.1 + 0.35


@pytest.mark.parametrize("path", [CHAT, "/v1/ask"])
async def test_a_stream_cut_at_any_byte_never_ends_as_if_it_were_whole(
    upstream: ScriptedUpstream, gateway: GatewayProcess, path: str
) -> None:
    whole = events("one ", "two ", "three")
    finish = whole.index(b'"finish_reason"')
    for at in range(0, finish, 9):
        upstream.pieces = [stream(whole[:at])]
        seen = await ask(gateway, streams=True, path=path)
        assert b"[DONE]" not in seen.raw and b'"type":"done"' not in seen.raw, at
        if seen.status == 200:
            last = json.loads(seen.raw.strip().rpartition(b"data: ")[2])
            assert last["error"]["type"] == "upstream_error", at
        else:
            assert seen.status == 502 and seen.error["type"] == "upstream_error", at
    upstream.pieces = [stream(whole)]
    seen = await ask(gateway, streams=True, path=path)
    assert b"[DONE]" in seen.raw or b'"type":"done"' in seen.raw


REFUSALS = [
    ("429 Too Many Requests", 503, "upstream_error"),
    ("503 Service Unavailable", 503, "upstream_error"),
    ("500 Internal Server Error", 502, "upstream_error"),
    ("400 Bad Request", 400, "invalid_request_error"),
    ("302 Found", 502, "upstream_error"),
    ("401 Unauthorized", 502, "upstream_error"),
]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("line", "status", "kind"), REFUSALS)
async def test_an_upstreams_refusal_becomes_ours(
    upstream: ScriptedUpstream, gateway: GatewayProcess, line: str, status: int, kind: str, streams: bool
) -> None:
    told = json.dumps({"error": {"message": "not now", "type": "x"}}).encode()
    upstream.pieces = [answer(told, line, "retry-after: 7", "location: http://169.254.169.254/")]
    seen = await ask(gateway, streams=streams)
    assert (seen.status, seen.error["type"]) == (status, kind), seen.raw
    if line.startswith("429"):
        assert seen.headers["retry-after"] == "7"


NONSENSE = {
    "not JSON": answer(b"<html>502</html>"),
    "half of it": answer(WHOLE[:-10]),
    "null": answer(b"null"),
    "no choices": answer(b'{"choices": []}'),
    "choices of another kind": answer(b'{"choices": 5}'),
    "deep": answer(b"[" * 100_000),
    "not UTF-8": answer(WHOLE.replace(b"there", b"\xff\xfe")),
    "a lone surrogate": answer(WHOLE.replace(b"there", b"\\ud800")),
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": answer(WHOLE, "200 OK", "content-length: 3"),
    "compressed unasked": answer(b"\x1f\x8b\x08\x00", "200 OK", "content-encoding: gzip"),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_from_upstream_is_a_502(upstream: ScriptedUpstream, gateway: GatewayProcess, name: str) -> None:
    upstream.pieces = [NONSENSE[name]]
    seen = await ask(gateway, streams=False)
    assert (seen.status, seen.error["type"]) == (502, "upstream_error"), seen.raw
    assert "SSH" not in seen.error["message"] and "html" not in seen.error["message"]


STREAM_NONSENSE = {
    "not JSON": b"data: {nope\n\n",
    "null": b"data: null\n\n",
    "choices of another kind": b'data: {"choices": {"a": 1}}\n\n',
    "an error": b'data: {"error": {"message": "boom"}}\n\n',
    "done without a word": b"data: [DONE]\n\n",
    "a line without end": b"data: " + b"a" * 3_000_000,
}


@pytest.mark.parametrize("name", STREAM_NONSENSE)
async def test_a_stream_of_nonsense_is_an_error(upstream: ScriptedUpstream, gateway: GatewayProcess, name: str) -> None:
    upstream.pieces = [stream(STREAM_NONSENSE[name])]
    seen = await ask(gateway, streams=True)
    assert seen.status == 502 and seen.error["type"] == "upstream_error", seen.raw[:300]


async def in_flight(gateway: GatewayProcess) -> bool:
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/metrics") as response:
        return "journeyman_calls_in_flight 0.0" not in await response.text()


async def expect_quiet(gateway: GatewayProcess, upstream: ScriptedUpstream, sockets: int) -> None:
    end = time.monotonic() + 2
    while await in_flight(gateway) or upstream.connected or sockets_of(gateway.process.pid) > sockets + 2:
        assert time.monotonic() < end, (upstream.connected, sockets_of(gateway.process.pid), sockets)
        await asyncio.sleep(0.05)


WINDOWS = [
    ("before the first token", True, [FOREVER_S], 0),
    ("between tokens", True, [stream(PART), FOREVER_S], 1),
    ("while an answer is waited for", False, [FOREVER_S], 0),
    ("behind a pipelined request", True, [FOREVER_S], 0),
]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets in /proc")
@pytest.mark.parametrize(("name", "streams", "pieces", "wait_for"), WINDOWS)
async def test_thirty_callers_that_leave_leave_nothing_behind(
    upstream: ScriptedUpstream, gateway: GatewayProcess, name: str, streams: bool, pieces: list, wait_for: int
) -> None:
    upstream.pieces = [answer(WHOLE)]
    await ask(gateway, streams=False)
    await expect_quiet(gateway, upstream, 10**6)
    sockets, upstream.pieces, upstream.asked = sockets_of(gateway.process.pid), pieces, asyncio.Semaphore(0)
    body = json.dumps(body_of(streams=streams)).encode()
    data = request(body).replace(b"Connection: close\r\n", b"")
    peers = []
    for _ in range(30):
        peers.append(peer := connect(gateway.url))
        peer.sendall(data * 2 if "pipelined" in name else data)
    for _ in range(30):
        await asyncio.wait_for(upstream.asked.acquire(), 5)
    if wait_for:
        await asyncio.gather(*(asyncio.to_thread(peer.recv, 1) for peer in peers))
    left_s = time.monotonic()
    for peer in peers:
        peer.close()
    while upstream.connected:
        assert time.monotonic() - left_s < 1.0, "the upstream was not let go within a second"
        await asyncio.sleep(0.02)
    await expect_quiet(gateway, upstream, sockets)
