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
from registry.catalog import Catalog
from registry.entries import BackendEntry, SpecialistEntry
from specialists.adapters import AdapterSet
from specialists.backend import Backend, Health
from specialists.replicas import ReplicatedBackend
from specialists.server_adapters import Canary

from .beliefs import Beliefs

UNMEASURED_FRONTIER: Final = 0.95
"""P(right) of the frontier where nobody has measured it: it is what the others are measured by."""

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
        self.follow(catalog)

    def follow(self, catalog: Catalog) -> None:
        """Take over a catalog: make new backends, retire those that are gone or changed."""
        before = self._backends
        kept = {n: b for n, b in before.items() if n in catalog.backends and self._stays(b, catalog.backends[n])}
        self._backends = {name: kept.get(name) or self._make_backend(entry) for name, entry in catalog.backends.items()}
        self.catalog = catalog
        file = catalog.file
        self.contenders = {c.name: c for c in contenders_of(file.models, file.specialists, file.defaults.frontier)}
        self._adapters = {name: self._adapter_set(name, catalog) for name in self._backends}
        for name, backend in before.items():
            if name not in kept:
                self._retire(backend)

    def _stays(self, backend: Backend, entry: BackendEntry) -> bool:
        """Whether a backend is that of an entry; one of which only the list of replicas was edited takes that over."""
        if isinstance(backend, ReplicatedBackend) and backend.can_follow(entry):
            for gone in backend.follow(entry):
                self._retire(gone)
        return backend.entry == entry

    def _adapter_set(self, name: str, catalog: Catalog) -> AdapterSet:
        backend = self._backends[name]
        known = self._adapters.get(name)
        adapters = known if known is not None and known.backend is backend else AdapterSet(backend)
        here = [s for s in catalog.file.specialists if catalog.models[s.base].backend == name and _loads(s)]
        canaries = {s.id: Canary(s.canary.prompt, s.canary.text, s.canary.max_tokens) for s in here if s.canary}
        adapters.want({s.id: s.adapter for s in here}, canaries)
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

    def candidates(self, features: TaskFeatures, context: Context, cluster: str, now_ms: int) -> list[Candidate]:
        """Every contender as the planner should see it now, for one call."""
        health = {name: backend.health() for name, backend in self._backends.items()}
        contenders = list(self.contenders.values())
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
        healthy, reason = health.ok, health.reason
        if healthy and fixed.kind == "specialist" and not self._adapters[contender.backend].ready(fixed.name):
            healthy, reason = False, "its adapter is not loaded yet"
        rate, calls = self._conduct.formatting(fixed.name, now_ms)
        known = Speed(fixed.first_token_ms, fixed.tokens_per_s)
        speed = self._conduct.speed(fixed.name, known, now_ms) or known
        return structs.replace(
            fixed,
            first_token_ms=speed.first_token_ms,
            tokens_per_s=speed.tokens_per_s,
            p_believed=self._p_believed(contender, cluster),
            healthy=healthy,
            health_reason=reason,
            formatting_error_rate=rate,
            formatting_calls=calls,
        )

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


def _loads(specialist: SpecialistEntry) -> bool:
    return specialist.standby or specialist.stage not in ("candidate", "deprecated")
