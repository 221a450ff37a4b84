"""Which HTTP client should carry the calls to backends? The candidates side by side, in one run.

Each posts the same 1 kB chat call over kept-alive connections to one nginx that answers with a fixed 1 kB body, so what
is measured is the client. CPU per call counts most: in the gateway the client shares its core with everything else.

    python benchmarks/http_clients.py --calls 3000 --rounds 3

Needs nginx on the PATH, and what of httpx, pyreqwest and httptools should be compared (the absent ones are left out).
"""

# ruff: noqa: PLC0415 - a client that is not installed is left out
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Post = Callable[[bytes], Awaitable[bytes]]
DEADLINE_S = 30.0

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 780}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
)
_CALL = json.dumps({"model": "m", "messages": [{"role": "user", "content": "y" * 900}]}).encode()

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; default_type application/json;
           location / {{ return 200 '{answer}'; }} }}
}}
"""


@contextlib.contextmanager
def stub_server(port: int) -> contextlib.AbstractContextManager[str]:  # type: ignore[misc]
    """Run nginx on the port; yields its URL."""
    nginx = shutil.which("nginx")
    if nginx is None:
        raise SystemExit("nginx is not on the PATH; install it (apt-get install nginx) and run again.")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=port, answer=_ANSWER))
        process = subprocess.Popen([nginx, "-c", str(config), "-p", folder], stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/v1/chat/completions"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit("nginx did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def aiohttp_plain(url: str) -> AsyncIterator[Post]:
    """As its quick start has it, deadlines by ClientTimeout."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=DEADLINE_S, sock_connect=2, sock_read=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def post(body: bytes) -> bytes:
            async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
                return await answer.read()

        yield post


@asynccontextmanager
async def aiohttp_lean(url: str) -> AsyncIterator[Post]:
    """No cookies, no redirects, no automatic headers; one asyncio.timeout instead of ClientTimeout."""
    import aiohttp
    import yarl

    where = yarl.URL(url)
    headers = {"content-type": "application/json", "host": where.authority}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=64, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
        skip_auto_headers=("user-agent", "accept", "accept-encoding"),
        auto_decompress=False,
    ) as session:

        async def post(body: bytes) -> bytes:
            async with asyncio.timeout(DEADLINE_S):
                answer = await session.post(where, data=body, headers=headers, allow_redirects=False)
                try:
                    return await answer.read()
                finally:
                    answer.release()

        yield post


@asynccontextmanager
async def httpx_client(url: str) -> AsyncIterator[Post]:
    """httpx with its own pool and timeouts."""
    import httpx

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=DEADLINE_S, trust_env=False) as client:

        async def post(body: bytes) -> bytes:
            return (await client.post(url, content=body, headers={"content-type": "application/json"})).content

        yield post


@asynccontextmanager
async def pyreqwest_client(url: str) -> AsyncIterator[Post]:
    """pyreqwest: reqwest and tokio on a thread of their own."""
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().max_connections(64).timeout(timedelta(seconds=DEADLINE_S)).no_proxy().http1_only()
    async with builder.build() as client:

        async def post(body: bytes) -> bytes:
            request = client.post(url).header("content-type", "application/json").body_bytes(body).build()
            answer = await request.send()
            return bytes(await answer.bytes())

        yield post


