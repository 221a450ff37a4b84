"""Cluster cards: what a person and the next steps want to know of a task, counted in one pass over its calls.

Memory is a few kilobytes a cluster and eight bytes a call. It knows calls and ids; not how clusters are found.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from msgspec import Struct, field

from pipelines.cluster_identity import Sketch, operators_name_of
from pipelines.cluster_tokens import Kind, answer_keys, kind_of, value_tokens
from pipelines.loop_rows import CuratedCall
from policies.features import estimate_tokens
from registry.identifiers import digest_of
from specialists.words import words_of

DAY_MS: Final = 86_400_000
EXAMPLES: Final = 5
MAX_CHARS: Final = 240
MAX_SIGNATURES: Final = 512
MAX_WORDS: Final = 12
_LOOKED_AT: Final = 500
"""Calls of a cluster whose words are counted."""
_MOST_COUNTED: Final = 20_000
"""Different values, names or signatures that are counted; others no longer are."""
_ANSWERS_COUNTED: Final = 1_000
_OWNED_SHARE: Final = 0.8
"""Of a signature's calls: so many in one cluster, and the others have strayed."""
_SPLIT_SHARE: Final = 0.2


Fitted = Literal["kept", "extended", "anew"]


class Example(Struct, frozen=True):
    """One call, cut to a few words."""

    call_id: str
    input: str
    answer: str


class ClusterCard(Struct, frozen=True, kw_only=True):
    """One task. Formats only grow: a new field has a default."""

    id: str
    description: str
    signatures: tuple[str, ...] = ()
    """Those it owns, and those it shares with another cluster; the most used first."""
    kind: Kind = "text"
    """What most answers are."""
    volume: int = 0
    calls_per_day: float = 0.0
    """Over the whole window of the run, at least a day."""
    first_at_ms: int = 0
    last_at_ms: int = 0
    keys: tuple[str, ...] = ()
    """JSON keys (or argument names) of the answers, the most frequent first."""
    tool_names: tuple[str, ...] = ()
    """Tools that were called."""
    values: tuple[str, ...] = ()
    """`key=value` of short values that recur, the most frequent first."""
    words: tuple[str, ...] = ()
    """Words of the users that tell the task from the others."""
    distinct_answers: int = 0
    """Among the first `answers_counted` answers."""
    answers_counted: int = 0
    tools_called: int = 0
    """Different tools."""
    examples: tuple[Example, ...] = ()
    served_by: dict[str, int] = field(default_factory=dict)
    cost_usd: float = 0.0
    frontier_cost_usd: float = 0.0
    share_verified: float = 0.0
    """Believed by the verifier; the rest by feedback."""
    share_corrected: float = 0.0
    """Answered anew by somebody: the answer that was given was wrong."""
    mean_prompt_tokens: float = 0.0
    mean_input_tokens: float = 0.0
    """Of the last user message alone, estimated: what a specialist's template sends."""
    p99_input_tokens: int = 0
    mean_completion_tokens: float = 0.0
    p99_completion_tokens: int = 0
    mean_latency_ms: float = 0.0
    drift: float | None = None
    """Since the run before; None for a new cluster."""
    drift_alert: bool = False

    @property
    def terms(self) -> frozenset[str]:
        """What it looks like, for matching it with the next run's clusters."""
        return frozenset((*self.keys, *self.tool_names, *self.words))


class ClusterFile(Struct, frozen=True, kw_only=True):
    """clusters.json: the serving process reads ids and signatures, people and later steps the rest."""

    version: Literal[1] = 1
    digest: str = ""
    clusters: tuple[ClusterCard, ...] = ()
    calls: int = 0
    noise: int = 0
    from_ms: int = 0
    until_ms: int = 0
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    drift_alert: bool = False
    fitted: Fitted = "anew"
    """Whether the calls were assigned by the model of the run before, by that and a further layer, or by a new one."""
    why: str = ""
    """Why a model was fitted anew; "" for one that was kept."""
    left_over: int = 0
    """Calls that the model of the run before did not know."""


