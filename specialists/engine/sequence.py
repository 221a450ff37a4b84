"""One request while the engine has it: its tokens, how far they are computed, and what is released of its text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Protocol

import msgspec
from torch import Tensor

from specialists.engine.adapters import Adapter
from specialists.engine.text_stream import TextStream

_numbers = itertools.count(1)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen and when to end. Defaults are OpenAI's."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    """How many alternatives to report with each token's log-probability; None reports nothing."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-probability of the chosen token under the model as it is, before temperature, and the likeliest
    others.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Delta(msgspec.Struct, frozen=True):
    """What one step adds to an answer. The last one has a `finish_reason`: stop, length or error."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None


class Constraint(Protocol):
    """Bounds the next token, for instance by a JSON schema."""

    @property
    def complete(self) -> bool:
        """Whether nothing may follow but the end."""

    def apply(self, logits: Tensor) -> None:
        """Sets the logits (vocabulary,) of what may not come next to minus infinity."""

    def accept(self, token_id: int) -> None:
        """Moves on past the chosen token."""


class Sequence:
    """A prompt and its growing answer. Owned by the compute thread once submitted; `cancelled` may be set by any."""

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        adapter: Adapter | None,
        text: TextStream,
        *,
        constraint: Constraint | None = None,
    ) -> None:
        self.number = next(_numbers)
        self.prompt_tokens = len(prompt)
        self.tokens = list(prompt)
        self.sampling = sampling
        self.adapter = adapter
        self.text = text
        self.constraint = constraint
        self.random = random.Random(sampling.seed)  # noqa: S311 - sampling, not secrets
        self.sink: Callable[[Delta], None] = lambda _: None
        self.computed = 0
        self.cached = 0
        self.row = -1
        self.cancelled = False

    @property
    def identity(self) -> int:
        """Of its adapter; 0 for the bare model."""
        return self.adapter.identity if self.adapter else 0

    @property
    def output(self) -> list[int]:
        """Token ids of the answer so far."""
        return self.tokens[self.prompt_tokens :]

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet: one while decoding."""
        return len(self.tokens) - self.computed

    @property
    def most_tokens(self) -> int:
        """The longest that prompt and answer can become."""
        return self.prompt_tokens + self.sampling.max_tokens
