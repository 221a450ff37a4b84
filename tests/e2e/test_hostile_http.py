"""A live gateway under hostile HTTP: it refuses early, in bounded memory and time, and serves the others meanwhile."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from router_service.http_protocol import ConnectionLimits
from router_service.http_server import HttpServer, listen
from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.e2e.raw_http import (
    CHAT,
    HELLO,
    connect,
    exchange,
    is_closed,
    json_of,
    read_all,
    request,
    rss_bytes,
    sockets_of,
    status_of,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory and sockets from /proc")

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Its own gateway, whose callers have two seconds for a body."""
    with running_gateway(tmp_path_factory.mktemp("hostile"), JOURNEYMAN_RECEIVE_TIMEOUT_S="2") as process:
        assert status_of(exchange(process.url, request())) == 200
        yield process


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]} | fields).encode()


def with_raw(name: str, value: bytes) -> bytes:
    return HELLO[:-1] + b', "' + name.encode() + b'": ' + value + b"}"


DEEP = b'{"a":' * 900 + b"1" + b"}" * 900
BAD_BODIES = {
    "deep array": b"[" * 100_000,
    "deep unknown field": with_raw("unknown", b"[" * 100_000 + b"]" * 100_000),
    "deep object": with_raw("tool_choice", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep tool schema": with_raw("tools", b'[{"type":"function","function":{"name":"f","parameters":' + DEEP + b"}}]"),
    "deep answer schema": with_raw(
        "response_format", b'{"type":"json_schema","json_schema":{"name":"f","schema":' + DEEP + b"}}"
    ),
    "too many messages": chat(messages=[{"role": "user", "content": "a"}] * 5000),
    "too many tools": chat(tools=[{"type": "function", "function": {"name": "f"}}] * 600),
    "too many stops": chat(stop=["a"] * 17),
    "n": chat(n=1000),
    "max_tokens": chat(max_tokens=10**9),
    "not a number": with_raw("temperature", b"NaN"),
    "infinity": with_raw("temperature", b"1e999"),
    "lone surrogate": with_raw("user", b'"\\ud800"'),
    "lone low surrogate": with_raw("user", b'"\\udc00x"'),
    "surrogate as UTF-8": with_raw("user", b'"\xed\xa0\x80"'),
    "not UTF-8": with_raw("user", b'"\xff\xfe"'),
    "UTF-16": HELLO.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + HELLO,
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "more behind it": HELLO + b"{}",
    "half": HELLO[:-4],
    "schema elsewhere": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": {"$ref": "http://127.0.0.1:1/"}}}
    ),
    "schema on disk": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": {"$ref": "file:///etc/passwd"}}}
    ),
    "picture by URL": chat(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]
    ),
    "file by URL": chat(
        messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "http://[::]/"}}]}]
    ),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_not_a_call_is_a_400_with_our_error(gateway: GatewayProcess, name: str) -> None:
    answer = exchange(gateway.url, request(BAD_BODIES[name]))
    assert status_of(answer) == 400, answer[:300]
    assert json_of(answer)["error"]["code"] in ("invalid_request", "no_candidate")


STRANGE_BODIES = {
    "the last of two keys counts": b'{"model":"nobody",' + HELLO[1:],
    "a NUL in the text": chat(messages=[{"role": "user", "content": "a\x00b"}], user="\x00"),
    "many parts": chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 20_000}]),
    "a large seed": chat(seed=10**30),
    "much metadata": chat(metadata={str(n): "a" for n in range(5_000)}),
}


@pytest.mark.parametrize("name", STRANGE_BODIES)
def test_strange_but_whole_calls_are_answered(gateway: GatewayProcess, name: str) -> None:
    answer = exchange(gateway.url, request(STRANGE_BODIES[name]))
    assert status_of(answer) == 200, answer[:300]


HISTORIES = {
    "cut arguments": '{"city": "Ber',
    "quotes in quotes": '{"a": "\\"{\\"b\\": \\"\\\\\\"\\"}"',
    "not a number": '{"a": NaN, "b": Infinity}',
    "deep": "[" * 20_000,
    "one megabyte": '{"a": "' + "x" * 100_000 + '"}',
    "empty": "",
    "not JSON": "get_weather(city=Berlin)",
    "escaped surrogate": '{"a": "\\ud800"}',
}