class Tally:
    """Counts one cluster's calls."""

    def __init__(self) -> None:
        self.members: array[int] = array("Q")
        self.signatures: Counter[str] = Counter()
        self.names: Counter[tuple[str, str]] = Counter()
        self.words: Counter[str] = Counter()
        self.looked_at = 0
        self.first_at_ms, self.last_at_ms = 2**62, 0
        self._kinds: Counter[Kind] = Counter()
        self._keys: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()
        self._values: Counter[str] = Counter()
        self._served_by: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._sums = dict.fromkeys(("cost", "frontier", "prompt", "latency"), 0.0)
        self._inputs, self._completions = array("I"), array("I")
        self._answers: set[int] = set()
        self._examples: list[tuple[int, CuratedCall]] = []

    @property
    def volume(self) -> int:
        """Calls."""
        return len(self.members)

    def add(self, call: CuratedCall, rank: int) -> None:
        """Count a call; `rank` is `cluster.rank_of` its id."""
        self.members.append(rank)
        self.first_at_ms = min(self.first_at_ms, call.at_ms)
        self.last_at_ms = max(self.last_at_ms, call.at_ms)
        _count(self.signatures, (call.signature,) if call.signature else ())
        _count(self.names, ((call.cluster, call.cluster_source),))
        self._kinds[kind_of(call)] += 1
        _count(self._keys, answer_keys(call))
        _count(self._tools, (str(one.get("name", "")) for one in call.answer_tool_calls or ()))
        _count(self._values, value_tokens(call))
        if self.volume <= _ANSWERS_COUNTED:
            self._answers.add(hash(_answer_of(call)))
        self._served_by[call.served_by] += 1
        self._sources[call.answer_source] += 1
        self._add_amounts(call)
        self._look_at(call, rank)

    def _add_amounts(self, call: CuratedCall) -> None:
        sums = self._sums
        sums["cost"] += call.cost_usd
        sums["frontier"] += call.frontier_cost_usd
        sums["prompt"] += call.prompt_tokens
        sums["latency"] += call.latency_ms
        self._inputs.append(min(estimate_tokens(call.input), 2**32 - 1))
        self._completions.append(max(0, min(call.completion_tokens, 2**32 - 1)))

    def _look_at(self, call: CuratedCall, rank: int) -> None:
        if self.looked_at < _LOOKED_AT:
            self.looked_at += 1
            self.words.update(set(words_of(call.input)))
        if len(self._examples) < EXAMPLES or rank < self._examples[-1][0]:
            if all(one.input != call.input for _, one in self._examples):
                self._examples.append((rank, call))
            self._examples = sorted(self._examples, key=lambda one: one[0])[:EXAMPLES]

    def sketch(self, words: Sequence[str], signatures: Sequence[str], kept_id: str = "") -> Sketch:
        """Return what the cluster's identity depends on; `kept_id` is the one that a kept model has for it."""
        return Sketch(
            members=np.sort(np.frombuffer(self.members.tobytes(), dtype=np.uint64)),
            signatures=frozenset(signatures),
            terms=frozenset((*_most(self._keys, 16), *_most(self._tools, 32), *words)),
            operators_name=operators_name_of(self.names, self.volume),
            kept_id=kept_id,
        )

    def card(self, name: str, words: Sequence[str], signatures: Sequence[str], days: float) -> ClusterCard:
        """Return the card under an id, for a window of so many days."""
        volume, sums = max(1, self.volume), self._sums
        kind = self._kinds.most_common(1)[0][0]
        keys, tools, values = _most(self._keys, 16), _most(self._tools, 32), self._labels()
        return ClusterCard(
            id=name,
            description=_description(kind, tools if kind == "tool_call" else keys, values, words),
            signatures=tuple(signatures),
            kind=kind,
            volume=self.volume,
            calls_per_day=round(self.volume / days, 3),
            first_at_ms=self.first_at_ms,
            last_at_ms=self.last_at_ms,
            keys=keys,
            tool_names=tools,
            values=values,
            words=tuple(words),
            distinct_answers=len(self._answers),
            answers_counted=min(self.volume, _ANSWERS_COUNTED),
            tools_called=len(self._tools),
            examples=tuple(_example(call) for _, call in self._examples),
            served_by=dict(self._served_by.most_common(32)),
            cost_usd=round(sums["cost"], 9),
            frontier_cost_usd=round(sums["frontier"], 9),
            share_verified=self._sources["verified"] / volume,
            share_corrected=self._sources["correction"] / volume,
            mean_prompt_tokens=round(sums["prompt"] / volume, 2),
            mean_input_tokens=round(float(np.mean(self._inputs)), 2),
            p99_input_tokens=_p99(self._inputs),
            mean_completion_tokens=round(float(np.mean(self._completions)), 2),
            p99_completion_tokens=_p99(self._completions),
            mean_latency_ms=round(sums["latency"] / volume, 2),
        )

    def _labels(self) -> tuple[str, ...]:
        """Values that recur: in at least three calls, and in one of a hundred."""
        least = max(3, self.volume // 1_000)
        return tuple(value for value in _most(self._values, 32) if self._values[value] >= least)


def telling_words(tallies: Sequence[Tally]) -> list[tuple[str, ...]]:
    """Return of each cluster the words that are frequent in it and rare in the others (TF-IDF over clusters)."""
    inside = Counter(word for tally in tallies for word, count in tally.words.items() if count * 20 >= tally.looked_at)
    found = []
    for tally in tallies:
        least = max(2, tally.looked_at // 50)
        scores = {
            word: count / max(1, tally.looked_at) * (math.log((1 + len(tallies)) / (1 + inside[word])) + 0.1)
            for word, count in tally.words.items()
            if count >= least
        }
        found.append(tuple(sorted(scores, key=lambda word: (-scores[word], word))[:MAX_WORDS]))
    return found


def owned_signatures(tallies: Sequence[Tally]) -> list[tuple[str, ...]]:
    """Return of each cluster the signatures whose calls are its own, most used first.

    A signature that is split among clusters is named in each of them: then it alone decides nothing in serving. A few
    calls that strayed split nothing.
    """
    totals: Counter[str] = Counter()
    for tally in tallies:
        totals.update(tally.signatures)
    owners = {
        signature: at
        for at, tally in enumerate(tallies)
        for signature, count in tally.signatures.items()
        if count >= _OWNED_SHARE * totals[signature]
    }
    return [
        tuple(
            signature
            for signature, count in sorted(tally.signatures.items(), key=lambda item: (-item[1], item[0]))
            if owners.get(signature) == at or (signature not in owners and count >= _SPLIT_SHARE * totals[signature])
        )[:MAX_SIGNATURES]
        for at, tally in enumerate(tallies)
    ]


def file_of(cards: Iterable[ClusterCard], **facts: object) -> ClusterFile:
    """Return the file, its clusters by volume, with the digest of all of them."""
    ordered = tuple(sorted(cards, key=lambda card: (-card.volume, card.id)))
    digest = "sha256:" + digest_of(msgspec.to_builtins(ordered))
    return msgspec.convert({**facts, "digest": digest, "clusters": msgspec.to_builtins(ordered)}, ClusterFile)


def _description(kind: Kind, names: Sequence[str], values: Sequence[str], words: Sequence[str]) -> str:
    form = {"tool_call": "Calls", "json": "JSON with", "text": "Text"}[kind]
    parts = [f"{form} {_listed(names, 6)}".strip() if kind != "text" else form]
    shown = [value.partition("=")[2] for value in values if not value.startswith("tool=")]
    if shown and kind == "json":
        parts.append(f"values {_listed(shown, 6)}")
    if words:
        parts.append(f"about {_listed(words, 6)}")
    return "; ".join(parts)


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _example(call: CuratedCall) -> Example:
    return Example(call.call_id, _cut(call.input), _cut(_answer_of(call)))


def _answer_of(call: CuratedCall) -> str:
    if call.answer_tool_calls:
        return msgspec.json.encode(call.answer_tool_calls).decode()
    return call.answer_text or ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def _count(counter: Counter[object] | Counter[str] | Counter[tuple[str, str]], items: Iterable[object]) -> None:
    for item in items:
        if item in counter or len(counter) < _MOST_COUNTED:
            counter[item] += 1  # type: ignore[index]


def _most(counter: Mapping[str, int], most: int) -> tuple[str, ...]:
    return tuple(sorted(counter, key=lambda name: (-counter[name], name))[:most])


def _p99(numbers: array[int]) -> int:
    return int(np.percentile(np.frombuffer(numbers, dtype=np.uint32), 99, method="higher")) if numbers else 0
