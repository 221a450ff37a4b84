"""Serves a `Teacher` over the OpenAI API, with the latency it is told to have.

It knows HTTP and time; what to answer is the teacher's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from aiohttp import web

from pipelines.teacher import Reply, Teacher
from pipelines.teacher_wire import Completion, as_chunks, as_response, complete
from registry.errors import EnvironmentFaultError

_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_TICK_S: Final = 0.002


class TeacherServer:
    """The routes: `/v1/chat/completions`, `/v1/models`, `/health`."""

    def __init__(self, teacher: Teacher, *, api_key: str | None = None) -> None:
        self.teacher = teacher
        self.counts: Counter[str] = Counter()
        self._api_key = api_key

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        fault = self._refusal(request)
        if fault is not None:
            return fault
        body = await _json_body(request)
        if isinstance(body, web.Response):
            return body
        if body.get("model") != self.teacher.config.model:
            return _error(
                404, f"no model {body.get('model')!r}; this is {self.teacher.config.model}", "model_not_found"
            )
        if body.get("n") not in (None, 1):
            return _error(400, "n must be 1", "invalid_request")
        reply = self.teacher.reply(body)
        self.counts["calls"] += 1
        self.counts[reply.source] += 1
        done = complete(
            body,
            reply.answer,
            ident=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            sure=reply.source != "wrong",
        )
        return await self._answer(request, body, reply, done)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], reply: Reply, done: Completion
    ) -> web.StreamResponse:
        """Send the answer at its pace. When the caller leaves, the handler is cancelled or its write fails."""
        headers = {"x-teacher": reply.source}
        if reply.row_id:
            headers["x-teacher-row"] = reply.row_id.encode("ascii", "replace").decode()
        try:
            await asyncio.sleep(self.teacher.draw_latency_ms() / 1000)
            if body.get("stream"):
                usage = bool((body.get("stream_options") or {}).get("include_usage"))
                return await self._stream(request, done, headers, include_usage=usage)
            await _sleep_until(time.perf_counter() + self._generation_s(done.completion_tokens))
        except (asyncio.CancelledError, ConnectionResetError):
            self.counts["left"] += 1
            raise
        return web.Response(
            body=msgspec.json.encode(as_response(done)), content_type="application/json", headers=headers
        )

    async def _stream(
        self, request: web.Request, done: Completion, headers: dict[str, str], *, include_usage: bool
    ) -> web.StreamResponse:
        stream = web.StreamResponse(
            headers={"content-type": "text/event-stream", "cache-control": "no-cache", **headers}
        )
        await stream.prepare(request)
        start, waiting = time.perf_counter(), b""
        for sent, chunk in enumerate(as_chunks(done, include_usage=include_usage)):
            due = start + self._generation_s(sent)
            if due > time.perf_counter() + _TICK_S:
                await stream.write(waiting)
                waiting = b""
                await _sleep_until(due)
            waiting += b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        await stream.write(waiting + b"data: [DONE]\n\n")
        return stream

    def _generation_s(self, tokens: int) -> float:
        return tokens / self.teacher.config.tokens_per_s if self.teacher.config.tokens_per_s else 0.0

    async def _models(self, request: web.Request) -> web.Response:
        fault = self._refusal(request)
        if fault is not None:
            return fault
        config = self.teacher.config
        pricing = {
            "input_usd_per_mtok": config.price_input_usd_per_mtok,
            "output_usd_per_mtok": config.price_output_usd_per_mtok,
        }
        model = {"id": config.model, "object": "model", "created": 0, "owned_by": "teacher", "pricing": pricing}
        return web.json_response({"object": "list", "data": [model | {"error_rate": config.error_rate}]})

    async def _health(self, request: web.Request) -> web.Response:
        facts = {"status": "ok", "rows": self.teacher.row_count, "conflicts": self.teacher.conflicts}
        return web.json_response({**facts, **self.counts})

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key is None or hmac.compare_digest(given.encode(), self._api_key.encode()):
            return None
        return _error(401, "wrong api key", "invalid_api_key")


@contextlib.asynccontextmanager
async def serve_teacher(
    teacher: Teacher, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None
) -> AsyncIterator[str]:
    """Serve while the block runs; yields the base URL, ending in `/v1`. Port 0 takes a free one.

    Raises:
        EnvironmentFaultError: the port cannot be had.
    """
    # Handlers end when their caller leaves, as a model server stops decoding.
    runner = web.AppRunner(
        TeacherServer(teacher, api_key=api_key).app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise EnvironmentFaultError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}/v1"
    finally:
        await runner.cleanup()


async def _json_body(request: web.Request) -> dict[str, Any] | web.Response:
    try:
        body = msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        return _error(400, f"the body is not JSON: {error}", "invalid_request")
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        return _error(400, "`messages` must be a list of messages", "invalid_request")
    return dict(body)


async def _sleep_until(due: float) -> None:
    left = due - time.perf_counter()
    if left > 0:
        await asyncio.sleep(left)


def _error(status: int, message: str, code: str) -> web.Response:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
