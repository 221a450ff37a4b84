"""Which cluster a call belongs to: the signature first, then an operator's table of patterns and keywords.

`unknown` is a real answer: nothing matched, or two clusters matched equally well. The caller's `task_type` is a hint:
it is compared with the finding, it may break a tie, and it never decides alone. All patterns run in RE2, in one pass of
linear time. The learned second stage is `two_stage`. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, Protocol

import re2
from msgspec import Meta, Struct

from registry.errors import ConfigError
from registry.identifiers import UNKNOWN_CLUSTER

Source = Literal["signature", "pattern", "keyword", "learned", "none"]
ClusterName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]

MAX_TEXT_CHARS: Final = 8_192
"""Patterns look at this much of a text, so that a decision's time is bounded."""

_TIE_BROKEN: Final = 0.5
_CONFIDENCE: Final = {"signature": 1.0, "pattern": 0.9, "keyword": 0.7, "none": 0.0}
"""A rank, not a probability: the table is not calibrated."""


class ClusterRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the calls of one cluster look.

    A signature decides at once. Else `system_patterns` and `tool_names` are gates: each that is given must hold. Behind
    them any of `patterns`, or `min_keywords` different `keywords`, must be in the text; a rule with neither is content
    with its gates.
    """

    name: ClusterName
    description: str = ""
    signatures: tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    system_patterns: tuple[Text, ...] = ()
    """RE2, searched for in the system prompt; one is enough."""
    tool_names: tuple[Text, ...] = ()
    """Tools that the call must offer, all of them."""
    patterns: tuple[Text, ...] = ()
    """RE2, searched for in the user's text; one is enough."""
    keywords: tuple[Text, ...] = ()
    """Whole words or phrases of the user's text, in any case."""
    min_keywords: Annotated[int, Meta(ge=1, le=100)] = 1
    task_types: tuple[Text, ...] = ()
    """What callers may call this cluster in `routing.task_type`, besides its name."""


class ClusterTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of clusters.yaml."""

    version: Literal[1] = 1
    clusters: tuple[ClusterRule, ...] = ()


class ClassifyInput(Struct, frozen=True):
    """What a classifier sees of a call."""

    signature: str
    system: str = ""
    text: str = ""
    """The last user message."""
    tool_names: tuple[str, ...] = ()
    task_type: str | None = None
    """The caller's hint, as given."""
    json_keys: tuple[str, ...] = ()
    """Top-level keys of the answer that the call asks for."""


class Classification(Struct, frozen=True):
    """The cluster, what it was found by, and whether the caller's hint agrees.

    `hint_agrees` is None without a hint, or when no cluster is known by the hint's word.
    """

    cluster: str
    source: Source
    confidence: float
    hint_agrees: bool | None
    reason: str


class Classifier(Protocol):
    """Anything that can name a call's cluster."""

    def classify(self, given: ClassifyInput) -> Classification:
        """Return the cluster, or `unknown` with the reason."""
        ...


class _PatternSet:
    """Many RE2 patterns as one automaton; says which of them occur."""

    def __init__(self) -> None:
        options = re2.Options()
        options.max_mem = 64 << 20
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        self._size = 0

    def add(self, pattern: str, where: str) -> int:
        try:
            re2.compile(pattern, _QUIET)
            self._set.Add(pattern)
        except re2.error as error:
            raise ConfigError(f"{where}: `{pattern}` is not a pattern RE2 can run: {_said(error)}") from None
        self._size += 1
        return self._size - 1

    def freeze(self) -> None:
        if self._size:
            self._set.Compile()

    def found_in(self, text: str) -> frozenset[int]:
        if not self._size or not text:
            return frozenset()
        return frozenset(self._set.Match(text[:MAX_TEXT_CHARS].encode("utf-8", "replace")) or ())


class _Compiled(Struct, frozen=True):
    """A rule with its patterns as indexes into the two sets."""

    rule: ClusterRule
    system: frozenset[int]
    tools: frozenset[str]
    patterns: frozenset[int]
    keywords: frozenset[int]


class _Match(Struct, frozen=True):
    """A rule that holds, and how much spoke for it: kinds of evidence, then keywords."""

    rule: ClusterRule
    score: tuple[int, int]
    source: Source
    reason: str


_QUIET: Final = re2.Options()
_QUIET.log_errors = False


