"""Which ASGI server? How each behaves where a gateway is hurt: callers that leave, stall, flood or never read.

Each probe is one question to a server of its own, with the bare application of stub/asgi_apps.py. Times are seconds.

    python benchmarks/asgi_behaviours.py
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.asgi_servers import Pair, command, install_others, start
from benchmarks.loopback import Children, children

SERVERS = ("granian st", "granian embedded", "uvicorn httptools", "uvicorn embedded")
PATIENCE_S = 12.0


def connect(port: int, path: str, body: bytes = b"{}", *, length: int | None = None) -> socket.socket:
    """Open a connection and send a POST; `length` may promise more than `body` holds."""
    link = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: loopback\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
    )
    link.sendall(head.encode() + body)
    return link


def seen(port: int) -> dict[str, float]:
    """What the application noted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/seen", data=b"{}", timeout=10) as answer:
        noted: dict[str, float] = json.loads(answer.read())
    return noted


def told_after(path: str, key: str) -> Callable[[int], str]:
    """Leave after 0.3 s; how long until the application was told?"""

    def probe(port: int) -> str:
        link = connect(port, path)
        time.sleep(0.3)
        link.close()
        time.sleep(5.5)
        noted = seen(port)
        told = {name: f"{when - 0.3:.2f} s" for name, when in noted.items() if name in (key, f"{key}_send")}
        return (
            ", ".join(f"{'send' if name.endswith('_send') else 'receive'} {when}" for name, when in told.items())
            or "never"
        )

    return probe


def slow_headers(port: int) -> str:
    """Send half a header and wait: does the server close?"""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=35) as link:
        link.sendall(b"POST /hold HTTP/1.1\r\nhost: loop")
        try:
            answer = link.recv(200)
        except TimeoutError:
            return "open after 35 s"
    return f"closed after {time.monotonic() - begun:.1f} s ({answer[:16]!r})"


def slow_body(port: int) -> str:
    """Promise 100 bytes, send 2: does the application's own deadline (1 s) get its 408 out?"""
    begun = time.monotonic()
    with connect(port, "/slowbody", length=100) as link:
        try:
            answer = link.recv(200)
        except TimeoutError:
            return "nothing"
    return f"{answer.split(b' ', 2)[1:2]} after {time.monotonic() - begun:.1f} s"


def early_413(port: int) -> str:
    """Promise 256 MiB; the application refuses after 64 KiB. How much does the server take in?"""
    sent = 0
    status = b"-"
    with connect(port, "/early413", b"", length=2**28) as link:
        link.settimeout(3)
        chunk = b"x" * 65536
        try:
            while sent < 2**28:
                sent += link.send(chunk)
                link.setblocking(False)
                try:
                    status = link.recv(200).split(b" ", 2)[1]
                    break
                except BlockingIOError:
                    link.settimeout(3)
        except OSError as error:
            status = type(error).__name__.encode()
    return f"{status.decode()} after {sent / 2**20:.1f} MiB sent, {seen(port)['read_mib']:.2f} read"


def flood(port: int) -> str:
    """Never read a stream that the application sends as fast as it may: does `send` hold it back?"""
    with connect(port, "/flood"):
        time.sleep(4)
        return f"{seen(port)['flood_mib']:.1f} MiB taken from the application"


PROBES: dict[str, Callable[[int], str]] = {
    "caller leaves, answer pending": told_after("/hold", "hold"),
    "caller leaves a stream": told_after("/stream", "stream"),
    "caller leaves a silent stream": told_after("/quiet", "quiet"),
    "half a header": slow_headers,
    "body stalls, own deadline 1 s": slow_body,
    "256 MiB body refused at 64 KiB": early_413,
    "caller never reads": flood,
}


def end_with_call_in_flight(server: str, path: str, group: Children) -> str:
    """SIGTERM 0.5 s into a call: is the call answered whole, and when is the process gone?"""
    port = start(group, Pair(server, "raw_app"))
    child = group.running[-1]
    link = connect(port, path)
    time.sleep(0.5)
    begun = time.monotonic()
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(PATIENCE_S)
        gone = f"exit {child.returncode} after {time.monotonic() - begun:.1f} s"
    except subprocess.TimeoutExpired:
        gone = f"alive after {PATIENCE_S:.0f} s"
    return f"{'answered whole' if ended_whole(link) else 'cut'}; {gone}"


def ended_whole(link: socket.socket) -> bool:
    """Whether the rest of the answer is there and has its end."""
    got = b""
    link.settimeout(1)
    try:
        while chunk := link.recv(65536):
            got += chunk
    except OSError:
        pass
    return got.rstrip().endswith((b"}", b"0")) if got else False


def main() -> None:
    """Ask every server every question."""
    install_others()
    for server in SERVERS:
        print(f"\n{server}: {' '.join(command(server, 'raw_app', 0)[1:])}", flush=True)
        with children() as group:
            port = start(group, Pair(server, "raw_app"))
            for name, probe in PROBES.items():
                print(f"  {name:<34}{probe(port)}", flush=True)
            for name, path in (("SIGTERM, 3 s answer pending", "/hold"), ("SIGTERM, 5 s stream running", "/stream")):
                print(f"  {name:<34}{end_with_call_in_flight(server, path, group)}", flush=True)


if __name__ == "__main__":
    main()
