"""A backend against real sockets: an upstream that answers, hangs, cuts, stalls or breaks in each phase."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from registry.entries import BackendEntry, Deadlines
from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendRejectedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BreakerOpenError,
    StreamCutError,
)
from specialists import http_pool
from specialists.backends import BackendContext, make_backend
from specialists.calls import Call, Message, Sampling
from specialists.http_connection import MAX_ANSWER_BYTES

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(
    scope="module", params=[uvloop.EventLoopPolicy, asyncio.DefaultEventLoopPolicy], ids=["uvloop", "asyncio"]
)
def event_loop_policy(request):
    return request.param()


ASK = Call("m", (Message("user", "hello"),), sampling=Sampling(max_tokens=5))
ANSWER = json.dumps(
    {
        "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        "unknown": {"field": 1},
    }
).encode()
EVENTS = [
    b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
    b'{"choices":[{"index":0,"delta":{"content":"one "}}]}',
    b'{"choices":[{"index":0,"delta":{"content":"two"}}]}',
    b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}',
    b"[DONE]",
]
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body=ANSWER, status="200 OK", extra=b""):
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n" % (status.encode(), len(body), extra) + body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data):
    return chunk(b"data: " + data + b"\n\n")


class Upstream:
    """A raw HTTP server. `behave(writer)` answers one request; what it saw is kept."""

    def __init__(self, behave):
        self.behave = behave
        self.requests = []
        self.heads = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.asked = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode())
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                body = await reader.readexactly(length)
                self.requests.append(json.loads(body) if body else None)
                self.asked.set()
                answering = asyncio.ensure_future(self.behave(writer))
                watching = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                if answering.done() and answering.result() == "keep":
                    # The next request's first byte must not be swallowed by the watcher.
                    watching.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await watching
                    continue
                if not answering.done():
                    answering.cancel()
                    self.gone.set()
                watching.cancel()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def upstream(behave, **entry):
    server = Upstream(behave)
    tls = entry.pop("tls", None)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    environment = entry.pop("environment", {})
    kind = entry.pop("kind", "vllm")
    made = BackendEntry(name="up", kind=kind, url=f"http{'s' if tls else ''}://127.0.0.1:{port}/v1", **entry)
    backend = make_backend(made, BackendContext(state=Path("unused"), environment=environment, draw=lambda: 0.0))
    try:
        yield server, backend
    finally:
        await backend.close()
        listener.close()


def answers(*pieces, then="keep"):
    async def behave(writer):
        for piece in pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
        return then

    return behave


def hangs(*pieces):
    return answers(*pieces, 3600.0)


STREAM = answers(SSE_HEAD, *map(event, EVENTS), b"0\r\n\r\n")


async def collect(stream):
    return [delta async for delta in stream]


def text_of(deltas):
    return "".join(d.text for d in deltas)


async def test_an_answer_comes_back_and_the_connection_is_kept():
    async with upstream(answers(whole())) as (server, backend):
        for _ in range(3):
            completion = await backend.complete(ASK, 5000)
            assert (completion.text, completion.finish_reason) == ("hi", "stop")
            assert (completion.usage.prompt_tokens, completion.usage.estimated) == (3, False)
        assert server.connections == 1


async def test_a_stream_comes_in_pieces_with_its_usage_and_the_connection_is_kept():
    async with upstream(STREAM) as (server, backend):
        for _ in range(3):
            deltas = await collect(backend.stream(ASK, 5000))
            assert text_of(deltas) == "one two"
            assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]
            assert [d.usage.prompt_tokens for d in deltas if d.usage] == [7]
            await asyncio.sleep(0.02)
        assert server.connections == 1
        assert server.requests[0]["stream_options"] == {"include_usage": True}


async def test_only_listed_fields_reach_the_upstream():
    call = Call(
        "m",
        (Message("user", [{"type": "text", "text": "x", "cache_salt": "evil"}]),),
        tools=({"type": "function", "function": {"name": "f", "parameters": {}, "x": 1}, "chat_template": "evil"},),
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "evil": 1}, "evil": 2},
    )
    async with upstream(answers(whole())) as (server, backend):
        await backend.complete(call, 5000)
        (asked,) = server.requests
        assert len(asked.pop("cache_salt")) == 64  # ours, and not the caller's
        assert asked == {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        }


async def test_a_prompt_goes_to_completions_without_messages():
    body = json.dumps({"choices": [{"text": " Paris", "finish_reason": "stop"}]}).encode()
    async with upstream(answers(whole(body))) as (server, backend):
        completion = await backend.complete(Call("m", ASK.messages, prompt="The capital of France is"), 5000)
        assert completion.text == " Paris"
        assert completion.usage.estimated
        assert server.heads[0].startswith("POST /v1/completions HTTP/1.1\r\n")
        (asked,) = server.requests
        assert asked == {"model": "m", "prompt": "The capital of France is", "cache_salt": asked["cache_salt"]}


async def test_the_key_is_sent_and_never_repeated_in_an_error():
    body = json.dumps({"error": {"message": "bad key sk-hush\r\n\x00" + "x" * 5000}}).encode()
    environment = {"PROVIDER_KEY": "sk-hush"}
    async with upstream(
        answers(whole(body, "401 Unauthorized")), kind="openai", api_key_env="PROVIDER_KEY", environment=environment
    ) as (server, backend):
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.complete(ASK, 5000)
        assert "authorization: Bearer sk-hush\r\n" in server.heads[0]
        assert "$PROVIDER_KEY" in caught.value.message
        assert "sk-hush" not in caught.value.message
        assert caught.value.message.isprintable() and len(caught.value.message) < 700
        assert len(server.requests) == 1  # a refused key is not tried again


async def test_a_missing_key_is_told_without_asking():
    async with upstream(answers(whole()), kind="openai", api_key_env="NOT_THERE") as (server, backend):
        assert "$NOT_THERE" in backend.health().reason
        with pytest.raises(BackendUnavailableError, match="NOT_THERE"):
            await backend.complete(ASK, 5000)
        assert server.connections == 0


STATUSES = [
    ("400 Bad Request", BackendRejectedError, 1),
    ("404 Not Found", BackendRejectedError, 1),
    ("422 Unprocessable", BackendRejectedError, 1),
    ("403 Forbidden", BackendUnavailableError, 1),
    ("302 Found", BackendUnavailableError, 1),
    ("500 Oops", BackendUnavailableError, 3),
    ("502 Bad Gateway", BackendUnavailableError, 3),
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("status", "kind", "tries"), STATUSES, ids=[s[0] for s in STATUSES])
async def test_a_status_becomes_its_error(status, kind, tries, streams):
    body = json.dumps({"error": {"message": "the model `m` does not exist"}}).encode()
    reply = answers(whole(body, status, b"location: http://127.0.0.1:1/\r\n"))
    async with upstream(reply, max_retries=2) as (server, backend):
        with pytest.raises(kind) as caught:
            await (collect(backend.stream(ASK, 5000)) if streams else backend.complete(ASK, 5000))
        assert caught.value.backend == "up"
        assert len(server.requests) == tries
        if kind is BackendRejectedError:
            assert caught.value.status == int(status[:3])
            assert "the model `m` does not exist" in caught.value.message


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_overload_carries_the_wait_and_is_not_retried_beyond_the_callers_time(status):
    async with upstream(answers(whole(b"{}", status, b"retry-after: 7\r\n"))) as (server, backend):
        with pytest.raises(BackendOverloadedError) as caught:
            await backend.complete(ASK, 5000)
        assert caught.value.retry_after_s == 7
        assert len(server.requests) == 1


async def test_a_retry_before_the_first_byte_saves_the_call():
    replies = iter([answers(whole(b"{}", "500 Oops")), answers(then="close"), answers(whole())])

    async def in_turn(writer):
        return await next(replies)(writer)

    async with upstream(in_turn) as (server, backend):
        assert (await backend.complete(ASK, 5000)).text == "hi"
        assert len(server.requests) == 3


async def test_retries_stay_within_a_tenth_of_the_calls():
    async with upstream(answers(whole(b"{}", "500 Oops")), breaker_failures=10**6, max_retries=5) as (server, backend):
        calls = 200
        for _ in range(calls):
            with pytest.raises(BackendUnavailableError):
                await backend.complete(ASK, 5000)
        assert len(server.requests) - calls <= 0.1 * calls + 3


async def test_nothing_is_retried_after_the_first_byte():
    for reply in (answers(SSE_HEAD, event(EVENTS[0]), then="close"), answers(SSE_HEAD, then="close")):
        async with upstream(reply) as (server, backend):
            with pytest.raises(StreamCutError):
                await collect(backend.stream(ASK, 5000))
            assert len(server.requests) == 1
    async with upstream(answers(whole()[:-5], then="close")) as (server, backend):
        with pytest.raises(StreamCutError):
            await backend.complete(ASK, 5000)
        assert len(server.requests) == 1


async def test_refused_connections_are_unavailable():
    async with upstream(answers(whole())) as (_, backend):
        pass
    async with upstream(answers(whole())) as (_, other):
        port = other.pool.origin.port
    entry = BackendEntry(name="gone", kind="vllm", url=f"http://127.0.0.1:{port}/v1")
    backend = make_backend(entry, BackendContext(state=Path("unused")))
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await backend.complete(ASK, 5000)
    assert not (await backend.probe()).ok


# A cut stream: at every byte of what a server really sends.


async def test_a_stream_cut_at_any_byte_never_ends_as_if_it_were_whole():
    recorded = SSE_HEAD + b"".join(map(event, EVENTS)) + b"0\r\n\r\n"
    whole_from = recorded.index(b'"finish_reason":"stop"}]}\n\n') + len(b'"finish_reason":"stop"}]}\n\n')
    outcomes = {}
    place = 0

    async def behave(writer):
        writer.write(recorded[:place])
        return "close"

    async with upstream(behave, breaker_failures=10**6, max_retries=0) as (_, backend):
        for place in range(len(recorded)):
            deltas = []
            try:
                async for delta in backend.stream(ASK, 5000):
                    deltas.append(delta)
                outcomes[place] = "whole"
                assert text_of(deltas) == "one two"
                assert sum(d.finish_reason == "stop" for d in deltas) == 1
                assert sum(d.usage is not None for d in deltas) == 1
            except (StreamCutError, BackendUnavailableError) as error:
                outcomes[place] = type(error).__name__
                assert "one two".startswith(text_of(deltas))
                assert not any(d.finish_reason for d in deltas)
        await asyncio.sleep(0.1)
        assert backend.pool.open_count == 0
    assert {o for p, o in outcomes.items() if p >= whole_from} == {"whole"}
    assert {o for p, o in outcomes.items() if len(SSE_HEAD) <= p < whole_from} == {"StreamCutError"}
    assert {o for p, o in outcomes.items() if p < len(SSE_HEAD)} == {"BackendUnavailableError"}


async def test_an_answer_cut_at_any_byte_is_never_taken_for_whole():
    place = 0

    async def behave(writer):
        writer.write(whole()[:place])
        return "close"

    async with upstream(behave, breaker_failures=10**6, max_retries=0) as (_, backend):
        for place in range(len(whole())):  # noqa: B007 - `behave` uses it
            with pytest.raises((StreamCutError, BackendUnavailableError)):
                await backend.complete(ASK, 5000)
        assert backend.pool.open_count == 0


async def test_an_error_event_ends_the_stream_as_an_error():
    failing = event(b'{"error":{"message":"CUDA out of memory","code":500}}')
    async with upstream(answers(SSE_HEAD, event(EVENTS[1]), failing, event(b"[DONE]"), b"0\r\n\r\n")) as (_, backend):
        deltas = []
        with pytest.raises(BackendError, match="CUDA out of memory"):
            async for delta in backend.stream(ASK, 5000):
                deltas.append(delta)
        assert text_of(deltas) == "one "


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'{"choices": 7}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": NaN}}]}',
        b"[" * 100_000,
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
    ],
)
async def test_malformed_answers_are_backend_errors(body):
    async with upstream(answers(whole(body))) as (_, backend):
        with pytest.raises(BackendError):
            await backend.complete(ASK, 5000)
    async with upstream(answers(SSE_HEAD, event(body or b"{"), event(b"[DONE]"), b"0\r\n\r\n")) as (_, backend):
        with pytest.raises(BackendError):
            await collect(backend.stream(ASK, 5000))


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n" + b"x" * 6,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"y" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["ssh", "two lengths", "bad chunk", "endless head", "upgrade"],
)
async def test_what_is_not_http_is_a_backend_error(reply):
    async with upstream(hangs(reply), max_retries=0) as (_, backend):
        with pytest.raises(BackendError) as caught:
            await backend.complete(ASK, 2000)
        assert not isinstance(caught.value, BackendTimeoutError)
        assert backend.pool.open_count == 0


async def test_an_answer_larger_than_the_limit_is_refused():
    async def flood(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_ANSWER_BYTES * 4))
        while True:
            writer.write(b"x" * 1_000_000)
            await writer.drain()

    async with upstream(flood, max_retries=0) as (_, backend):
        with pytest.raises(BackendError, match="32 MiB"):
            await backend.complete(ASK, 20_000)
        assert backend.pool.open_count == 0


async def test_an_answer_after_an_informational_one_and_one_that_ends_by_close():
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    by_close = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + ANSWER
    for reply in (answers(early + whole()), answers(by_close, then="close")):
        async with upstream(reply) as (_, backend):
            assert (await backend.complete(ASK, 5000)).text == "hi"


async def test_leftover_bytes_never_reach_the_next_call():
    poison = whole(ANSWER.replace(b'"hi"', b'"poisoned"'))
    async with upstream(answers(whole() + poison), max_retries=0) as (server, backend):
        for _ in range(5):
            assert (await backend.complete(ASK, 5000)).text == "hi"
            await asyncio.sleep(0.01)
        assert server.connections == 5
    async with upstream(answers(whole(), 0.02, poison), max_retries=0) as (server, backend):
        for _ in range(5):
            assert (await backend.complete(ASK, 5000)).text == "hi"
            await asyncio.sleep(0.05)
        assert server.connections == 5


async def test_a_certificate_is_checked(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    await asyncio.to_thread(subprocess.run, command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    try:
        for known in (False, True):
            if known:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            http_pool._tls.cache_clear()
            async with upstream(STREAM, tls=context, max_retries=0) as (server, backend):
                if known:
                    for _ in range(2):
                        assert text_of(await collect(backend.stream(ASK, 5000))) == "one two"
                        await asyncio.sleep(0.02)
                    assert server.connections == 1
                else:
                    with pytest.raises(BackendUnavailableError, match="certificate"):
                        await backend.complete(ASK, 5000)
                    assert server.requests == [] and backend.pool.open_count == 0
    finally:
        http_pool._tls.cache_clear()


# Deadlines.

SHORT = 300.0


async def lag_ms():
    """How late a busy machine wakes a sleeper: nobody can keep a deadline better than that."""
    worst = 0.0
    try:
        while True:
            start = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - start - 0.005)
    except asyncio.CancelledError:
        return worst * 1e3


async def timed(awaitable):
    watch = asyncio.create_task(lag_ms())
    await asyncio.sleep(0)
    start = time.monotonic()
    with pytest.raises(BackendTimeoutError) as caught:
        await awaitable
    took_ms = (time.monotonic() - start) * 1e3
    assert took_ms > 0.9 * SHORT
    watch.cancel()
    return took_ms - 2 * await watch, caught.value.phase


def in_time(took_ms, limit_ms=SHORT):
    return took_ms <= 1.1 * limit_ms


async def test_connect_deadline(monkeypatch):
    """A listener whose backlog is full never completes the handshake."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.1)
        entry = BackendEntry(
            name="b", kind="vllm", url=f"http://127.0.0.1:{port}/v1", deadlines=Deadlines(connect_ms=SHORT)
        )
        backend = make_backend(entry, BackendContext(state=Path("unused")))
        took_ms, phase = await timed(backend.complete(ASK, 10_000))
        assert phase == "connect" and in_time(took_ms)
        assert backend.pool.open_count == 0
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("pieces", "deadlines", "budget_ms", "phase"),
    [
        ((), Deadlines(first_token_ms=SHORT), 60_000, "first_token"),
        ((SSE_HEAD, event(EVENTS[0])), Deadlines(first_token_ms=SHORT), 60_000, "first_token"),
        ((SSE_HEAD, event(EVENTS[1])), Deadlines(between_tokens_ms=SHORT), 60_000, "between_tokens"),
        ((SSE_HEAD, event(EVENTS[1])), Deadlines(total_ms=SHORT), 60_000, "total"),
        ((), Deadlines(), SHORT, "total"),
    ],
    ids=["silent", "only a role", "between tokens", "total", "the caller's budget"],
)
async def test_a_stalled_stream_ends_at_its_deadline(pieces, deadlines, budget_ms, phase):
    async with upstream(hangs(*pieces), deadlines=deadlines) as (server, backend):
        took_ms, said = await timed(collect(backend.stream(ASK, budget_ms)))
        assert said == phase and in_time(took_ms)
        assert len(server.requests) == 1
        await asyncio.wait_for(server.gone.wait(), 1)


