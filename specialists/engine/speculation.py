"""Which guessed tokens a step checks beside the one that is due, and what their success says. Knows no tensors.

Decoding on a CPU is bound by reading the weights, so a few more tokens in a step cost less than the steps they spare
(Leviathan et al., arXiv:2211.17192; here without a draft model). A guess is kept where it is the very token that the
model would have chosen, so answers are those of decoding one token a step.
"""

from __future__ import annotations

from specialists.engine.guesses import Guesser
from specialists.engine.sampler import is_plainly_greedy
from specialists.engine.sequence import Sequence

READING = 4
"""A step reads the weights, which takes as long as computing this many tokens: 6 were measured for SmolLM2-135M on an
x86-64 core, and the layout of checked tokens costs some of it.
"""
TRUST = 32.0
"""Guessed tokens that may fail in a row before an adapter's guesses are given up."""
PRAISE = 2.0
"""Failed tokens that one right token makes up for."""
MENDING = 0.1
"""Trust that comes back with each step that goes without, so that guessing is tried again."""


class Speculation:
    """Guesses for each sequence that is decoded greedily. Used by the compute thread; `forget` by any."""

    def __init__(self, max_guesses: int, eos_token_ids: tuple[int, ...]) -> None:
        self.guessed_tokens = 0
        self.accepted_tokens = 0
        self._most = max_guesses
        self._eos_token_ids = eos_token_ids
        self._guesser = Guesser()
        self._trust: dict[int, float] = {}

    def guess(self, sequence: Sequence, running: int, room: int) -> list[int]:
        """Tokens to check behind the last one of `sequence`, at most `room`; none where they would not pay."""
        left = sequence.sampling.max_tokens - sequence.completion_tokens - 1
        most = min(self._most, left, room)
        adapter = sequence.identity
        if most <= 0 or not is_plainly_greedy(sequence) or not self._trusts(adapter):
            return []
        prompt = sequence.tokens[: sequence.prompt_tokens]
        guessed = self._guesser.guess(adapter, prompt, sequence.output, most, least_chance(running))
        ends = (place + 1 for place, token in enumerate(guessed) if token in self._eos_token_ids)
        return guessed[: next(ends, len(guessed))]

    def judge(self, sequence: Sequence, guessed: list[int], chosen: list[int]) -> int:
        """How many of `guessed` are what the model chose; `chosen` has one token more. Learns from the success."""
        pairs = zip(guessed, chosen, strict=False)
        accepted = next((i for i, (guess, choice) in enumerate(pairs) if guess != choice), len(guessed))
        self.guessed_tokens += len(guessed)
        self.accepted_tokens += accepted
        gained = PRAISE * accepted - (len(guessed) - accepted)
        self._trust[sequence.identity] = min(TRUST, self._trust.get(sequence.identity, TRUST) + gained)
        return accepted

    def _trusts(self, adapter: int) -> bool:
        trust = self._trust.get(adapter, TRUST)
        if trust <= 0:
            self._trust[adapter] = trust + MENDING
        return trust > 0

    def learn(self, sequence: Sequence) -> None:
        """Remembers a finished answer for the next ones of its adapter."""
        if self._most and is_plainly_greedy(sequence):
            self._guesser.learn(sequence.identity, sequence.output)

    def forget(self, adapter: int) -> None:
        """Drops what an unloaded adapter left."""
        self._guesser.forget(adapter)
        self._trust.pop(adapter, None)


def least_chance(running: int) -> float:
    """The chance from which a guess pays while `running` sequences share the reading of the weights.

    In tokens' worth of arithmetic, a right guess spares its own later computing and a share of a reading, 1 + READING /
    running, and any guess costs 1. One sequence more is reckoned than runs: chances err on the side of hope.
    """
    return (running + 1) / (running + 1 + READING)