class TableClassifier:
    """The operator's table, compiled once. Raises ConfigError naming the cluster and the pattern that is wrong."""

    def __init__(self, table: ClusterTable) -> None:
        self._by_signature: dict[str, ClusterRule] = {}
        self._by_hint: dict[str, set[str]] = {}
        self._system, self._text = _PatternSet(), _PatternSet()
        self._compiled: list[_Compiled] = []
        seen: set[str] = set()
        for rule in table.clusters:
            _check(rule, seen)
            self._index(rule)
            if rule.system_patterns or rule.tool_names or rule.patterns or rule.keywords:
                self._compiled.append(self._compile(rule))
        self._system.freeze()
        self._text.freeze()

    def classify(self, given: ClassifyInput) -> Classification:
        """Return the cluster, or `unknown` with the reason. A few microseconds for each kB of text."""
        rule = self._by_signature.get(given.signature)
        if rule is not None:
            return self._answer(rule.name, "signature", _CONFIDENCE["signature"], given, "the signature is its own")
        matches = self._matches(given)
        if not matches:
            return self._answer(
                UNKNOWN_CLUSTER, "none", 0.0, given, "no cluster's signature, pattern or keyword matched"
            )
        best = max(match.score for match in matches)
        winners = [match for match in matches if match.score == best]
        if len(winners) == 1:
            won = winners[0]
            return self._answer(won.rule.name, won.source, _CONFIDENCE[won.source], given, won.reason)
        return self._break_tie(winners, given)

    def _index(self, rule: ClusterRule) -> None:
        for signature in rule.signatures:
            other = self._by_signature.setdefault(signature, rule)
            if other is not rule:
                raise ConfigError(f"Clusters `{other.name}` and `{rule.name}` both claim the signature {signature}.")
        for word in (rule.name, *rule.task_types):
            self._by_hint.setdefault(_hint(word), set()).add(rule.name)

    def _compile(self, rule: ClusterRule) -> _Compiled:
        def added(target: _PatternSet, patterns: Iterable[str], what: str) -> frozenset[int]:
            return frozenset(target.add(pattern, f"Cluster `{rule.name}`, {what}") for pattern in patterns)

        return _Compiled(
            rule=rule,
            system=added(self._system, rule.system_patterns, "system_patterns"),
            tools=frozenset(rule.tool_names),
            patterns=added(self._text, rule.patterns, "patterns"),
            keywords=added(self._text, map(_keyword_pattern, rule.keywords), "keywords"),
        )

    def _matches(self, given: ClassifyInput) -> list[_Match]:
        system, text = self._system.found_in(given.system), self._text.found_in(given.text)
        offered = frozenset(given.tool_names)
        found = (_match(compiled, system, text, offered) for compiled in self._compiled)
        return [match for match in found if match is not None]

    def _break_tie(self, winners: list[_Match], given: ClassifyInput) -> Classification:
        names = ", ".join(f"`{match.rule.name}`" for match in winners)
        hinted = self._by_hint.get(_hint(given.task_type), set()) if given.task_type else set()
        agreed = [match for match in winners if match.rule.name in hinted]
        if len(agreed) == 1:
            reason = f"{names} match equally well; the caller's task_type settled it"
            return self._answer(agreed[0].rule.name, agreed[0].source, _TIE_BROKEN, given, reason)
        return self._answer(UNKNOWN_CLUSTER, "none", 0.0, given, f"{names} match equally well")

    def _answer(
        self, cluster: str, source: Source, confidence: float, given: ClassifyInput, reason: str
    ) -> Classification:
        return Classification(cluster, source, confidence, self.agrees(given.task_type, cluster), reason)

    def agrees(self, task_type: str | None, cluster: str) -> bool | None:
        """Say whether the hint's word stands for the cluster; None without a hint or when nobody knows the word."""
        if not task_type:
            return None
        named = self._by_hint.get(_hint(task_type))
        return None if named is None else cluster in named


def _match(compiled: _Compiled, system: frozenset[int], text: frozenset[int], offered: frozenset[str]) -> _Match | None:
    """Return how well the rule holds, or None when a gate is shut or nothing of its text was found."""
    if compiled.system and compiled.system.isdisjoint(system):
        return None
    if compiled.tools and not compiled.tools <= offered:
        return None
    pattern_hits, keyword_hits = len(compiled.patterns & text), len(compiled.keywords & text)
    enough = keyword_hits >= compiled.rule.min_keywords
    if (compiled.patterns or compiled.keywords) and not (pattern_hits or enough):
        return None
    kinds = [
        (bool(compiled.system), "system prompt"),
        (bool(compiled.tools), "tools"),
        (pattern_hits > 0, "pattern"),
        (compiled.keywords and enough, f"{keyword_hits} keyword{'s' if keyword_hits > 1 else ''}"),
    ]
    held = [label for holds, label in kinds if holds]
    source: Source = "pattern" if held[0] in {"system prompt", "tools", "pattern"} else "keyword"
    return _Match(compiled.rule, (len(held), keyword_hits), source, f"matched by {' and '.join(held)}")


def _check(rule: ClusterRule, seen: set[str]) -> None:
    """Refuse a rule that could never be told from others. Raises ConfigError."""
    if rule.name == UNKNOWN_CLUSTER:
        raise ConfigError("`unknown` is the answer when no cluster matches; it cannot have a rule.")
    if rule.name in seen:
        raise ConfigError(f"Cluster `{rule.name}` is in the table twice; join the two rules.")
    if rule.keywords and rule.min_keywords > len(rule.keywords):
        raise ConfigError(f"Cluster `{rule.name}` asks for {rule.min_keywords} keywords and has {len(rule.keywords)}.")
    if not (rule.signatures or rule.system_patterns or rule.tool_names or rule.patterns or rule.keywords):
        raise ConfigError(f"Cluster `{rule.name}` has nothing to match by: give it signatures, patterns or keywords.")
    seen.add(rule.name)


def _keyword_pattern(keyword: str) -> str:
    """Return a pattern for a whole word or phrase, in any case."""
    words = keyword.split() or [keyword]
    left, right = _edge(words[0][0], "^"), _edge(words[-1][-1], "$")
    phrase = r"\s+".join(re2.escape(word) for word in words)
    return f"(?i){left}{phrase}{right}"


def _edge(char: str, anchor: str) -> str:
    """Return the edge of a word with `char` at its end (`c++` has none). RE2's `\\b` knows ASCII letters only."""
    if not (char.isalnum() or char == "_"):
        return ""
    return r"\b" if char.isascii() else rf"(?:{anchor}|[^\pL\pN_])"


def _hint(word: str) -> str:
    return word.strip().casefold().replace("-", "_")


def _said(error: Exception) -> str:
    """RE2's own words, without the bytes around them."""
    said = error.args[0] if error.args else error
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