async def test_comments_keep_no_stream_alive():
    async def ping(writer):
        writer.write(SSE_HEAD + event(EVENTS[1]))
        while True:
            writer.write(chunk(b": ping\n\n"))
            await asyncio.sleep(0.02)

    async with upstream(ping, deadlines=Deadlines(between_tokens_ms=SHORT)) as (_, backend):
        took_ms, phase = await timed(collect(backend.stream(ASK, 60_000)))
        assert phase == "between_tokens" and in_time(took_ms)


@pytest.mark.parametrize(
    ("pieces", "deadlines", "budget_ms", "phase"),
    [
        ((), Deadlines(total_ms=SHORT), 60_000, "total"),
        ((), Deadlines(), SHORT, "total"),
        ((whole()[:-5],), Deadlines(between_tokens_ms=SHORT), 60_000, "between_tokens"),
    ],
    ids=["total", "the caller's budget", "half a body"],
)
async def test_a_stalled_answer_ends_at_its_deadline(pieces, deadlines, budget_ms, phase):
    async with upstream(hangs(*pieces), deadlines=deadlines) as (server, backend):
        took_ms, said = await timed(backend.complete(ASK, budget_ms))
        assert said == phase and in_time(took_ms)
        await asyncio.wait_for(server.gone.wait(), 1)


