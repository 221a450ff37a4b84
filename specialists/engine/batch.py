"""One step's work as tensors: which tokens, where their keys go, which rows attend together. Knows nothing of weights.

Tokens are laid out adapter by adapter, so that each adapter's low-rank product is taken on one slice. Rows that
compute a few tokens (the next one, with guesses behind it) attend in runs: neighbouring rows of similar length, padded
to the longest of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from specialists.engine.adapters import Adapter

SMALLEST_BUCKET = 128
FEW = 16
"""Tokens of one row up to which attention costs less together with the neighbours' than by itself."""

PADDED = 3
"""Tokens by which rows of a run may differ: attention over repeated ones costs less than one call more."""


class Work(msgspec.Struct, frozen=True):
    """What one sequence computes in this step: `tokens` at positions `start`, `start + 1`, ... of its row."""

    row: int
    start: int
    tokens: Sequence[int]
    adapter: Adapter | None
    samples: int
    """How many of the last tokens' next ones are wanted: none inside a prompt, more than one to check guesses."""

    @property
    def end(self) -> int:
        """Length of the row once this is computed."""
        return self.start + len(self.tokens)


class Run(msgspec.Struct, frozen=True):
    """Rows `first` to `last` (exclusive), each with `queries` tokens that attend to at most `length` positions. A row
    with fewer tokens repeats its last one.
    """

    first: int
    last: int
    queries: int
    length: int
    mask: Tensor | None
    """(rows, 1, queries, length): 0 where a token sees a position, minus infinity elsewhere; None: each sees all."""


class Chunk(msgspec.Struct, frozen=True):
    """Many tokens of one row: `begin` to `end` of the batch, after `start` positions already cached."""

    row: int
    begin: int
    end: int
    start: int
    mask: Tensor | None


class Batch(msgspec.Struct, frozen=True):
    """A step, ready to compute. `sampled` are the batch positions whose next token is wanted, in the order of
    `order`.
    """

    token_ids: Tensor
    positions: Tensor
    cache_slots: Tensor
    groups: tuple[tuple[Adapter, int, int], ...]
    decoding: Tensor | None
    """Batch positions of the runs' tokens in the runs' order; None when that is the whole batch in order already."""
    runs: tuple[Run, ...]
    chunks: tuple[Chunk, ...]
    sampled: Tensor
    order: tuple[int, ...]
    """Indices into the work list, one for each sampled position."""


def lay_out(work: Sequence[Work], capacity: int) -> Batch:
    """Builds the step for rows of `capacity` positions."""
    by_adapter = sorted(range(len(work)), key=lambda i: (_identity(work[i]), work[i].row))
    begins: dict[int, int] = {}
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for i in by_adapter:
        item = work[i]
        begins[i] = len(ids)
        ids.extend(item.tokens)
        positions.extend(range(item.start, item.end))
        slots.extend(range(item.row * capacity + item.start, item.row * capacity + item.end))
    decoders = sorted((i for i in by_adapter if len(work[i].tokens) <= FEW), key=lambda i: work[i].row)
    spans = _spans([work[i] for i in decoders])
    begin_of_row = {work[i].row: begins[i] for i in decoders}
    at = [begin_of_row[item.row] + place for span in spans for item in span for place in _places(item, span)]
    sampled = [(i, begins[i] + place) for i in by_adapter for place in _sampled(work[i])]
    return Batch(
        token_ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        cache_slots=torch.tensor(slots),
        groups=_group(work, by_adapter, begins),
        decoding=None if at == list(range(len(ids))) else torch.tensor(at, dtype=torch.long),
        runs=tuple(_run(span) for span in spans),
        chunks=tuple(_chunk(work[i], begins[i]) for i in by_adapter if len(work[i].tokens) > FEW),
        sampled=torch.tensor([position for _, position in sampled], dtype=torch.long),
        order=tuple(i for i, _ in sampled),
    )


def _sampled(item: Work) -> range:
    return range(len(item.tokens) - item.samples, len(item.tokens))


def _identity(item: Work) -> int:
    return item.adapter.identity if item.adapter else 0


def _group(work: Sequence[Work], ordered: list[int], begins: dict[int, int]) -> tuple[tuple[Adapter, int, int], ...]:
    groups: list[tuple[Adapter, int, int]] = []
    for i in ordered:
        adapter, begin = work[i].adapter, begins[i]
        if adapter is None:
            continue
        end = begin + len(work[i].tokens)
        if groups and groups[-1][0].identity == adapter.identity:
            groups[-1] = (adapter, groups[-1][1], end)
        else:
            groups.append((adapter, begin, end))
    return tuple(groups)


def _bucket(length: int) -> int:
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _spans(decoders: list[Work]) -> list[list[Work]]:
    """Neighbouring rows of about as many tokens, whose lengths round up to the same power of two."""
    spans: list[list[Work]] = []
    for item in decoders:
        if spans and _joins(item, spans[-1]):
            spans[-1].append(item)
        else:
            spans.append([item])
    return spans


def _joins(item: Work, span: list[Work]) -> bool:
    alike = abs(len(item.tokens) - len(span[0].tokens)) <= PADDED and _bucket(item.end) == _bucket(span[-1].end)
    return alike and span[-1].row + 1 == item.row


def _places(item: Work, span: list[Work]) -> list[int]:
    """Which of a row's tokens are its queries: all, then the last again until there are as many as the longest has."""
    last = len(item.tokens) - 1
    return [min(place, last) for place in range(max(len(other.tokens) for other in span))]


def _run(span: list[Work]) -> Run:
    seen = [[item.start + place + 1 for place in _places(item, span)] for item in span]
    longest = max(map(max, seen))
    mask = None if min(map(min, seen)) == longest else _mask(seen, longest)
    return Run(span[0].row, span[-1].row + 1, len(seen[0]), longest, mask)


def _mask(seen: list[list[int]], longest: int) -> Tensor:
    beyond = torch.arange(longest) >= torch.tensor(seen)[:, None, :, None]
    return torch.zeros(beyond.shape).masked_fill_(beyond, float("-inf"))


def _chunk(item: Work, begin: int) -> Chunk:
    mask = None if item.start == 0 else _causal_mask(item.start, item.end)
    return Chunk(item.row, begin, begin + len(item.tokens), item.start, mask)


def _causal_mask(start: int, end: int) -> Tensor:
    """(end - start, end): token `start + i` sees the positions up to its own."""
    later = torch.arange(end)[None] > torch.arange(start, end)[:, None]
    return torch.zeros(end - start, end).masked_fill_(later, float("-inf"))
