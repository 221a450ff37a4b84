"""HTTP spoken by hand, for requests that no client would send."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

HELLO = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode()
CHAT = "/v1/chat/completions"


def connect(url: str, timeout_s: float = 10.0) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout_s)


def request(
    body: bytes = HELLO, *headers: str, path: str = CHAT, host: str | None = "here", method: str = "POST"
) -> bytes:
    """A whole request that asks for the connection to be closed."""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *headers]
    lines += ["Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def exchange(url: str, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes, return everything that comes until the other side closes (or until the time is up)."""
    with connect(url, timeout_s) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(data)
        return read_all(peer)


def read_all(peer: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := peer.recv(65536):
            pieces.append(piece)
    except OSError:
        pass
    return b"".join(pieces)


def status_of(answer: bytes) -> int:
    """The status code; 0 when there was no answer."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def json_of(answer: bytes) -> dict:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def is_closed(peer: socket.socket, timeout_s: float) -> bool:
    """Whether the other side closes in time."""
    peer.settimeout(timeout_s)
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def sockets_of(pid: int) -> int:
    """Open sockets of a process."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += entry.readlink().as_posix().startswith("socket:")
        except OSError:
            continue
    return count