async def test_retries_share_the_callers_time():
    async with upstream(answers(0.6, whole(b"{}", "500 Oops")), max_retries=10) as (_, backend):
        start = time.monotonic()
        with pytest.raises(BackendError):
            await backend.complete(ASK, 700)
        assert time.monotonic() - start <= 1.2


async def test_a_whole_answer_survives_a_server_that_forgets_to_close():
    async with upstream(hangs(SSE_HEAD, *map(event, EVENTS[:4]))) as (_, backend):
        deltas = await collect(backend.stream(ASK, 60_000))
        assert text_of(deltas) == "one two"
        assert deltas[-1].usage.estimated


# The breaker.


async def test_the_breaker_opens_and_one_probe_closes_it():
    broken = True

    async def behave(writer):
        return await answers(whole(b"{}", "500 Oops") if broken else whole())(writer)

    async with upstream(behave, breaker_failures=3, breaker_open_ms=150, max_retries=0) as (server, backend):
        for _ in range(3):
            with pytest.raises(BackendUnavailableError):
                await backend.complete(ASK, 5000)
        assert not backend.health().ok
        with pytest.raises(BreakerOpenError):
            await backend.complete(ASK, 5000)
        assert len(server.requests) == 3
        await asyncio.sleep(0.16)
        broken = False
        assert (await backend.complete(ASK, 5000)).text == "hi"
        assert backend.health().ok
        assert (await backend.complete(ASK, 5000)).text == "hi"


