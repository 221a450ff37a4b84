"""Evaluates a trained adapter on held-out examples through the embedded engine, as it will be served.

The engine runs in this process: the same prompts, decoding, reading and checking of answers as live. Beside it stand
the base model on the same prompts, and what the recorded calls say of the current route and of the frontier.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.asking import Ask, Asking, ask_each, canary_holds, most_tokens, refused
from pipelines.evaluation import (
    Answered,
    Judged,
    Scores,
    Threshold,
    judge,
    recorded_scores,
    scores,
    table,
    threshold_of,
)
from pipelines.render import Example, Shape
from policies.verify import Verifier
from registry.entries import CanaryEntry, Prices, TemplateEntry
from registry.errors import BadInputError, InvalidRequestError
from specialists.calls import Completion, Usage
from specialists.engine.assembly import Engine, load_engine
from specialists.engine.requests import CompletionRequest
from specialists.engine.settings import EngineSettings

EVALUATION: Final = "evaluation.json"
TABLE: Final = "evaluation.md"
_ADAPTER: Final = "candidate"
_TIMED: Final = 30
"""Examples that are asked one after the other, for their latency."""
_TIMED_ON_BASE: Final = 5


class Question(Struct, frozen=True, kw_only=True):
    """What is to be evaluated."""

    base_model: str
    adapter: Path
    examples: Sequence[Example]
    shapes: dict[str, Shape]
    template: TemplateEntry
    prices: Prices | None = None
    """Of the specialist's tokens; None leaves its cost out."""
    alpha: float = 0.05
    """Most that P(accepted and wrong) may be."""
    delta: float = 0.1
    """Chance that the bound does not hold."""
    base_examples: int = 30
    """Examples on which the base model is asked too; 0 leaves it out."""
    max_tokens: int = 512
    """Of an answer; at most what the longest right answer can take, so that an endless one is not waited for."""
    canary: CanaryEntry | None = None
    threads: int | None = None


class Evaluation(Struct, frozen=True, kw_only=True):
    """What was found."""

    specialist: Scores
    base: Scores | None
    current: list[Scores]
    """Those that answered the recorded calls, by name."""
    frontier: Scores
    threshold: Threshold
    canary_holds: bool | None
    """Whether the engine decodes the canary to its text; None without one."""
    device: str
    seconds: float
    judged: list[Judged]

    @property
    def every(self) -> list[Scores]:
        """All candidates, the specialist first."""
        return [self.specialist, *([self.base] if self.base else []), *self.current, self.frontier]


