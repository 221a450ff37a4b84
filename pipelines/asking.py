"""Asks one model many prompts with its template, greedily: some one by one for their latency, the rest together.

Shared by the evaluation of an adapter and the replay in shadow, so that both see what the gateway would. Knows no
engine: an `Ask` is made of the embedded engine by `pipelines.evaluate`, of a backend here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct, structs

from pipelines.evaluation import Answered
from pipelines.render import Example
from registry.entries import CanaryEntry, TemplateEntry
from registry.errors import BackendRejectedError, BackendTimeoutError, EnvironmentFaultError
from specialists.backend import Backend
from specialists.calls import Call, Completion, Sampling
from specialists.templates import read_answer

TIMED_OUT: Final = "timed_out"
"""Finish reason of an answer that did not come in time."""
FAILED: Final = "error"
"""Finish reason of what is no answer: the prompt cannot be asked, or the engine failed on it."""
AT_ONCE: Final = 16
BUDGET_MS: Final = 60_000.0
_SLACK_TOKENS: Final = 16
_UNFIT: Final = (400, 413, 422)

Ask = Callable[[str], Awaitable[Answered]]
"""A rendered prompt to what was said, not yet read."""
Told = Callable[[int, Answered], None]
"""Hears of each answer as it comes: the prompt's number, and the answer."""


class Asking(Struct, frozen=True):
    """What every prompt of one model is asked with."""

    model: str
    """The name under which the engine or the backend serves it."""
    template: TemplateEntry
    max_tokens: int


async def ask_each(ask: Ask, template: TemplateEntry, prompts: Sequence[str], timed: int, told: Told) -> list[Answered]:
    """Ask every prompt: the first `timed` one by one, the rest together and without a latency. Raises what `ask` does.

    The answers are read as the template says, and come in the prompts' order.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, *, alone: bool) -> Answered:
        async with gate:
            asked_at_ms = time.time_ns() // 1_000_000
            said = await ask(prompts[number])
        read = read_answer(template, said.completion)
        latency_ms = said.latency_ms if alone else None
        answered = structs.replace(said, completion=read, latency_ms=latency_ms, asked_at_ms=asked_at_ms)
        told(number, answered)
        return answered

    first = [await one(number, alone=True) for number in range(min(timed, len(prompts)))]
    rest = (one(number, alone=False) for number in range(len(first), len(prompts)))
    return first + list(await asyncio.gather(*rest))


async def canary_holds(ask_with: Callable[[Asking], Ask], asking: Asking, canary: CanaryEntry) -> bool:
    """Say whether the canary is decoded to its text. It warms the model up as well."""
    ask = ask_with(structs.replace(asking, max_tokens=canary.max_tokens))
    said = await ask(canary.prompt)
    return (said.completion.text or "").strip() == canary.text.strip()


def most_tokens(examples: Iterable[Example], at_most: int) -> int:
    """Return how long an answer may get: what the longest right one can take, so that an endless one is not awaited.

    A token is at least a byte.
    """
    longest = max((len(one.completion.encode()) for one in examples), default=0)
    return min(at_most, longest + _SLACK_TOKENS)


def refused(message: str) -> Answered:
    """Return the answer to a prompt that cannot be asked at all, such as one that is too long."""
    return Answered(Completion(None, finish_reason=FAILED, refusal=message))


def backend_ask(backend: Backend, asking: Asking) -> Ask:
    """Return how to ask a backend over HTTP. Raises BackendError, but for a prompt that it refuses or is late with."""
    sampling = Sampling(max_tokens=asking.max_tokens, temperature=0.0, stop=asking.template.stop)

    async def ask(prompt: str) -> Answered:
        call = Call(model=asking.model, prompt=prompt, sampling=sampling, logprobs=True)
        begin = time.perf_counter()
        try:
            completion = await backend.complete(call, BUDGET_MS)
        except BackendTimeoutError as error:
            return Answered(Completion(None, finish_reason=TIMED_OUT, refusal=error.message), _ms_since(begin))
        except BackendRejectedError as error:
            if error.status not in _UNFIT:
                raise
            return refused(error.message)
        confidence = sum(token.logprob for token in completion.logprobs) if completion.logprobs else None
        return Answered(completion, _ms_since(begin), confidence)

    return ask


def engine_module() -> Any:
    """Return `pipelines.evaluate`, which asks the embedded engine in this process.

    Raises EnvironmentFaultError without the engine's packages.
    """
    try:
        from pipelines import evaluate as module  # noqa: PLC0415 - the engine's packages are optional
    except ImportError as error:
        raise EnvironmentFaultError(
            f"Asking a model here needs the engine's packages ({error}): pip install 'journeyman[engine]'."
        ) from error
    return module


def _ms_since(begin_s: float) -> float:
    return (time.perf_counter() - begin_s) * 1000