async def test_refusals_mean_budgets_and_leaving_callers_open_no_breaker():
    rejecting = answers(whole(b"{}", "400 Bad Request"))
    async with upstream(rejecting, breaker_failures=1) as (_, backend):
        for _ in range(3):
            with pytest.raises(BackendRejectedError):
                await backend.complete(ASK, 5000)
        assert backend.health().ok
    async with upstream(hangs(), breaker_failures=1) as (_, backend):
        with pytest.raises(BackendTimeoutError):
            await backend.complete(ASK, 30)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backend.complete(ASK, 5000), 0.03)
        assert backend.health().ok


# Cancellation: the upstream sees the end within a second, and nothing half-read is used again.

WINDOWS: dict[str, tuple[Callable[[], Callable[..., Awaitable[object]]], bool]] = {
    "before the head": (hangs, True),
    "before the first token": (lambda: hangs(SSE_HEAD, event(EVENTS[0])), True),
    "mid-stream": (lambda: hangs(SSE_HEAD, event(EVENTS[1])), True),
    "non-streaming": (hangs, False),
    "non-streaming, half a body": (lambda: hangs(whole()[:-3]), False),
}


@pytest.mark.parametrize("window", WINDOWS)
async def test_a_leaving_caller_is_felt_upstream_within_a_second(window):
    reply, streams = WINDOWS[window]
    for _ in range(20):
        async with upstream(reply()) as (server, backend):
            task = asyncio.create_task(
                collect(backend.stream(ASK, 60_000)) if streams else backend.complete(ASK, 60_000)
            )
            await asyncio.wait_for(server.asked.wait(), 5)
            await asyncio.sleep(0.005)
            left = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.gone.wait(), 1)
            assert time.monotonic() - left < 1
            assert backend.pool.open_count == 0


