"""The compute thread: plans a step, computes it, chooses tokens, hands out what each request gains. Knows nothing
of HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import numpy as np
import structlog

from registry.errors import InvalidRequestError
from specialists.engine.batch import Work, lay_out
from specialists.engine.kv_cache import KvCache
from specialists.engine.llama import LlamaModel
from specialists.engine.prefixes import SHORTEST, PrefixStore, Tokens, shared_prefix
from specialists.engine.sampler import Choice, choose
from specialists.engine.scheduler import Limits, Scheduler
from specialists.engine.sequence import Delta, Sequence

Deliver = Callable[[list[tuple[Sequence, Delta]]], None]
log = structlog.get_logger(__name__)


class Counts(msgspec.Struct, frozen=True):
    """What the engine is doing now, and what it did since the start."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prefix_bytes: int


class EngineLoop:
    """Owns the cache and the running sequences. `submit`, `cancel`, `forget` and `counts` may be called from any
    thread.
    """

    def __init__(self, model: LlamaModel, limits: Limits, max_context_tokens: int, prefix_bytes: int) -> None:
        self._model = model
        self._cache = KvCache(model.shape, limits.max_running, max_context_tokens)
        self._prefixes = PrefixStore(prefix_bytes)
        self._scheduler = Scheduler(limits)
        self._changed = threading.Condition()
        self._ended = False
        self._steps = self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0
        self._deliver: Deliver = lambda _: None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """Starts the thread; `deliver` is called on it, once a step."""
        self._deliver = deliver
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its step."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._thread.is_alive()

    def submit(self, sequence: Sequence) -> None:
        """Queues a sequence. Raises BackendOverloadedError when the queue is full, InvalidRequestError for one that
        can never fit.
        """
        limit = self._scheduler.limits.max_cached_tokens
        if sequence.most_tokens > limit:
            raise InvalidRequestError(
                f"prompt and max_tokens make {sequence.most_tokens} tokens; the cache holds {limit} (--kv-cache-gib)",
                param="max_tokens",
            )
        with self._changed:
            self._scheduler.add(sequence)
            self._changed.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Drops a sequence before the next step; nothing more of it is delivered."""
        with self._changed:
            sequence.cancelled = True
            self._changed.notify()

    def forget(self, adapter: int) -> None:
        """Drops the cached prefixes of an adapter that was unloaded."""
        with self._changed:
            self._prefixes.forget(adapter)

    def counts(self) -> Counts:
        """A snapshot."""
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        totals = (self._steps, self._prompt_tokens, self._cached_tokens, self._completion_tokens)
        return Counts(running, waiting, *totals, self._prefixes.size_bytes)

    def _run(self) -> None:
        while not self._ended:
            try:
                steps = self._await_work()
                if steps:
                    self._step(steps)
            except Exception as error:  # one bad step must not end the engine
                log.exception("step failed")
                self._fail_all(f"the engine failed while computing: {error}")

    def _await_work(self) -> list[tuple[Sequence, int]]:
        with self._changed:
            steps = self._next()
            while not steps and not self._ended:
                self._cache.shrink()
                self._changed.wait()
                steps = self._next()
        return steps

    def _next(self) -> list[tuple[Sequence, int]]:
        for sequence in self._scheduler.drop_cancelled():
            self._release(sequence)
        return self._scheduler.plan(self._place)

    def _step(self, steps: list[tuple[Sequence, int]]) -> None:
        longest = max(sequence.computed + count for sequence, count in steps)
        self._cache.reserve(longest, len(self._scheduler.running))
        work = [_work(sequence, count) for sequence, count in steps]
        batch = lay_out(work, self._cache.capacity)
        logits = self._model.forward(batch, self._cache)
        for sequence, count in steps:
            sequence.computed += count
        sampled = [steps[i][0] for i in batch.order]
        choices = choose(logits, sampled, self._model.shape.eos_token_ids)
        deltas = [(s, self._extend(s, choice)) for s, choice in zip(sampled, choices, strict=True)]
        self._steps += 1
        with self._changed:
            for sequence, delta in deltas:
                if delta.finish_reason:
                    self._release(sequence)
        self._deliver(deltas)

    def _place(self, sequence: Sequence) -> int:
        """Fills a joining sequence's row with the longest prefix that is known for its adapter; gives its length."""
        adapter, prompt = (
            _identity(sequence),
            np.array(sequence.tokens[:-1], dtype=np.int64),
        )  # the last token must be computed
        self._cache.reserve(len(prompt) + 1, len(self._scheduler.running))
        shared, saved = self._prefixes.find(adapter, prompt)
        alike, row = self._running_alike(sequence, prompt)
        if alike > shared and alike >= SHORTEST:
            self._cache.copy_row(row, sequence.row, alike)
            shared = alike
        elif saved is not None:
            self._cache.restore(sequence.row, saved, shared)
        self._prompt_tokens += sequence.prompt_tokens
        self._cached_tokens += shared
        return shared

    def _running_alike(self, sequence: Sequence, prompt: Tokens) -> tuple[int, int]:
        found = [
            (shared_prefix(np.array(other.tokens[: other.computed], dtype=np.int64), prompt), other.row)
            for other in self._scheduler.running
            if other is not sequence and _identity(other) == _identity(sequence)
        ]
        return max(found, default=(0, -1))

    def _extend(self, sequence: Sequence, choice: Choice) -> Delta:
        """Appends the token; decides whether the answer ends with it, and why."""
        s, token = sequence.sampling, choice.token_id
        sequence.tokens.append(token)
        self._completion_tokens += 1
        if sequence.constraint:
            sequence.constraint.accept(token)
        ends = token in s.stop_token_ids or (token in self._model.shape.eos_token_ids and not s.ignore_eos)
        text = "" if ends else sequence.text.push(token)
        complete = sequence.constraint is not None and sequence.constraint.complete
        reason = "stop" if ends or complete or sequence.text.stopped else None
        if reason is None and sequence.completion_tokens >= s.max_tokens:
            reason = "length"
        if reason and not sequence.text.stopped:
            text += sequence.text.finish()
        logprobs = () if choice.logprob is None else (choice.logprob,)
        return Delta(text, logprobs, reason, sequence.completion_tokens, sequence.cached)

    def _release(self, sequence: Sequence) -> None:
        """Frees a row, keeping what it computed for the next prompt that begins alike."""
        adapter, known = _identity(sequence), np.array(sequence.tokens[: sequence.computed], dtype=np.int64)
        if self._prefixes.worth_saving(adapter, known):
            self._prefixes.add(adapter, known, self._cache.save(sequence.row, len(known)))
        move = self._scheduler.remove(sequence)
        if move:
            self._cache.copy_row(move.source, move.target, move.tokens)

    def _fail_all(self, message: str) -> None:
        with self._changed:
            failed = list(self._scheduler.running)
            self._scheduler.running.clear()
        self._deliver([(s, Delta("", (), "error", s.completion_tokens, s.cached, message)) for s in failed])


def _identity(sequence: Sequence) -> int:
    return sequence.adapter.identity if sequence.adapter else 0


def _work(sequence: Sequence, count: int) -> Work:
    start = sequence.computed
    return Work(
        row=sequence.row,
        start=start,
        tokens=sequence.tokens[start : start + count],
        adapter=sequence.adapter,
        samples=start + count == len(sequence.tokens),
    )
