"""Chooses the next tokens from logits. A request's choices depend on its own seed and logits alone, never on its
neighbours.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from specialists.engine.sequence import Sampling, Sequence, TokenLogprob

NUCLEUS_GUESS = 512
"""Sorting the whole vocabulary takes longer than the rest of the choice; the likeliest few nearly always hold the
nucleus.
"""


class Choice(msgspec.Struct, frozen=True):
    """A chosen token, with its log-probability when the request wants it."""

    token_id: int
    logprob: TokenLogprob | None


@torch.inference_mode()
def choose(logits: Tensor, sequences: list[Sequence], eos_token_ids: tuple[int, ...]) -> list[Choice]:
    """One token for each row of `logits` (rows, vocabulary)."""
    greedy = logits.argmax(dim=1).tolist()
    choices = []
    for row, sequence in enumerate(sequences):
        token = greedy[row]
        if not is_plainly_greedy(sequence):
            token = _pick(_adjusted(logits[row], sequence, eos_token_ids), sequence)
        wanted = sequence.sampling.top_logprobs
        choices.append(Choice(token, None if wanted is None else _logprob(logits[row], token, wanted)))
    return choices


def is_plainly_greedy(sequence: Sequence) -> bool:
    """Whether its next token is the likeliest by the model's own logits, and so known from them alone."""
    return sequence.sampling.temperature <= 0 and not _needs_own_logits(sequence)


def _needs_own_logits(sequence: Sequence) -> bool:
    s = sequence.sampling
    changed = s.frequency_penalty or s.presence_penalty or s.logit_bias or sequence.constraint
    return bool(changed) or sequence.completion_tokens < s.min_tokens


def _adjusted(logits: Tensor, sequence: Sequence, eos_token_ids: tuple[int, ...]) -> Tensor:
    if not _needs_own_logits(sequence):
        return logits
    s, logits = sequence.sampling, logits.clone()
    if (s.frequency_penalty or s.presence_penalty) and sequence.completion_tokens:
        ids, counts = torch.unique(torch.tensor(sequence.output), return_counts=True)
        logits[ids] -= s.frequency_penalty * counts + s.presence_penalty
    for token_id, bias in s.logit_bias:
        logits[token_id] += bias
    if sequence.completion_tokens < s.min_tokens:
        logits[list(eos_token_ids + s.stop_token_ids)] = float("-inf")
    if sequence.constraint:
        sequence.constraint.apply(logits)
    return logits


def _pick(logits: Tensor, sequence: Sequence) -> int:
    s = sequence.sampling
    if s.temperature <= 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / s.temperature, dim=0)
    return draw(probabilities, s, sequence.random.random())


def draw(probabilities: Tensor, sampling: Sampling, uniform: float) -> int:
    """The token at `uniform` (0 to 1) of the cumulative distribution, within top_k and top_p, the likeliest first.

    `top_p` keeps the smallest set whose mass reaches it (Holtzman et al., arXiv:1904.09751).
    """
    if sampling.top_p >= 1 and not sampling.top_k:
        cumulative = probabilities.cumsum(0)
        return min(int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)), len(cumulative) - 1)
    values, ids = _likeliest(probabilities, sampling)
    cumulative = values.cumsum(0)
    nucleus = int(torch.searchsorted(cumulative, sampling.top_p)) + 1 if sampling.top_p < 1 else len(values)
    kept = min(nucleus, len(values))
    at = int(torch.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], right=True))
    return int(ids[min(at, kept - 1)])


def _likeliest(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Enough of the distribution, sorted, to hold the nucleus."""
    size = min(sampling.top_k or NUCLEUS_GUESS, len(probabilities))
    top = torch.topk(probabilities, size)
    if sampling.top_k or float(top.values.sum()) >= sampling.top_p:
        return top.values, top.indices
    return tuple(probabilities.sort(descending=True))  # type: ignore[return-value]


def _logprob(logits: Tensor, token: int, wanted: int) -> TokenLogprob:
    normalizer = torch.logsumexp(logits, dim=0)
    top = torch.topk(logits, wanted) if wanted else None
    pairs = zip(top.indices.tolist(), (top.values - normalizer).tolist(), strict=True) if top else ()
    return TokenLogprob(token, float(logits[token] - normalizer), tuple(pairs))