@asynccontextmanager
async def streams_by_hand(url: str) -> AsyncIterator[Post]:
    """The floor for asyncio streams: Content-Length only, no error handling. A reference, not a candidate."""
    import yarl

    where = yarl.URL(url)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    head = f"POST {where.path} HTTP/1.1\r\nhost: {where.authority}\r\ncontent-type: application/json\r\n".encode()

    async def post(body: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = idle.pop() if idle else await asyncio.open_connection(where.host, where.port)
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
            data = await reader.readexactly(length)
            idle.append((reader, writer))
            return data

    yield post
    for _, writer in idle:
        writer.close()


class _Wire(asyncio.Protocol):
    """One connection whose answers httptools takes apart."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.waiter: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, data: bytes) -> asyncio.Future[bytes]:
        import httptools

        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.waiter

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(b"".join(self.pieces))


@asynccontextmanager
async def httptools_protocol(url: str) -> AsyncIterator[Post]:
    """asyncio.Protocol with llhttp by httptools: the floor for a client of our own."""
    import yarl

    where = yarl.URL(url)
    idle: list[_Wire] = []
    head = f"POST {where.path} HTTP/1.1\r\nhost: {where.authority}\r\ncontent-type: application/json\r\n".encode()

    async def post(body: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            if idle:
                wire = idle.pop()
            else:
                _, wire = await asyncio.get_running_loop().create_connection(_Wire, where.host, where.port)
            data = await wire.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            idle.append(wire)
            return data

    yield post
    for wire in idle:
        wire.transport.close()


@asynccontextmanager
async def our_client(url: str) -> AsyncIterator[Post]:
    """The client in use: specialists/http_pool.py over specialists/http_connection.py, whole bodies as bytes."""
    from specialists.http_pool import HttpPool, parse_origin

    pool = HttpPool(parse_origin(url), 64)
    loop = asyncio.get_running_loop()

    async def post(body: bytes) -> bytes:
        due_at = loop.time() + DEADLINE_S
        connection = await pool.acquire(due_at)
        try:
            connection.send(pool.post_head("", len(body)), body)
            await connection.wait_head(due_at)
            pieces = []
            while piece := await connection.read_chunk(due_at):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            pool.release(connection)

    yield post
    pool.close()


@asynccontextmanager
async def our_backend(url: str) -> AsyncIterator[Post]:
    """All that a call to a backend costs: encoding, breaker, retries, deadlines, decoding."""
    from registry.entries import BackendEntry
    from specialists.backends import BackendContext, make_backend
    from specialists.calls import Call, Message

    entry = BackendEntry(name="stub", kind="vllm", url=url.removesuffix("/chat/completions"))
    backend = make_backend(entry, BackendContext(state=Path()))
    call = Call("m", (Message("user", "y" * 900),))

    async def post(body: bytes) -> bytes:
        answer = await backend.complete(call, DEADLINE_S * 1e3)
        return b"x" * (len(_ANSWER) - 780 + len(answer.text or ""))

    yield post
    await backend.close()


CLIENTS: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Post]]] = {
    "aiohttp, quick start": aiohttp_plain,
    "aiohttp, lean": aiohttp_lean,
    "httpx": httpx_client,
    "pyreqwest": pyreqwest_client,
    "ours (HttpPool)": our_client,
    "ours, the whole backend": our_backend,
    "streams by hand (reference)": streams_by_hand,
    "Protocol + httptools (reference)": httptools_protocol,
}


async def measure(post: Post, calls: int, concurrency: int) -> dict[str, float]:
    """Return requests/s, p50 and p99 in ms, and CPU microseconds per call (every thread of this process)."""
    waits: list[float] = []
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            if len(await post(_CALL)) != len(_ANSWER):
                raise SystemExit("a client returned another body than the stub sent")
            waits.append((time.perf_counter() - start) * 1e3)

    for _ in range(concurrency * 5):
        await post(_CALL)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    waits.sort()
    return {
        "rps": len(waits) / wall,
        "p50_ms": waits[len(waits) // 2],
        "p99_ms": waits[int(len(waits) * 0.99)],
        "cpu_us": cpu / len(waits) * 1e6,
    }


async def compare(url: str, calls: int, rounds: int) -> None:
    """Print the table; rounds are interleaved so that a noisy minute touches every client alike."""
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, client in CLIENTS.items():
            try:
                async with client(url) as post:
                    for concurrency in (1, 8):
                        runs.setdefault((name, concurrency), []).append(await measure(post, calls, concurrency))
            except ImportError as error:
                print(f"left out: {name} ({error})")
    print(f"{'client':34} {'at once':>7} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU us':>8} {'x lean CPU':>10}")
    for (name, concurrency), results in sorted(runs.items(), key=lambda item: item[0][1]):
        mean = {key: statistics.median(r[key] for r in results) for key in results[0]}
        base = statistics.median(r["cpu_us"] for r in runs["aiohttp, lean", concurrency])
        print(
            f"{name:34} {concurrency:7d} {mean['rps']:8.0f} {mean['p50_ms']:8.3f} {mean['p99_ms']:8.3f}"
            f" {mean['cpu_us']:8.0f} {mean['cpu_us'] / base:10.2f}"
        )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {options}")
    with stub_server(_free_port()) as url:
        uvloop.run(compare(url, options.calls, options.rounds))


if __name__ == "__main__":
    main()
