"""Who could answer now: the catalog's models and specialists with what is live about them, and their backends.

Follows the catalog: backends whose entry did not change keep their connections and breakers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import structs

from policies.bandit import Belief, Context
from policies.conduct import ConductBook, Speed
from policies.confidence_book import ACCEPT_NOTHING
from policies.constraints import prompt_tokens
from policies.contenders import Contender, contenders_of
from policies.plan import Candidate, TaskFeatures
from registry.catalog import AUTO, Catalog
from registry.entries import BackendEntry, SpecialistEntry
from specialists.adapters import AdapterSet
from specialists.backend import Backend, Health
from specialists.placed import PlacedBackend
from specialists.replicas import ReplicatedBackend
from specialists.server_adapters import Canary

from .beliefs import Beliefs
from .lulls import Lulls

UNMEASURED_FRONTIER: Final = 0.95
"""P(right) of the frontier where nobody has measured it: it is what the others are measured by."""

WEIGHTS: Final = {"active": 1.0, "canary": 0.5, "shadow": 0.25}
"""What a call counts for a specialist of a stage, where not all adapters fit."""
LEAST_WEIGHT: Final = 0.1
"""For one that only stands by."""

MakeBackend = Callable[[BackendEntry], Backend]


class Roster:
    """Contenders and backends of the current catalog."""

    def __init__(self, catalog: Catalog, make_backend: MakeBackend, conduct: ConductBook, beliefs: Beliefs) -> None:
        self._make_backend = make_backend
        self._conduct = conduct
        self._beliefs = beliefs
        self._backends: dict[str, Backend] = {}
        self._adapters: dict[str, AdapterSet] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self.lulls = Lulls()
        """Told of every call that is made for a caller."""
        self.follow(catalog)

    def follow(self, catalog: Catalog) -> None:
        """Take over a catalog: make new backends, retire those that are gone or changed."""
        before = self._backends
        kept = {n: b for n, b in before.items() if n in catalog.backends and self._stays(b, catalog.backends[n])}
        self._backends = {name: kept.get(name) or self._made(entry) for name, entry in catalog.backends.items()}
        self.catalog = catalog
        file = catalog.file
        self.contenders = {c.name: c for c in contenders_of(file.models, file.specialists, file.defaults.frontier)}
        self._adapters = {name: self._adapter_set(name, catalog) for name in self._backends}
        specialists = [c for c in self.contenders.values() if c.candidate.kind == "specialist"]
        self._placed = [
            (backend, [one for one in specialists if one.backend == name])
            for name, backend in self._backends.items()
            if isinstance(backend, PlacedBackend)
        ]
        for name, backend in before.items():
            if name not in kept:
                self._retire(backend)

    def _stays(self, backend: Backend, entry: BackendEntry) -> bool:
        """Whether a backend is that of an entry; one of which only the list of replicas was edited takes that over."""
        if isinstance(backend, ReplicatedBackend | PlacedBackend) and backend.can_follow(entry):
            for gone in backend.follow(entry):
                self._retire(gone)
        return backend.entry == entry

    def _made(self, entry: BackendEntry) -> Backend:
        backend = self._make_backend(entry)
        return backend if entry.resident_limit is None else PlacedBackend(backend)

    def _adapter_set(self, name: str, catalog: Catalog) -> AdapterSet:
        backend = self._backends[name]
        here = [s for s in catalog.file.specialists if catalog.models[s.base].backend == name and _loads(s)]
        wanted = {s.id: s.adapter for s in here}
        canaries = {s.id: Canary(s.canary.prompt, s.canary.text, s.canary.max_tokens) for s in here if s.canary}
        if isinstance(backend, PlacedBackend):
            backend.compete(wanted, {s.id: WEIGHTS.get(s.stage, LEAST_WEIGHT) for s in here}, canaries)
            return backend.adapters
        known = self._adapters.get(name)
        adapters = known if known is not None and known.backend is backend else AdapterSet(backend)
        adapters.want(wanted, canaries)
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

    def candidates(
        self, features: TaskFeatures, context: Context, cluster: str, now_ms: int, asked_for: str = AUTO
    ) -> list[Candidate]:
        """Every contender as the planner should see it now, for one call for `auto` or a resolved name."""
        health = {name: backend.health() for name, backend in self._backends.items()}
        contenders = list(self.contenders.values())
        self._count_demand(features, cluster, asked_for)
        names = [contender.name for contender in contenders]
        qualities = self._beliefs.qualities(names, context, [self._prior(c, cluster) for c in contenders])
        lengths = self._beliefs.output_tokens(names, context)
        return [
            structs.replace(
                self._live(contender, cluster, health[contender.backend], now_ms),
                quality=belief.mean,
                quality_sd=belief.sd,
                evidence=belief.evidence,
                trials=self._conduct.trials(contender.name, cluster),
                expected_cost_usd=_expected_cost(contender.candidate, features, length),
            )
            for contender, belief, length in zip(contenders, qualities, lengths, strict=True)
        ]

    def _count_demand(self, features: TaskFeatures, cluster: str, asked_for: str) -> None:
        """Where not all adapters may fit: count this call for those that could answer it, loaded or not."""
        for backend, specialists in self._placed:
            names = [
                one.name
                for one in specialists
                if (_suits(one, features, cluster) if asked_for == AUTO else one.name == asked_for)
            ]
            if names:
                backend.asked(names)

    def beliefs_in(self, cluster: str) -> dict[str, Belief]:
        """What is believed of each contender in a cluster, whatever the call's words."""
        contenders = list(self.contenders.values())
        priors = [self._prior(contender, cluster) for contender in contenders]
        names = [contender.name for contender in contenders]
        return dict(zip(names, self._beliefs.qualities(names, self._beliefs.middle_of(cluster), priors), strict=True))

    def _prior(self, contender: Contender, cluster: str) -> float | None:
        """What is known before any traffic: the calibration's word, else the registry's; None: unmeasured."""
        calibration = self._beliefs.confidence.calibration(contender.name)
        if calibration is not None and calibration.quality_if_believed is not None:
            return calibration.quality_if_believed
        unmeasured = UNMEASURED_FRONTIER if contender.candidate.is_frontier else None
        return contender.scores.get(cluster, contender.scores.get("*", unmeasured))

    def threshold(self, contender: Contender) -> float | None:
        """The least confidence that is believed now; None: confidence is not checked."""
        if contender.candidate.kind != "specialist":
            return contender.threshold
        return self._beliefs.confidence.threshold(contender.name, contender.threshold)

    def _p_believed(self, contender: Contender, cluster: str) -> float:
        if self.threshold(contender) == ACCEPT_NOTHING:
            return 0.0
        calibration = self._beliefs.confidence.calibration(contender.name)
        prior = None if calibration is None else calibration.p_believed
        return self._conduct.p_believed(contender.name, cluster, prior)

    def _live(self, contender: Contender, cluster: str, health: Health, now_ms: int) -> Candidate:
        fixed = contender.candidate
        healthy, reason, load_ms = health.ok, health.reason, 0.0
        if healthy and fixed.kind == "specialist":
            healthy, reason, load_ms = self._adapter_state(contender)
        rate, calls = self._conduct.formatting(fixed.name, now_ms)
        known = Speed(fixed.first_token_ms, fixed.tokens_per_s)
        speed = self._conduct.speed(fixed.name, known, now_ms) or known
        return structs.replace(
            fixed,
            first_token_ms=speed.first_token_ms,
            tokens_per_s=speed.tokens_per_s,
            p_believed=self._p_believed(contender, cluster),
            load_ms=load_ms,
            healthy=healthy,
            health_reason=reason,
            formatting_error_rate=rate,
            formatting_calls=calls,
        )

    def _adapter_state(self, contender: Contender) -> tuple[bool, str, float]:
        """Whether a specialist's adapter is to be had, why not, and how long a call would wait for it (ms)."""
        backend = self._backends[contender.backend]
        if isinstance(backend, PlacedBackend):
            load_ms = backend.load_ms(contender.name)
            return (True, "", load_ms) if load_ms is not None else (False, backend.why_not(contender.name), 0.0)
        if self._adapters[contender.backend].ready(contender.name):
            return True, "", 0.0
        return False, "its adapter is not loaded yet", 0.0

    def sharpened(self, features: TaskFeatures, cluster: str) -> TaskFeatures:
        """The features with the length that answers in this cluster usually have, once that is known."""
        usual = self._conduct.output_tokens(self.catalog.frontier.model_name, cluster)
        if usual is None:
            return features
        return structs.replace(features, expected_output_tokens=min(usual, features.max_tokens))

    async def close(self) -> None:
        """Close every backend."""
        await asyncio.gather(*(backend.close() for backend in self._backends.values()), *self._retired)


def _expected_cost(candidate: Candidate, features: TaskFeatures, output_tokens: float | None) -> float | None:
    """What its usual length costs; None while that is not known."""
    if output_tokens is None:
        return None
    length = min(output_tokens, float(features.max_tokens))
    return candidate.prices.cost_usd(prompt_tokens(candidate, features), length)


def _suits(specialist: Contender, features: TaskFeatures, cluster: str) -> bool:
    """Whether a call is of a specialist's task, and of the form that it was trained for."""
    candidate = specialist.candidate
    return cluster in candidate.clusters and candidate.template_signature in (None, features.signature)


def _loads(specialist: SpecialistEntry) -> bool:
    return specialist.standby or specialist.stage not in ("candidate", "deprecated")
