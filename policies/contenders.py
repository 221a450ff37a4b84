"""What is fixed about everybody who could answer, from the registry's entries: live serving and replay build it alike.

Knows nothing of health, beliefs or clocks, which are added to `Contender.candidate` for each decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from registry.entries import ModelEntry, Prices, SpecialistEntry, TemplateEntry

from .plan import Candidate


class Contender(Struct, frozen=True):
    """What is fixed about a candidate under one catalog."""

    name: str
    upstream: str
    backend: str
    prices: Prices
    scores: dict[str, float]
    """Cluster or `*` to measured quality."""
    candidate: Candidate
    template: TemplateEntry | None = None
    threshold: float | None = None
    """Least sum of log-probabilities that is believed."""


def contenders_of(
    models: Sequence[ModelEntry], specialists: Iterable[SpecialistEntry], frontier: str
) -> list[Contender]:
    """Return a contender for every model, then for every specialist, in the registry's order.

    `frontier` is a `model_name`. Raises KeyError for a specialist whose base is none of the models; a registry that was
    loaded has none.
    """
    bases = {entry.model_name: entry for entry in models}
    made = [_of_model(entry, is_frontier=entry.model_name == frontier) for entry in models]
    return made + [_of_specialist(entry, bases[entry.base]) for entry in specialists]


def entries_of(snapshot: Iterable[dict[str, Any]]) -> tuple[list[ModelEntry], list[SpecialistEntry]]:
    """Return the entries of a recorded catalog snapshot, which are models and specialists in one list.

    Raises msgspec.ValidationError for an entry that this program does not know.
    """
    models: list[ModelEntry] = []
    specialists: list[SpecialistEntry] = []
    for entry in snapshot:
        if "model_name" in entry:
            models.append(msgspec.convert(entry, ModelEntry))
        else:
            specialists.append(msgspec.convert(entry, SpecialistEntry))
    return models, specialists


def _of_model(entry: ModelEntry, *, is_frontier: bool) -> Contender:
    return Contender(
        name=entry.model_name,
        upstream=entry.upstream_name or entry.model_name,
        backend=entry.backend,
        prices=entry.prices,
        scores=entry.eval_scores,
        candidate=Candidate(
            name=entry.model_name,
            kind="model",
            backend=entry.backend,
            stage="active",
            safety_grade=entry.safety_grade,
            context_len=entry.context_len,
            prices=entry.prices,
            clusters=entry.supported_clusters,
            tools=entry.tools,
            response_formats=entry.response_formats,
            first_token_ms=entry.first_token_ms,
            tokens_per_s=entry.max_tokens_per_s,
            quality=0.0,
            is_frontier=is_frontier,
        ),
    )


def _of_specialist(entry: SpecialistEntry, base: ModelEntry) -> Contender:
    template = entry.template
    prices = entry.prices or base.prices
    return Contender(
        name=entry.id,
        upstream=entry.id,
        backend=base.backend,
        prices=prices,
        scores=entry.eval_scores,
        template=template,
        threshold=entry.confidence_threshold,
        candidate=Candidate(
            name=entry.id,
            kind="specialist",
            backend=base.backend,
            stage=entry.stage,
            safety_grade=entry.safety_grade or base.safety_grade,
            context_len=base.context_len,
            prices=prices,
            clusters=entry.clusters,
            tools=template is not None or base.tools,
            response_formats=template is not None or base.response_formats,
            first_token_ms=base.first_token_ms,
            tokens_per_s=base.max_tokens_per_s,
            quality=0.0,
            share=entry.share,
            template_signature=template.signature if template else None,
            uses_template=template is not None,
        ),
    )
