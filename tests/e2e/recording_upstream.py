"""A loopback upstream that speaks as much OpenAI as the gateway asks for and keeps every request as it arrived."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 5, "completion_tokens": 2}


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict:
        return json.loads(self.raw)


@dataclass
class RecordingUpstream:
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)

    def calls(self) -> list[Seen]:
        """What asked for an answer, less the first decode of a loaded adapter."""
        return [seen for seen in self.seen if seen.path.endswith("/completions") and seen.body.get("prompt") != "\n"]

    def answer(self, seen: Seen) -> tuple[str, bytes]:
        """Content type and body."""
        if seen.path == "/v1/models":
            return _json({"data": [{"id": name} for name in ("small", *self.adapters)]})
        if seen.path == "/v1/load_lora_adapter":
            self.adapters.append(seen.body["lora_name"])
        if not seen.path.endswith("/completions"):
            return _json({})
        if seen.body.get("stream"):
            return "text/event-stream", b"".join(map(_event, _chunks())) + b"data: [DONE]\n\n"
        text = {"text": "hello there"} if "prompt" in seen.body else {"message": {"content": "hello there"}}
        return _json({"choices": [text | {"index": 0, "finish_reason": "stop"}], "usage": USAGE})


def _chunks() -> list[dict]:
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [
        {"choices": [{"index": 0, "delta": {"content": "hello there"}}]},
        {"choices": [end]},
        {"choices": [], "usage": USAGE},
    ]


def _event(value: dict) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _json(value: dict) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


@contextmanager
def recording_upstream() -> Iterator[RecordingUpstream]:
    upstream = RecordingUpstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, raw)
            upstream.seen.append(seen)
            kind, body = upstream.answer(seen)
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A gateway that ends hangs up; that is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    upstream.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
