"""The compute thread: plans a step, guesses ahead, computes, chooses tokens, hands out what each request gains. Knows
nothing of HTTP.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import msgspec
import numpy as np
import structlog
from torch import Tensor

from registry.errors import InvalidRequestError
from specialists.engine.batch import Work, lay_out
from specialists.engine.growth import extend
from specialists.engine.kv_cache import KvCache
from specialists.engine.llama import LlamaModel
from specialists.engine.prefixes import SHORTEST, PrefixStore, Tokens, shared_prefix
from specialists.engine.sampler import choose
from specialists.engine.scheduler import Limits, Scheduler
from specialists.engine.sequence import Delta, Sequence
from specialists.engine.speculation import Speculation

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
    guessed_tokens: int
    accepted_guesses: int


class EngineLoop:
    """Owns the cache and the running sequences. `submit`, `cancel`, `forget` and `counts` may be called from any
    thread.
    """

    def __init__(
        self, model: LlamaModel, limits: Limits, max_context_tokens: int, prefix_bytes: int, max_guesses: int
    ) -> None:
        self._model = model
        self._cache = KvCache(model.shape, limits.max_running, max_context_tokens)
        self._prefixes = PrefixStore(prefix_bytes)
        self._scheduler = Scheduler(limits)
        self._speculation = Speculation(max_guesses, model.shape.eos_token_ids)
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
        """Drops the cached prefixes and the remembered answers of an adapter that was unloaded."""
        with self._changed:
            self._prefixes.forget(adapter)
            self._speculation.forget(adapter)

    def counts(self) -> Counts:
        """A snapshot."""
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        totals = (self._steps, self._prompt_tokens, self._cached_tokens, self._completion_tokens)
        guesses = (self._speculation.guessed_tokens, self._speculation.accepted_tokens)
        return Counts(running, waiting, *totals, self._prefixes.size_bytes, *guesses)

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
        guesses = self._guess(steps)
        work = [_work(sequence, count, guessed) for (sequence, count), guessed in zip(steps, guesses, strict=True)]
        self._cache.reserve(max(item.end for item in work), len(self._scheduler.running))
        batch = lay_out(work, self._cache.capacity)
        logits = self._model.forward(batch, self._cache)
        for sequence, count in steps:
            sequence.computed += count
        answering = list(dict.fromkeys(batch.order))
        ends = itertools.accumulate(work[i].samples for i in answering)
        deltas = [
            (steps[i][0], self._answer(steps[i][0], guesses[i], logits[end - work[i].samples : end]))
            for i, end in zip(answering, ends, strict=True)
        ]
        self._steps += 1
        with self._changed:
            for sequence, delta in deltas:
                if delta.finish_reason:
                    self._speculation.learn(sequence)
                    self._release(sequence)
        self._deliver(deltas)

    def _guess(self, steps: list[tuple[Sequence, int]]) -> list[list[int]]:
        """What to check behind each sequence's own tokens, within the step's budget."""
        running, guesses = len(self._scheduler.running), []
        room = self._scheduler.limits.max_step_tokens - sum(count for _, count in steps)
        for sequence, count in steps:
            guesses.append(self._speculation.guess(sequence, running, room) if count == sequence.pending else [])
            room -= len(guesses[-1])
        return guesses

    def _answer(self, sequence: Sequence, guessed: list[int], logits: Tensor) -> Delta:
        """Extends by the guesses that are right and one token more; the keys of wrong ones count as not computed."""
        right = self._speculation.judge(sequence, guessed, logits.argmax(dim=1).tolist()) if guessed else 0
        kept = right + 1
        before = sequence.completion_tokens
        choices = choose(logits[:kept], [sequence] * kept, self._model.shape.eos_token_ids)
        delta = extend(sequence, choices, self._model.shape.eos_token_ids)
        sequence.computed = min(sequence.computed + right, len(sequence.tokens))
        self._completion_tokens += sequence.completion_tokens - before
        return delta

    def _place(self, sequence: Sequence) -> int:
        """Fills a joining sequence's row with the longest prefix that is known for its adapter; gives its length."""
        adapter, prompt = (
            sequence.identity,
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
            if other is not sequence and other.identity == sequence.identity
        ]
        return max(found, default=(0, -1))

    def _release(self, sequence: Sequence) -> None:
        """Frees a row, keeping what it computed for the next prompt that begins alike."""
        adapter, known = sequence.identity, np.array(sequence.tokens[: sequence.computed], dtype=np.int64)
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


def _work(sequence: Sequence, count: int, guessed: list[int]) -> Work:
    start = sequence.computed
    return Work(
        row=sequence.row,
        start=start,
        tokens=sequence.tokens[start : start + count] + guessed,
        adapter=sequence.adapter,
        samples=len(guessed) + 1 if count == sequence.pending else 0,
    )
