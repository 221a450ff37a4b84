"""Who could answer now: the catalog's models and specialists with what is live about them, and their backends.

Follows the catalog: backends whose entry did not change keep their connections and breakers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, structs

from policies.plan import Candidate, TaskFeatures
from policies.quality import QualityBook, Speed
from registry.catalog import Catalog
from registry.entries import BackendEntry, ModelEntry, Prices, SpecialistEntry, TemplateEntry
from specialists.adapters import AdapterSet
from specialists.backend import Backend, Health

MakeBackend = Callable[[BackendEntry], Backend]


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


class Roster:
    """Contenders and backends of the current catalog."""

    def __init__(self, catalog: Catalog, make_backend: MakeBackend, quality: QualityBook) -> None:
        self._make_backend = make_backend
        self._quality = quality
        self._backends: dict[str, Backend] = {}
        self._adapters: dict[str, AdapterSet] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self.follow(catalog)

    def follow(self, catalog: Catalog) -> None:
        """Take over a catalog: make new backends, retire those that are gone or changed."""
        before = self._backends
        kept = {n: b for n, b in before.items() if catalog.backends.get(n) == b.entry}
        self._backends = {name: kept.get(name) or self._make_backend(entry) for name, entry in catalog.backends.items()}
        self.catalog = catalog
        self.contenders = {c.name: c for c in _contenders(catalog)}
        self._adapters = {name: self._adapter_set(name, catalog) for name in self._backends}
        for name, backend in before.items():
            if name not in kept:
                self._retire(backend)

    def _adapter_set(self, name: str, catalog: Catalog) -> AdapterSet:
        backend = self._backends[name]
        known = self._adapters.get(name)
        adapters = known if known is not None and known.backend is backend else AdapterSet(backend)
        adapters.want(
            {s.id: s.adapter for s in catalog.file.specialists if catalog.models[s.base].backend == name and _loads(s)}
        )
        return adapters

    def _retire(self, backend: Backend) -> None:
        try:
            task = asyncio.get_running_loop().create_task(backend.close())
        except RuntimeError:
            return
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def backends(self) -> dict[str, Backend]:
        """Every backend by name."""
        return self._backends

    def adapter_sets(self) -> dict[str, AdapterSet]:
        """The wanted and loaded adapters of each backend."""
        return self._adapters

    def candidates(self, cluster: str, now_ms: int) -> list[Candidate]:
        """Every contender as the planner should see it now, for one cluster."""
        health = {name: backend.health() for name, backend in self._backends.items()}
        return [self._live(c, cluster, health[c.backend], now_ms) for c in self.contenders.values()]

    def _live(self, contender: Contender, cluster: str, health: Health, now_ms: int) -> Candidate:
        fixed = contender.candidate
        healthy, reason = health.ok, health.reason
        if healthy and fixed.kind == "specialist" and not self._adapters[contender.backend].ready(fixed.name):
            healthy, reason = False, "its adapter is not loaded yet"
        prior = contender.scores.get(cluster, contender.scores.get("*", 0.95 if fixed.is_frontier else None))
        rate, calls = self._quality.formatting(fixed.name, now_ms)
        known = Speed(fixed.first_token_ms, fixed.tokens_per_s)
        speed = self._quality.speed(fixed.name, known, now_ms) or known
        return structs.replace(
            fixed,
            first_token_ms=speed.first_token_ms,
            tokens_per_s=speed.tokens_per_s,
            quality=self._quality.quality(fixed.name, cluster, prior),
            p_believed=self._quality.p_believed(fixed.name, cluster),
            healthy=healthy,
            health_reason=reason,
            formatting_error_rate=rate,
            formatting_calls=calls,
        )

    def sharpened(self, features: TaskFeatures, cluster: str) -> TaskFeatures:
        """The features with the length that answers in this cluster usually have, once that is known."""
        usual = self._quality.output_tokens(self.catalog.frontier.model_name, cluster)
        if usual is None:
            return features
        return structs.replace(features, expected_output_tokens=min(usual, features.max_tokens))

    async def close(self) -> None:
        """Close every backend."""
        await asyncio.gather(*(backend.close() for backend in self._backends.values()), *self._retired)


def _loads(specialist: SpecialistEntry) -> bool:
    return specialist.stage not in ("candidate", "deprecated")


def _contenders(catalog: Catalog) -> list[Contender]:
    frontier = catalog.file.defaults.frontier
    models = [_of_model(m, is_frontier=m.model_name == frontier) for m in catalog.file.models]
    return models + [_of_specialist(s, catalog.base_of(s)) for s in catalog.file.specialists]


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
            template_signature=template.signature if template else None,
            uses_template=template is not None,
        ),
    )
