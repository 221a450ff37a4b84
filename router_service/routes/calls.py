"""POST /v1/chat/completions and POST /v1/ask: from bytes to frames and back to bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from registry.errors import InvalidRequestError, JourneymanError

from ..auth import Caller
from ..error_responses import edge_of, error_body, error_headers
from ..exchange import CallerGoneError, EventStream, Receive, Send, read_body, send_bytes, send_json, until_gone
from ..frames import (
    AnswerFrame,
    AttemptFrame,
    Frame,
    PlanFrame,
    TokenFrame,
    attempt_event,
    done_event,
    metrics_event,
    plan_event,
    token_event,
)
from ..job import Admission, Job, Route, hints_of, job_of
from ..log import get
from ..recording import error_code
from ..services import Services
from ..wire.answers import DONE, chunk_bytes, completion_bytes, delta_fields, logprobs_of, sse, usage_chunk_bytes
from ..wire.chat import ChatRequest, RoutingIn, decode_ask, decode_chat

_log = get("calls")
_HINT_HEADERS = {f"x-journeyman-{name.replace('_', '-')}".encode(): name for name in RoutingIn.__struct_fields__}

Scope = dict[str, Any]


class Endpoint(Struct, frozen=True):
    """What differs between the routes that answer calls."""

    route: Route
    decode: Callable[[bytes], ChatRequest]


CHAT = Endpoint("chat", decode_chat)
ASK = Endpoint("ask", decode_ask)


async def serve_call(services: Services, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, whatever happens."""
    stream = EventStream(send)
    call_id = ""
    is_admitted = False
    try:
        caller = services.auth.identify(scope["headers"])
        body = await read_body(scope, receive, services.intake)
        with services.limits.place():
            job = _job(services, endpoint, caller, scope, body)
            call_id = job.call_id
            services.admit(job)
            is_admitted = True
            await until_gone(_answer(services, job, stream, send), receive)
    except CallerGoneError:
        return
    except Exception as error:  # the edge: everything becomes OpenAI's error body
        if not is_admitted:
            services.telemetry.refused(endpoint.route, error_code(error))
        await _fail(error, call_id, endpoint.route, stream, send)


def _job(services: Services, endpoint: Endpoint, caller: Caller, scope: Scope, body: bytes) -> Job:
    request = endpoint.decode(body)
    catalog = services.catalog
    admission = Admission(
        caller=caller,
        route=endpoint.route,
        hints=hints_of(request.routing, _header_hints(scope["headers"])),
        model=catalog.resolve(request.model),
        default_max_tokens=catalog.file.defaults.max_tokens,
    )
    return job_of(request, admission)


def _header_hints(headers: list[tuple[bytes, bytes]]) -> RoutingIn | None:
    given = {_HINT_HEADERS[n]: v.decode("latin-1") for n, v in headers if n in _HINT_HEADERS}
    if not given:
        return None
    try:
        return msgspec.convert(given, RoutingIn, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        name = "x-journeyman-" + path.rstrip("`").replace("_", "-")
        raise InvalidRequestError(f"{text} (header `{name}`).", param=name) from None


async def _answer(services: Services, job: Job, stream: EventStream, send: Send) -> None:
    async with aclosing(services.gateway.answer(job)) as frames:
        if job.route == "ask":
            await _write_ask(job, frames, stream)
        elif job.stream:
            await _write_chunks(job, frames, stream)
        else:
            await _write_completion(job, frames, send)


async def _write_completion(job: Job, frames: AsyncGenerator[Frame, None], send: Send) -> None:
    answer = None
    async for frame in frames:
        if isinstance(frame, AnswerFrame):
            answer = frame
    assert answer is not None
    body = completion_bytes(
        job.call_id, job.at_ms // 1000, answer.served_by, answer.completion, with_logprobs=job.wants_logprobs
    )
    await send_bytes(send, 200, body, _headers(job, answer.served_by) | _answer_headers(answer))


async def _write_chunks(job: Job, frames: AsyncGenerator[Frame, None], stream: EventStream) -> None:
    created = job.at_ms // 1000
    async for frame in frames:
        if isinstance(frame, TokenFrame):
            if not stream.started:
                stream.headers |= _headers(job, frame.served_by)
                opening = {"role": "assistant", "content": ""}
                await stream.write(chunk_bytes(job.call_id, created, frame.served_by, opening))
            logprobs = logprobs_of(frame.delta.logprobs) if job.wants_logprobs else None
            fields = delta_fields(frame.delta)
            if fields or logprobs:
                await stream.write(chunk_bytes(job.call_id, created, frame.served_by, fields, logprobs=logprobs))
        elif isinstance(frame, AnswerFrame):
            await _write_end(job, frame, stream)


async def _write_end(job: Job, answer: AnswerFrame, stream: EventStream) -> None:
    created = job.at_ms // 1000
    stream.headers |= _headers(job, answer.served_by)
    reason = answer.completion.finish_reason
    told = {"finish_reason": reason, "journeyman": _told(answer)}
    await stream.write(chunk_bytes(job.call_id, created, answer.served_by, {}, **told))
    if job.include_usage:
        await stream.write(usage_chunk_bytes(job.call_id, created, answer.served_by, answer.completion.usage))
    await stream.write(DONE)
    await stream.close()


async def _write_ask(job: Job, frames: AsyncGenerator[Frame, None], stream: EventStream) -> None:
    stream.headers |= {"x-journeyman-id": job.call_id, "x-journeyman-plan": job.plan_id}
    async for frame in frames:
        match frame:
            case PlanFrame():
                stream.headers["x-journeyman-model"] = frame.plan.primary_model
                await stream.write(sse(plan_event(frame)))
            case AttemptFrame():
                await stream.write(sse(attempt_event(frame)))
            case TokenFrame():
                await stream.write(sse(token_event(frame)))
            case AnswerFrame():
                await stream.write(sse(metrics_event(frame)))
                await stream.write(sse(done_event(frame) | {"id": job.call_id}))
                await stream.close()


def _headers(job: Job, served_by: str) -> dict[str, str]:
    return {"x-journeyman-id": job.call_id, "x-journeyman-plan": job.plan_id, "x-journeyman-model": served_by}


def _told(answer: AnswerFrame) -> dict[str, Any]:
    """What a stream says at its end, because its headers went out before it was known."""
    return {
        "model": answer.served_by,
        "cost_usd": answer.cost_usd,
        "saved_usd": answer.saved_usd,
        "escalated": answer.escalated,
        "outcome": answer.outcome,
    }


def _answer_headers(answer: AnswerFrame) -> dict[str, str]:
    return {
        "x-journeyman-cost-usd": f"{answer.cost_usd:.10f}",
        "x-journeyman-saved-usd": f"{answer.saved_usd:.10f}",
        "x-journeyman-escalated": "true" if answer.escalated else "false",
        "x-journeyman-outcome": answer.outcome,
    }


async def _fail(error: Exception, call_id: str, route: Route, stream: EventStream, send: Send) -> None:
    edge, body = edge_of(error), error_body(error)
    known = isinstance(error, JourneymanError)
    _log.log(
        _LEVELS[edge.log_level],
        "call failed",
        call_id=call_id,
        code=body["error"]["code"],
        exc_info=None if known else error,
    )
    if stream.started:  # too late for a status: an error event, and never a made-up [DONE]
        event = {"type": "error", **body} if route == "ask" else body
        await stream.write(sse(event))
        await stream.close()
        return
    headers = error_headers(error) | ({"x-journeyman-id": call_id} if call_id else {})
    await send_json(send, edge.status, body, headers)


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
