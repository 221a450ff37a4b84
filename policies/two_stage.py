"""Classification in two stages: the operator's table first, then what was learned from the traffic.

Learned are the signatures of the tasks that were found, which are exact, and a model of the texts. The operator's word
goes before the learned one. Both may be missing, and may be exchanged while calls are served. Knows nothing of files or
of how the model works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from registry.identifiers import UNKNOWN_CLUSTER

from .classify import Classification, ClassifyInput, TableClassifier


class LearnedAnswer(Protocol):
    """What a learned model says of a call."""

    @property
    def cluster(self) -> str:
        """The cluster, or `unknown`."""
        ...

    @property
    def probability(self) -> float:
        """Of that answer, calibrated."""
        ...

    @property
    def unknown_probability(self) -> float:
        """P(the call belongs to no known cluster)."""
        ...

    @property
    def nearest(self) -> str:
        """The most probable cluster, whatever the answer."""
        ...


class LearnedModel(Protocol):
    """Anything that gives a posterior over clusters."""

    @property
    def name(self) -> str:
        """Its version, with a digest."""
        ...

    def posterior(
        self, text: str, system: str = "", tool_names: Sequence[str] = (), json_keys: Sequence[str] = ()
    ) -> LearnedAnswer:
        """Return the answer for one call."""
        ...


class TwoStageClassifier:
    """The table, and behind it the learned model, where there is one."""

    def __init__(self, table: TableClassifier, learned: LearnedModel | None = None) -> None:
        self._table = table
        self._learned = learned
        self._found: Mapping[str, str] = {}

    @property
    def learned(self) -> LearnedModel | None:
        """The model in force."""
        return self._learned

    def exchange(self, learned: LearnedModel | None) -> None:
        """Put another model in force, or none. Calls that are being classified keep theirs."""
        self._learned = learned

    def find(self, clusters: Mapping[str, str]) -> None:
        """Put the found tasks in force: signature to cluster."""
        self._found = dict(clusters)

    def classify(self, given: ClassifyInput) -> Classification:
        """Return the cluster, or `unknown` with the reason."""
        seen = self._table.classify(given)
        if seen.cluster != UNKNOWN_CLUSTER:
            return seen
        found = self._found.get(given.signature)
        if found is not None:
            agrees = self._table.agrees(given.task_type, found)
            return Classification(found, "signature", 1.0, agrees, "the signature is that of a task that was found")
        learned = self._learned
        if learned is None:
            return seen
        answer = learned.posterior(given.text, given.system, given.tool_names, given.json_keys)
        if answer.cluster == UNKNOWN_CLUSTER:
            reason = (
                f"{seen.reason}; {learned.name} is {answer.unknown_probability:.0%} sure that it is none of the "
                f"clusters it knows (nearest: {answer.nearest})"
            )
            return Classification(UNKNOWN_CLUSTER, "none", 0.0, seen.hint_agrees, reason)
        reason = f"{learned.name} gives it {answer.probability:.0%}"
        agrees = self._table.agrees(given.task_type, answer.cluster)
        return Classification(answer.cluster, "learned", answer.probability, agrees, reason)
