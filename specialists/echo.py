"""Deterministic fakes in the gateway's own process, for first runs and tests. The model's name picks the behaviour.

| model | what it does |
|---|---|
| `echo` | answers the last user message; calls a tool when forced to; fills a JSON schema when one is asked for |
| `echo:tool` | calls the first tool |
| `echo:slow` | waits 2 s before the first token |
| `echo:malformed` | breaks the JSON of its answer or tool call |
| `echo:cut` | a stream that ends half-way |
| `echo:refuse` | refuses |
| `echo:truncate` | stops half-way with finish_reason `length` |
| `echo:down` | cannot be reached |
| `echo:unsure` | answers with low probabilities |
| `echo:hang` | never answers; the deadline ends it |

Any other name behaves as `echo`, so a registry can give it the names that it will use for real.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from registry.entries import BackendEntry
from registry.errors import BackendTimeoutError, BackendUnavailableError, StreamCutError

from .backend import Health
from .calls import Call, Completion, Delta, TokenLogprob, ToolCall, ToolCallDelta
from .echo_schema import least_arguments, least_instance
from .openai_answers import estimate_usage

SLOW_S = 2.0
SURE = -0.01
UNSURE = -2.0
REFUSAL = "I can't help with that."

BEHAVIOURS = frozenset({"tool", "slow", "malformed", "cut", "refuse", "truncate", "down", "unsure", "hang"})

_WORD = re.compile(r"\s*\S+|\s+")


class EchoBackend:
    """A Backend without a server; adapters are names that it remembers."""

    def __init__(self, entry: BackendEntry) -> None:
        self._entry = entry
        self.adapters: dict[str, str] = {}

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from."""
        return self._entry

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Answer at once, or as the model's name has it."""
        behaviour = behaviour_of(call.model)
        await self._wait(behaviour, budget_ms)
        if behaviour == "cut":
            raise self._cut()
        return answer(call, behaviour)

    async def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """The same answer, a word at a time."""
        behaviour = behaviour_of(call.model)
        await self._wait(behaviour, budget_ms)
        deltas = _deltas(answer(call, behaviour))
        if behaviour == "cut":
            deltas = deltas[: max(1, (len(deltas) - 1) // 2)]
        for delta in deltas:
            yield delta
            await asyncio.sleep(0)
        if behaviour == "cut":
            raise self._cut()

    def health(self) -> Health:
        """Always well; `echo:down` is down for its own calls only."""
        return Health(True)

    async def probe(self) -> Health:
        """Always well."""
        return Health(True)

    async def start(self) -> None:
        """Nothing to start."""

    async def served_models(self) -> frozenset[str]:
        """The names of the adapters."""
        return frozenset(self.adapters)

    async def load_adapter(self, name: str, path: str) -> None:
        """Remember the name."""
        self.adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        """Forget the name."""
        self.adapters.pop(name, None)

    async def close(self) -> None:
        """Nothing to release."""

    async def _wait(self, behaviour: str, budget_ms: float) -> None:
        name = self._entry.name
        if behaviour == "down":
            raise BackendUnavailableError(f"backend {name!r}: echo:down cannot be reached", backend=name)
        if behaviour not in ("slow", "hang"):
            return
        deadlines = self._entry.deadlines
        patience_ms = min(budget_ms, deadlines.first_token_ms, deadlines.total_ms)
        phase = "first_token" if patience_ms == deadlines.first_token_ms else "total"
        try:
            async with asyncio.timeout(patience_ms / 1e3):
                await (asyncio.sleep(SLOW_S) if behaviour == "slow" else asyncio.Event().wait())
        except TimeoutError:
            message = f"backend {name!r}: echo:{behaviour} was silent for {patience_ms:.0f} ms"
            raise BackendTimeoutError(message, backend=name, phase=phase) from None

    def _cut(self) -> StreamCutError:
        name = self._entry.name
        return StreamCutError(f"backend {name!r}: echo:cut ended before its end", backend=name)


def behaviour_of(model: str) -> str:
    """Return the part of the name that picks a behaviour, or nothing.

    `echo:slow` for a model; for a specialist, whose name holds no colon, `echo.slow@0123456789ab`.
    """
    name = model.partition("@")[0]
    suffix = model.rpartition(":")[2] if ":" in model else name.removeprefix("echo.") if name != model else ""
    return suffix if suffix in BEHAVIOURS and suffix != name else ""


def answer(call: Call, behaviour: str) -> Completion:
    """Return the whole answer to a call."""
    if behaviour == "refuse":
        return _completion(call, text=None, refusal=REFUSAL)
    tool = _tool_to_call(call, behaviour)
    if tool is not None:
        arguments = msgspec.json.encode(least_arguments(tool.get("parameters"), last_user_text(call))).decode()
        if behaviour == "malformed":
            arguments = arguments[:-1]
        made = ToolCall(id="call_echo_0", name=str(tool.get("name", "")), arguments=arguments)
        return _completion(call, text=None, tool_calls=(made,), finish_reason="tool_calls")
    text = _text(call)
    if behaviour == "malformed":
        text = '{"answer": "' + text
    if behaviour == "truncate":
        return _completion(call, text=text[: len(text) // 2], finish_reason="length")
    return _completion(call, text=text, is_sure=behaviour != "unsure")


def last_user_text(call: Call) -> str:
    """Return the text of the last user message, or of the prompt."""
    if call.prompt is not None:
        return call.prompt.strip()
    for message in reversed(call.messages):
        if message.role == "user":
            if isinstance(message.content, list):
                return "".join(str(part.get("text", "")) for part in message.content)
            return message.content or ""
    return ""


def _text(call: Call) -> str:
    wanted = call.response_format or {}
    if wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema") or {}
        return msgspec.json.encode(least_instance(schema, last_user_text(call))).decode()
    if wanted.get("type") == "json_object":
        return msgspec.json.encode({"echo": last_user_text(call)}).decode()
    text = last_user_text(call)
    most = call.sampling.max_tokens
    return text if most is None else "".join(_WORD.findall(text)[:most])


def _tool_to_call(call: Call, behaviour: str) -> dict[str, Any] | None:
    """Return the function to call: the one that tool_choice names, or the first where one is due."""
    if not call.tools or call.tool_choice == "none":
        return None
    functions: list[dict[str, Any]] = [tool.get("function") or {} for tool in call.tools]
    if isinstance(call.tool_choice, dict):
        name = (call.tool_choice.get("function") or {}).get("name")
        return next((f for f in functions if f.get("name") == name), None)
    return functions[0] if call.tool_choice == "required" or behaviour in ("tool", "malformed") else None


def _completion(
    call: Call,
    *,
    text: str | None,
    tool_calls: tuple[ToolCall, ...] = (),
    finish_reason: str = "stop",
    refusal: str | None = None,
    is_sure: bool = True,
) -> Completion:
    written = (text or "") + "".join(made.arguments for made in tool_calls)
    logprob = SURE if is_sure else UNSURE
    tops = max(0, call.top_logprobs or 0)
    logprobs = tuple(
        TokenLogprob(token, logprob, ((token, logprob), ("~", logprob - 1.0))[:tops])
        for token in _WORD.findall(written)
    )
    guess = estimate_usage(call, len(written))
    return Completion(
        text=text,
        tool_calls=tool_calls,
        finish_reason=finish_reason,
        usage=msgspec.structs.replace(guess, completion_tokens=len(logprobs), estimated=False),
        logprobs=logprobs if call.logprobs else (),
        refusal=refusal,
    )


def _deltas(whole: Completion) -> list[Delta]:
    """Cut an answer into words; the last delta has the finish reason and the usage."""
    deltas = []
    words = _WORD.findall(whole.text or "")
    for at, word in enumerate(words):
        deltas.append(Delta(text=word, logprobs=whole.logprobs[at : at + 1]))
    for index, made in enumerate(whole.tool_calls):
        half = len(made.arguments) // 2
        deltas.append(Delta(tool_calls=(ToolCallDelta(index, made.id, made.name, made.arguments[:half]),)))
        deltas.append(
            Delta(tool_calls=(ToolCallDelta(index, arguments=made.arguments[half:]),), logprobs=whole.logprobs)
        )
    if whole.refusal:
        deltas.append(Delta(refusal=whole.refusal))
    deltas.append(Delta(finish_reason=whole.finish_reason, usage=whole.usage))
    return deltas
