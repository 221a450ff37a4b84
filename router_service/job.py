"""One admitted call, converted from the wire into what the layers below understand.

Knows nothing of how it will be answered.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec
from msgspec import Struct

from policies.answers import Expectation
from policies.features import FeatureInput, SamplingKey, features_of, sampling_key_of, signature_of
from policies.plan import Hints, TaskFeatures
from registry.identifiers import new_call_id, plan_id_of
from specialists.calls import Call, Message, Sampling, ToolCall

from .auth import Caller
from .wire.chat import ChatRequest, MessageIn, RoutingIn

Route = Literal["chat", "ask"]


class Job(Struct, frozen=True):
    """Everything about one call that does not change while it is answered."""

    call_id: str
    at_ms: int
    started_s: float
    """Monotonic seconds when it was admitted."""
    route: Route
    caller: Caller
    stream: bool
    include_usage: bool
    wants_logprobs: bool
    requested_model: str
    model: str
    """`auto`, a model or a specialist: the requested name, resolved."""
    hints: Hints
    call: Call
    """What to ask; `model` is set for each attempt."""
    system: str
    varying: tuple[Message, ...]
    """Every message behind the leading system prompt."""
    text: str
    """The last user message."""
    features: TaskFeatures
    expectation: Expectation
    tool_names: tuple[str, ...]
    end_user: str
    metadata: dict[str, str]

    @property
    def plan_id(self) -> str:
        """The id under which `/v1/plans/{id}` shows the decision."""
        return plan_id_of(self.call_id)

    def elapsed_ms(self) -> float:
        """Milliseconds since admission."""
        return (time.monotonic() - self.started_s) * 1000.0


class Admission(Struct, frozen=True):
    """What the edge knows besides the body."""

    caller: Caller
    route: Route
    hints: Hints
    model: str
    """Resolved against the catalog."""
    default_max_tokens: int


def job_of(request: ChatRequest, admission: Admission) -> Job:
    """Convert a decoded request."""
    call = _call(request, admission.caller.tenant.name)
    fixed = _leading_system(call.messages)
    system, varying = "\n".join(_plain_text(m) for m in fixed), call.messages[len(fixed) :]
    text = next((_plain_text(m) for m in reversed(varying) if m.role == "user"), "")
    signature = signature_of(system, call.tools, call.response_format, _sampling_key(call.sampling))
    return Job(
        call_id=new_call_id(),
        at_ms=int(time.time() * 1000),
        started_s=time.monotonic(),
        route=admission.route,
        caller=admission.caller,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        wants_logprobs=call.logprobs,
        requested_model=request.model,
        model=admission.model,
        hints=admission.hints,
        call=call,
        system=system,
        varying=varying,
        text=text,
        features=features_of(
            FeatureInput(
                signature=signature,
                system=system,
                variable="\n".join(piece for m in varying for piece in _pieces(m)),
                last_user=text,
                tools=call.tools,
                response_format=call.response_format,
                max_tokens=call.sampling.max_tokens,
                default_max_tokens=admission.default_max_tokens,
                turns=len(varying),
            )
        ),
        expectation=_expectation(call, signature),
        tool_names=tuple(t["function"]["name"] for t in call.tools),
        end_user=request.user or "",
        metadata=request.metadata or {},
    )


def _call(request: ChatRequest, tenant: str) -> Call:
    return Call(
        model="",
        messages=tuple(_message(m) for m in request.messages),
        sampling=_sampling(request),
        tools=tuple(_tool(t) for t in request.tools or ()),
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format(request),
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs,
        tenant=tenant,
    )


def hints_of(routing: RoutingIn | None, headers: RoutingIn | None) -> Hints:
    """Merge the body's `routing` object with the headers; the body wins."""
    body, edge = routing or RoutingIn(), headers or RoutingIn()
    return Hints(
        task_type=body.task_type if body.task_type is not None else edge.task_type,
        latency_budget_ms=body.latency_budget_ms if body.latency_budget_ms is not None else edge.latency_budget_ms,
        max_cost_usd=body.max_cost_usd if body.max_cost_usd is not None else edge.max_cost_usd,
        safety_level=body.safety_level if body.safety_level is not None else edge.safety_level,
        user_tier=body.user_tier if body.user_tier is not None else edge.user_tier,
    )


def _message(message: MessageIn) -> Message:
    content: Any = message.content
    if isinstance(content, list):
        content = "".join(part.text or part.refusal for part in content)
    calls = tuple(
        ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in message.tool_calls or ()
    )
    role = "system" if message.role == "developer" else message.role
    return Message(role=role, content=content, name=message.name, tool_calls=calls, tool_call_id=message.tool_call_id)


def _tool(tool: Any) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(tool.function)}


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    form = request.response_format
    if form is None or form.type == "text":
        return None
    built: dict[str, Any] = msgspec.to_builtins(form)
    return built


def _sampling(request: ChatRequest) -> Sampling:
    stop = request.stop
    return Sampling(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )


def _sampling_key(sampling: Sampling) -> SamplingKey:
    return sampling_key_of(
        sampling.temperature, sampling.top_p, sampling.presence_penalty, sampling.frequency_penalty, sampling.stop
    )


def _leading_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    count = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    return messages[:count]


def _plain_text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else ""


def _pieces(message: Message) -> list[str]:
    """Everything in a message that costs tokens."""
    return [_plain_text(message), *(f"{call.name} {call.arguments}" for call in message.tool_calls)]


def _expectation(call: Call, signature: str) -> Expectation:
    form = call.response_format
    if not call.tools and form is None:
        return Expectation()
    schema = form["json_schema"].get("schema") if form and form["type"] == "json_schema" else None
    return Expectation(
        json_schema=schema,
        json_object=form is not None,
        tools=call.tools,
        tool_choice=call.tool_choice,
        digest=signature,
    )