def evaluate(question: Question, on_progress: Callable[[int, int], None], report: Callable[[str], None]) -> Evaluation:
    """Ask every example and judge the answers.

    Raises BadInputError without examples, InvalidRequestError for an adapter that the engine cannot serve.
    """
    if not question.examples:
        raise BadInputError("There are no held-out examples to evaluate on. Build the dataset with a larger test part.")
    begin = time.perf_counter()
    spec = EngineSpec(question.base_model, _ADAPTER, question.adapter, question.threads)
    with engine_of(spec, report) as engine:
        specialist, base, held = asyncio.run(_ask_all(engine, question, on_progress))
    judged = _judge(question, specialist)
    few = list(question.examples[: len(base)])
    base_question = msgspec.structs.replace(question, examples=few)
    servers = sorted({one.served_by for one in question.examples if one.served_by})
    return Evaluation(
        specialist=scores("specialist", judged, specialist, question.prices),
        base=scores("base, same prompt", _judge(base_question, base), base, question.prices) if base else None,
        current=[_of_server(name, question.examples) for name in servers],
        frontier=recorded_scores("frontier", question.examples, lambda one: one.frontier_cost_usd),
        threshold=threshold_of(judged, question.alpha, question.delta),
        canary_holds=held,
        device="cpu",  # the embedded engine knows no other
        seconds=time.perf_counter() - begin,
        judged=judged,
    )


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write evaluation.json and evaluation.md into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data, shown = folder / EVALUATION, folder / TABLE
    data.write_bytes(msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n")
    shown.write_text(f"{table(evaluation.every)}\n\n{_in_words(evaluation)}\n")
    return data, shown


class EngineSpec(Struct, frozen=True):
    """An engine with one adapter."""

    model: str
    """Which weights: a bundled name, a folder or a Hugging Face id."""
    name: str
    """Under which the adapter is asked."""
    adapter: Path
    threads: int | None = None


@contextlib.contextmanager
def engine_of(spec: EngineSpec, report: Callable[[str], None]) -> Iterator[Engine]:
    """Load an engine in this process, and stop it in the end. `start` it on the event loop that asks.

    Raises InvalidRequestError for an adapter that it cannot serve.
    """
    adapters = ((spec.name, spec.adapter.absolute()),)
    engine = load_engine(EngineSettings(model=spec.model, adapters=adapters, threads=spec.threads), report)
    try:
        yield engine
    finally:
        if engine.loop.alive:
            engine.loop.stop()


def engine_ask(engine: Engine, asking: Asking) -> Ask:
    """Return how to ask a model or adapter of a started engine. A prompt that is too long is a refusal."""

    async def ask(prompt: str) -> Answered:
        request = CompletionRequest(
            model=asking.model,
            prompt=prompt,
            max_tokens=asking.max_tokens,
            temperature=0.0,
            logprobs=0,
            stop=list(asking.template.stop) or None,
        )
        begin = time.perf_counter()
        try:
            heading, sequence = engine.begin(request)
        except InvalidRequestError as error:
            return refused(error.message)
        deltas = [delta async for delta in engine.follow(sequence)]
        latency_ms = (time.perf_counter() - begin) * 1000
        logprobs = [token.logprob for delta in deltas for token in delta.logprobs]
        completion = Completion(
            "".join(delta.text for delta in deltas),
            finish_reason=deltas[-1].finish_reason or "stop",
            usage=Usage(heading.prompt_tokens, deltas[-1].completion_tokens),
        )
        return Answered(completion, latency_ms, sum(logprobs) if logprobs else None)

    return ask


async def _ask_all(
    engine: Engine, question: Question, on_progress: Callable[[int, int], None]
) -> tuple[list[Answered], list[Answered], bool | None]:
    engine.start()
    asking = Asking(_ADAPTER, question.template, most_tokens(question.examples, question.max_tokens))
    held = None
    if question.canary is not None:
        held = await canary_holds(lambda one: engine_ask(engine, one), asking, question.canary)
    prompts = [one.prompt for one in question.examples]
    base_prompts = prompts[: question.base_examples]
    total, done = len(prompts) + len(base_prompts), 0

    def count(_number: int, _answered: Answered) -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    async def ask_model(model: str, which: Sequence[str], timed: int) -> list[Answered]:
        ask = engine_ask(engine, msgspec.structs.replace(asking, model=model))
        return await ask_each(ask, question.template, which, timed, count)

    specialist = await ask_model(_ADAPTER, prompts, _TIMED)
    base = await ask_model(engine.served.base, base_prompts, _TIMED_ON_BASE)
    return specialist, base, held


def _judge(question: Question, answers: Sequence[Answered]) -> list[Judged]:
    verifier = Verifier()
    return [
        judge(example, answered, question.template, question.shapes[example.shape], verifier)
        for example, answered in zip(question.examples, answers, strict=True)
    ]


def _of_server(name: str, examples: Sequence[Example]) -> Scores:
    own = [one for one in examples if one.served_by == name]
    return recorded_scores(f"recorded: {name}", own, lambda one: one.cost_usd)


def _in_words(evaluation: Evaluation) -> str:
    found = evaluation.threshold
    auroc = "-" if found.auroc is None else f"{found.auroc:.2f}"
    if found.threshold is None:
        return (
            f"No threshold is justified: P(accepted and wrong) <= {found.alpha:.0%} cannot be shown at confidence "
            f"{1 - found.delta:.0%} with {found.sample} examples. AUROC of the confidence: {auroc}."
        )
    return (
        f"Threshold {found.threshold:.3f}: believes {found.coverage:.1%}; {found.risk:.1%} are believed and wrong "
        f"(at most {found.risk_upper:.1%}, confidence {1 - found.delta:.0%}). AUROC of the confidence: {auroc}."
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the manifest keeps of an evaluation: figures without the single answers."""
    facts: dict[str, Any] = msgspec.to_builtins(evaluation)
    facts.pop("judged")
    return facts