async def test_closing_the_generator_half_way_ends_the_call_upstream():
    async with upstream(hangs(SSE_HEAD, event(EVENTS[1]))) as (server, backend):
        stream = backend.stream(ASK, 60_000)
        assert (await anext(stream)).text == "one "
        await stream.aclose()
        await asyncio.wait_for(server.gone.wait(), 1)
        assert backend.pool.open_count == 0
        assert backend.health().ok


async def test_a_slot_is_waited_for_and_given_up_cleanly():
    async with upstream(answers(0.1, whole()), max_connections=1) as (server, backend):
        first, second = (
            asyncio.create_task(backend.complete(ASK, 5000)),
            asyncio.create_task(backend.complete(ASK, 5000)),
        )
        third = asyncio.create_task(backend.complete(ASK, 5000))
        await asyncio.sleep(0.02)
        second.cancel()
        assert (await first).text == (await third).text == "hi"
        assert server.connections == 1 and backend.pool.open_count == 1
    busy = Deadlines(connect_ms=50)
    async with upstream(hangs(), max_connections=1, deadlines=busy, breaker_failures=1) as (_, backend):
        holder = asyncio.create_task(backend.complete(ASK, 60_000))
        await asyncio.sleep(0.02)
        with pytest.raises(BackendOverloadedError, match="max_connections"):
            await backend.complete(ASK, 5000)
        assert backend.health().ok
        holder.cancel()


