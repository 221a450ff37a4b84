"""The engine's HTTP routes: OpenAI's, vLLM's for adapters, health and metrics. Errors have OpenAI's body everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from registry.errors import (
    BackendOverloadedError,
    BackendUnavailableError,
    BadInputError,
    InvalidRequestError,
    JourneymanError,
    NotFoundError,
    UnknownModelError,
)
from specialists.engine import answers
from specialists.engine.assembly import Engine
from specialists.engine.exposition import exposition
from specialists.engine.requests import AdapterRequest, ChatRequest, CompletionRequest, decode
from specialists.engine.sequence import Delta, Sequence

log = structlog.get_logger(__name__)
ENGINE = web.AppKey("engine", Engine)
STATUS: tuple[tuple[type[JourneymanError], int], ...] = (
    (UnknownModelError, 404),
    (NotFoundError, 404),
    (BackendOverloadedError, 503),
    (BadInputError, 400),
    (JourneymanError, 500),
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(engine: Engine, max_body_bytes: int) -> web.Application:
    """The application around a loaded engine; computing starts and ends with it."""
    app = web.Application(middlewares=[errors], client_max_size=max_body_bytes)
    app[ENGINE] = engine
    app.on_startup.append(_start)
    app.on_cleanup.append(_stop)
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/version", version),
            web.get("/metrics", metrics),
            web.get("/v1/models", models),
            web.post("/v1/chat/completions", chat),
            web.post("/v1/completions", completions),
            web.post("/v1/load_lora_adapter", load_adapter),
            web.post("/v1/unload_lora_adapter", unload_adapter),
        ]
    )
    return app


async def _start(app: web.Application) -> None:
    app[ENGINE].start()


async def _stop(app: web.Application) -> None:
    await asyncio.to_thread(app[ENGINE].loop.stop)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever is raised before the first byte into OpenAI's error body."""
    try:
        return await handler(request)
    except JourneymanError as error:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        waits = isinstance(error, BackendOverloadedError)
        headers = (
            {"retry-after": f"{max(1, round(error.retry_after_s))}"}
            if isinstance(error, BackendOverloadedError)
            else None
        )
        code = "engine_overloaded" if waits else error.code
        return web.Response(
            body=error_body(error.message, status, code, error.param), status=status, headers=headers, **_JSON
        )
    except web.HTTPException as error:
        code = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}.get(
            error.status, "invalid_request"
        )
        message = f"{request.method} {request.path}: {error.reason}"
        return web.Response(body=error_body(message, error.status, code, None), status=error.status, **_JSON)
    except Exception as error:  # a defect of ours: still OpenAI's body, and the trace in the log
        log.exception("request failed", path=request.path)
        return web.Response(
            body=error_body(f"internal error: {error!r}", 500, "internal_error", None), status=500, **_JSON
        )


_JSON: dict[str, Any] = {"content_type": "application/json"}


def error_body(message: str, status: int, code: str, param: str | None) -> bytes:
    """OpenAI's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), **_JSON)


async def health(request: web.Request) -> web.Response:
    """200 while the engine computes, 503 once it cannot, as vLLM's."""
    return web.Response(status=200 if request.app[ENGINE].loop.alive else 503)


async def version(_: web.Request) -> web.Response:
    """What this is."""
    return _json({"version": "journeyman-engine"})


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text."""
    engine = request.app[ENGINE]
    text = exposition(engine.loop.counts(), engine.served.adapter_count)
    return web.Response(text=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


async def models(request: web.Request) -> web.Response:
    """The base model and the adapters."""
    return _json({"object": "list", "data": request.app[ENGINE].served.listing()})


async def load_adapter(request: web.Request) -> web.Response:
    """Loads a PEFT folder under a new name."""
    asked = await _adapter_request(request)
    adapter = await asyncio.to_thread(request.app[ENGINE].served.load, asked.lora_name, asked.lora_path)
    return web.Response(text=f"Success: LoRA adapter '{adapter.name}' added successfully.")


async def unload_adapter(request: web.Request) -> web.Response:
    """Stops serving an adapter; requests that run with it finish."""
    asked = await _adapter_request(request)
    engine = request.app[ENGINE]
    adapter = engine.served.unload(asked.lora_name)
    await asyncio.to_thread(engine.loop.forget, adapter.identity)
    return web.Response(text=f"Success: LoRA adapter '{adapter.name}' removed successfully.")


async def _adapter_request(request: web.Request) -> AdapterRequest:
    try:
        return msgspec.json.decode(await request.read(), type=AdapterRequest)
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"request body: {error}") from error


async def chat(request: web.Request) -> web.StreamResponse:
    """OpenAI's chat completions."""
    return await _answer(request, decode(await request.read(), ChatRequest))


async def completions(request: web.Request) -> web.StreamResponse:
    """OpenAI's (older) completions: the prompt goes to the model as it is."""
    return await _answer(request, decode(await request.read(), CompletionRequest))


async def _answer(request: web.Request, asked: ChatRequest | CompletionRequest) -> web.StreamResponse:
    engine = request.app[ENGINE]
    heading, sequence = engine.begin(asked)
    if asked.stream:
        return await _stream(request, asked, heading, sequence)
    deltas = [delta async for delta in engine.follow(sequence)]
    if deltas[-1].error:
        raise BackendUnavailableError(deltas[-1].error)
    return _json(answers.whole(heading, deltas, engine.prompter.shown, asked.alternatives is not None))


async def _stream(
    request: web.Request, asked: ChatRequest | CompletionRequest, heading: answers.Heading, sequence: Sequence
) -> web.StreamResponse:
    engine, response = (
        request.app[ENGINE],
        web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"}),
    )
    wants_logprobs, offset = asked.alternatives is not None, 0
    follow = engine.follow(sequence)
    try:
        async for delta in follow:
            if not response.prepared:  # only now: an overloaded engine still answers 503
                await response.prepare(request)
                await _send(response, answers.role_chunk(heading) if heading.chat else None)
            await _send(response, _event(heading, delta, engine, wants_logprobs, offset))
            offset += len(delta.text)
        if asked.wants_usage and not delta.error:
            await _send(response, answers.usage_chunk(heading, delta))
        await response.write(b"data: [DONE]\n\n")
    finally:
        await follow.aclose()  # type: ignore[attr-defined]
    return response


def _event(
    heading: answers.Heading, delta: Delta, engine: Engine, wants_logprobs: bool, offset: int
) -> dict[str, Any] | None:
    if delta.error:
        return {"error": {"message": delta.error, "type": "server_error", "param": None, "code": "engine_failed"}}
    if not (delta.text or delta.logprobs or delta.finish_reason):
        return None
    return answers.chunk(heading, delta, engine.prompter.shown, wants_logprobs, offset)


async def _send(response: web.StreamResponse, event: dict[str, Any] | None) -> None:
    if event is not None:
        await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