@pytest.mark.parametrize("name", HISTORIES)
def test_malformed_tool_calls_in_the_history_are_never_a_500(gateway: GatewayProcess, name: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": HISTORIES[name]}}
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "another", "content": "late"},
        {"role": "user", "content": "and now?"},
    ]
    answer = exchange(gateway.url, request(chat(messages=history)))
    assert status_of(answer) in (200, 422), answer[:300]


def test_what_a_history_of_tool_calls_costs_is_counted(gateway: GatewayProcess) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "word " * 100_000}}
    answer = exchange(gateway.url, request(chat(messages=[{"role": "assistant", "tool_calls": [call]}])))
    assert status_of(answer) == 422 and "its context is 32768 tokens" in json_of(answer)["error"]["message"]


CHUNKED = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
SMUGGLED = {
    "length and chunks": request(HELLO, "Transfer-Encoding: chunked"),
    "two lengths": request(HELLO, "Content-Length: 3"),
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length with a sign": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
    "a length in hex": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc",
    "a length without end": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\nabc",
    "another coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk without end": CHUNKED + b"\r\n" + b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n",
    "a folded header": request(HELLO, "X-A: b\r\n c"),
    "a space before the colon": request(HELLO, "X-A : b"),
    "NUL in a header": request(HELLO, "X-A: b\x00c"),
    "a bare LF": request(HELLO, "X-A: b\nX-B: c"),
    "a bare CR": request(HELLO, "X-A: b\rX-B: c"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303"),
    "a path that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_what_two_servers_could_read_differently_is_a_400_and_the_end(gateway: GatewayProcess, name: str) -> None:
    answer = exchange(gateway.url, SMUGGLED[name] + request(path="/healthz", method="GET", body=b""))
    assert status_of(answer) == 400, answer[:300]
    assert answer.count(b"HTTP/1.1 ") == 1, "what came behind it was taken for a request"
    assert json_of(answer)["error"]["type"] == "invalid_request_error"


def test_nothing_of_a_header_comes_back_unchecked(gateway: GatewayProcess) -> None:
    for path in ("/v1/plans/x%0d%0aSet-Cookie:%20a=b", "/v1/models/%0d%0aSet-Cookie:%20a=b"):
        head = exchange(gateway.url, request(b"", path=path, method="GET")).partition(b"\r\n\r\n")[0]
        assert b"cookie" not in head.lower()
    answer = exchange(gateway.url, request(HELLO, "x-journeyman-task-type: \xff\xfe", "x-request-id: \xe4"))
    assert status_of(answer) == 200 and b"\xff" not in answer


def test_hosts_and_forwarded_headers_change_nothing(gateway: GatewayProcess) -> None:
    plain = exchange(gateway.url, request(b"", path="/v1/models", method="GET"))
    forwarded = ("X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "Forwarded: for=1")
    rewritten = ("X-Original-URL: /metrics", "X-Rewrite-URL: /metrics", "X-HTTP-Method-Override: DELETE")
    for host, headers in [
        ("evil.example", ()),
        (None, ()),
        ("", ()),
        ("a@b:99999", ()),
        ("here", forwarded),
        ("here", rewritten),
    ]:
        answer = exchange(gateway.url, request(b"", *headers, path="/v1/models", method="GET", host=host))
        assert (status_of(answer), json_of(answer)) == (status_of(plain), json_of(plain))
    absolute = exchange(gateway.url, request(path=f"http://evil.example{CHAT}"))
    assert status_of(absolute) == 200


@pytest.mark.parametrize("name", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_passed_over(gateway: GatewayProcess, name: str) -> None:
    """Java's own client sends `Upgrade: h2c` with each first request."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {name}\r\n"
    asked = f"{head}HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: {len(HELLO)}\r\n\r\n".encode() + HELLO
    with connect(gateway.url) as peer:
        peer.sendall(asked[:-9])
        time.sleep(0.05)
        peer.sendall(asked[-9:] + request())
        answer = read_all(peer)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_pipelined_requests_are_answered_in_order(gateway: GatewayProcess) -> None:
    asked = [json.dumps({"model": "auto", "messages": [{"role": "user", "content": f"no{n}"}]}) for n in range(8)]
    one = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}"
    data = "".join(one.format(CHAT, len(body), body) for body in asked[:-1]).encode() + request(asked[-1].encode())
    answer = exchange(gateway.url, data)
    assert [f"no{n}" for n in range(8) if f'"content":"no{n}"'.encode() in answer] == [f"no{n}" for n in range(8)]
    places = [answer.index(f'"content":"no{n}"'.encode()) for n in range(8)]
    assert places == sorted(places)


def test_a_flood_of_pipelined_requests_is_cut_off(gateway: GatewayProcess) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(HELLO)}\r\n\r\n".encode()
    answer = exchange(gateway.url, (head + HELLO) * 5000)
    assert answer.count(b"HTTP/1.1 200") < 5000
    assert status_of(exchange(gateway.url, request())) == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "GET", "PROPFIND"])
def test_other_methods_are_refused_without_a_fault(gateway: GatewayProcess, method: str) -> None:
    answer = exchange(gateway.url, request(b"", method=method))
    assert status_of(answer) == 405 and b"\r\nallow: POST\r\n" in answer
    if method == "HEAD":
        assert answer.endswith(b"\r\n\r\n")


ADMIN = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter", "/sleep", "/wake_up", "/tokenize"]
ADMIN += ["/reset_prefix_cache", "/server_info", "/collective_rpc", "/v1/completions", "/v1/embeddings", "/docs"]
ADMIN += ["/openapi.json", "/schema", "/invocations", "/v1/../v1/load_lora_adapter", "//v1/load_lora_adapter"]


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_engines_admin_routes_are_not_there(gateway: GatewayProcess, path: str, method: str) -> None:
    answer = exchange(gateway.url, request(b'{"lora_name":"a","lora_path":"/"}', path=path, method=method))
    assert status_of(answer) == 404 and json_of(answer)["error"]["code"] == "not_found"


def flood(url: str, head: bytes, piece: bytes, most_bytes: int) -> tuple[int, bytes, float]:
    """Send pieces until the other side has enough; how much it took, its answer, and the seconds until it closed."""
    sent, started_s = 0, time.monotonic()
    with connect(url) as peer:
        try:
            peer.sendall(head)
            while sent < most_bytes:
                peer.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        return sent, read_all(peer), time.monotonic() - started_s


CHUNK = b"100000\r\n" + b"a" * MIB + b"\r\n"
FLOODS = {
    "chunks": (CHUNKED + b"\r\n", CHUNK, 413),
    "feedback in chunks": (CHUNKED.replace(CHAT.encode(), b"/v1/feedback") + b"\r\n", CHUNK, 413),
    "a declared length": (request(b"", "X: y").replace(b"Length: 0", b"Length: 1000000000"), b"a" * MIB, 413),
    "a header": (f"POST {CHAT} HTTP/1.1\r\nX-A: ".encode(), b"a" * MIB, 431),
    "headers": (f"POST {CHAT} HTTP/1.1\r\n".encode(), b"X-A: b\r\n" * 100_000, 431),
    "a path": (b"GET /", b"a" * MIB, 431),
    "trailers": (CHUNKED + b"\r\n1\r\n{\r\n0\r\n", b"X-A: b\r\n" * 100_000, 431),
    "a chunk's extension": (CHUNKED + b"\r\n1;", b"a" * MIB, 431),
    "empty lines": (b"\r\n", b"\r\n" * 500_000, 431),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_gigabyte_is_refused_early_and_not_kept(gateway: GatewayProcess, name: str) -> None:
    head, piece, status = FLOODS[name]
    before = rss_bytes(gateway.process.pid)
    sent, answer, took_s = flood(gateway.url, head, piece, 1024 * MIB)
    assert rss_bytes(gateway.process.pid) - before < 50 * MIB
    assert took_s < 8 and sent < 64 * MIB
    assert status_of(answer) in (status, 0), answer[:200]  # 0: the reset overtook the answer
    assert status_of(exchange(gateway.url, request())) == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/ask", "/v1/feedback"])
def test_a_refusal_of_the_declared_size_comes_before_the_body(gateway: GatewayProcess, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".encode()
    answer = exchange(gateway.url, head)
    assert status_of(answer) == 413 and json_of(answer)["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize("path", [CHAT, "/v1/ask", "/v1/feedback"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_refused_unopened(gateway: GatewayProcess, path: str, coding: str) -> None:
    bomb = gzip.compress(b"a" * (8 * MIB), 9)
    answer = exchange(gateway.url, request(bomb, f"Content-Encoding: {coding}", path=path))
    assert status_of(answer) == 400 and json_of(answer)["error"]["param"] == "content-encoding"


@pytest.mark.parametrize("path", [CHAT, "/v1/ask", "/v1/feedback"])
def test_a_slow_body_has_its_time(gateway: GatewayProcess, path: str) -> None:
    with connect(gateway.url) as peer:
        peer.sendall(request(path=path)[:-5])
        started_s = time.monotonic()
        answer = read_all(peer)
        assert status_of(answer) == 400 and b"did not arrive within 2 s" in answer
        assert time.monotonic() - started_s < 5


def test_slow_large_bodies_are_bounded_together(gateway: GatewayProcess) -> None:
    before = rss_bytes(gateway.process.pid)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {4 * MIB}\r\n\r\n".encode()
    peers = [connect(gateway.url) for _ in range(120)]
    try:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(head + b" " * (4 * MIB - 1))
        assert rss_bytes(gateway.process.pid) - before < 400 * MIB
        assert status_of(exchange(gateway.url, request())) == 200, "a small body needs no room"
        answers = [status_of(read_all(peer)) for peer in peers]
        assert answers.count(429) >= 30 and answers.count(400) >= 30
    finally:
        for peer in peers:
            peer.close()
    assert status_of(exchange(gateway.url, request(chat(metadata={"a": "b" * MIB})))) == 200


def test_a_drip_behind_an_answer_does_not_hold_the_connection(gateway: GatewayProcess) -> None:
    with connect(gateway.url) as peer:
        peer.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".encode())
        end = time.monotonic() + 6
        with pytest.raises(OSError):
            while time.monotonic() < end:
                peer.sendall(b"a")
                time.sleep(0.05)


async def test_a_thousand_slow_sockets_do_not_hurt_the_others(gateway: GatewayProcess) -> None:
    """Half of them never finish their head, the others not their body."""
    open_before = sockets_of(gateway.process.pid)
    quiet_ms = await good_calls_ms(gateway.url, 60)
    slow = [connect(gateway.url) for _ in range(1000)]
    try:
        for number, peer in enumerate(slow):
            peer.sendall(b"POST /v1/cha" if number % 2 else request()[:-5])
        loaded_ms = await good_calls_ms(gateway.url, 60)
        assert loaded_ms[30] < 10 * quiet_ms[30] + 50, (quiet_ms[30], loaded_ms[30])
        end = time.monotonic() + 20
        while sockets_of(gateway.process.pid) > open_before + 10 and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        assert sockets_of(gateway.process.pid) <= open_before + 10
    finally:
        for peer in slow:
            peer.close()


async def good_calls_ms(url: str, count: int) -> list[float]:
    """Latencies, sorted."""
    took = []
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            started_s = time.perf_counter()
            async with session.post(url + CHAT, data=HELLO) as response:
                assert response.status == 200
                await response.read()
            took.append((time.perf_counter() - started_s) * 1000)
    return sorted(took)


async def test_a_reader_that_stops_is_given_up_and_grows_no_memory() -> None:
    """In process, with a short deadline: the server's own code on a real socket."""
    written = 0

    async def endless(scope: dict, receive: object, send: object) -> None:
        nonlocal written
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.sleep(0)) is None and written < 1024 * MIB and not gone.is_set():
            await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})
            written += 65536

    gone = asyncio.Event()
    listener = listen("127.0.0.1", 0)
    ready = asyncio.Event()
    server = HttpServer(endless, listener, ready.set, ConnectionLimits(write_s=0.5))
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.run_until_signalled())
    await asyncio.wait_for(ready.wait(), 10)
    with socket.create_connection(listener.getsockname()) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        taken_early = written
        assert len(server.server_state.connections) == 1
        await asyncio.sleep(1.0)
        assert written - taken_early <= 2 * 65536 or not server.server_state.connections
        assert taken_early < 64 * MIB, "it went on writing to somebody who does not read"
        assert not server.server_state.connections
    gone.set()
    server.should_exit = True
    await asyncio.wait_for(serving, 15)


async def test_a_slow_head_is_closed_at_its_deadline_and_so_are_drips_of_empty_lines() -> None:
    async def unused(scope: dict, receive: object, send: object) -> None:
        raise AssertionError("nothing was asked")

    listener, ready = listen("127.0.0.1", 0), asyncio.Event()
    server = HttpServer(unused, listener, ready.set, ConnectionLimits(head_s=0.4))
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.run_until_signalled())
    await asyncio.wait_for(ready.wait(), 10)
    for piece in (b"", b"G", b"\r\n"):
        with socket.create_connection(listener.getsockname()) as peer:
            for _ in range(3):
                peer.sendall(piece)
                await asyncio.sleep(0.05)
            assert await asyncio.to_thread(is_closed, peer, 3)
    server.should_exit = True
    await asyncio.wait_for(serving, 15)