async def test_many_calls_at_once_share_few_connections():
    async with upstream(answers(0.001, whole()), max_connections=8) as (server, backend):
        done = await asyncio.gather(*(backend.complete(ASK, 20_000) for _ in range(200)))
        assert {c.text for c in done} == {"hi"}
        assert server.connections <= 8


async def test_a_server_that_closes_idle_connections_costs_no_call():
    async with upstream(answers(whole(), then="close"), max_retries=0) as (server, backend):
        for _ in range(5):
            assert (await backend.complete(ASK, 5000)).text == "hi"
            await asyncio.sleep(0.01)
        assert server.connections == 5


async def test_a_server_that_closes_what_was_idle_as_a_request_sets_out_costs_no_call_and_no_retry():
    async def behave(writer):
        if len(server.requests) % 2 == 0:
            return "close"  # without a byte of an answer
        writer.write(whole())
        await writer.drain()
        return "keep"

    async with upstream(behave, max_retries=0, breaker_failures=1) as (server, backend):
        assert (await backend.complete(ASK, 5000)).text == "hi"
        assert (await backend.complete(ASK, 5000)).text == "hi"
        assert server.connections == 2 and len(server.requests) == 3


async def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure():
    async with upstream(answers(then="close"), max_retries=0) as (server, backend):
        with pytest.raises(BackendUnavailableError):
            await backend.complete(ASK, 5000)
        assert server.connections == 1


async def test_a_slow_reader_bounds_what_is_held():
    produced = 0

    async def flood(writer):
        nonlocal produced
        writer.write(SSE_HEAD)
        piece = event(b'{"choices":[{"delta":{"content":"' + b"x" * 10_000 + b'"}}]}')
        while produced < 30_000_000:
            writer.write(piece)
            produced += len(piece)
            await writer.drain()

    async with upstream(flood) as (_, backend):
        stream = backend.stream(ASK, 60_000)
        await anext(stream)
        await asyncio.sleep(0.3)
        assert produced < 15_000_000  # both sockets' kernel buffers, and half a megabyte of ours
        await stream.aclose()


async def test_probe_says_what_is_there():
    async with upstream(answers(whole(b'{"data":[{"id":"m"}]}'))) as (server, backend):
        assert (await backend.probe()).ok
        assert server.heads[0].startswith("GET /v1/models HTTP/1.1\r\n")
        assert await backend.served_models() == {"m"}
    async with upstream(answers(whole(b"{}", "503 Starting"))) as (_, backend):
        assert not (await backend.probe()).ok
        assert backend.health().ok
