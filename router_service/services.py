"""The composition root: everything one gateway process is made of, built from its settings and closed in order.

Nothing here decides anything about a call.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from observations.records import CatalogRecord, ContentMode
from observations.spending import ask_spending
from observations.spool import Spool, SpoolSettings
from observations.state import StatePaths, open_private
from observations.training_jobs import JobsReader
from policies.conduct import ConductBook
from policies.redaction import Redactor
from policies.redaction_policy import RedactionPolicy
from policies.verify import Verifier
from registry.catalog import Catalog
from registry.errors import EnvironmentFaultError, StorageError
from registry.loading import CatalogHolder, ReloadStatus
from registry.managed import MadeSpecialists
from registry.registrar import Registrar
from registry.watching import watch
from specialists.backends import BackendContext, make_backend
from specialists.embedder import hashing_embedder

from . import gauges, placement_view, replica_view
from .auth import Auth
from .belief_keeper import BeliefKeeper
from .belief_store import BeliefStore
from .beliefs import Beliefs
from .demoting import Demoter
from .exchange import Intake
from .found_clusters import FoundClustersKeeper
from .gateway import Gateway, Parts
from .job import Job
from .keys import KeyRing
from .learned_classifier import ClassifierKeeper
from .limits import Limits
from .loading import RecordLoader
from .log import get
from .metrics import Metrics
from .plans import PlanBook
from .policy_files import PolicyFiles, load_policies
from .recording import Recorder
from .roster import Roster
from .settings import Settings
from .shadowing import Mirror, ShadowParts
from .stage_audit import StageAudit
from .telemetry import Telemetry
from .upkeep import Upkeep
from .vectors import TextVectors

_log = get("services")
EMBEDDING_DIMENSION = 32


class Services:
    """The parts of one gateway. `start` and `stop` are called by the application's life span."""

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        environment = os.environ if environment is None else environment
        self.paths = StatePaths(settings.state).create()
        self.policies: PolicyFiles = load_policies(settings.policies)
        self._classifier = ClassifierKeeper(
            settings.classifier or self.paths.root / "classifier", self.policies.decisions.classifier
        )
        self._found = FoundClustersKeeper(
            self.paths.root / "clusters" / "clusters.json", self.policies.decisions.classifier
        )
        self._made = MadeSpecialists(self.paths.root)
        self.holder = CatalogHolder(settings.registry, environment, self._made)
        self.metrics = Metrics()
        self.keys = KeyRing.load(self.paths.root / "keys.json", loopback=settings.is_loopback)
        self._refuse_open_door()
        self.auth = Auth(self.keys, self.policies.access)
        self.intake = Intake(settings.max_body_bytes, settings.receive_timeout_s)
        self.limits = Limits(settings.max_in_flight, self.metrics)
        self.spool = Spool.open(
            self.paths.spool,
            SpoolSettings(segment_age_s=settings.segment_age_s, max_bytes=settings.spool_max_bytes),
        )
        self.recorder = Recorder(
            self.spool, warm_redactor(self.policies.redaction), hash_key(self.paths.root / "hash.key"), self.metrics
        )
        self._trainings = JobsReader(self.paths)
        self._audit = StageAudit(self.recorder.write)
        conduct = ConductBook()
        self.beliefs = Beliefs(self.policies.decisions.planner, TextVectors(hashing_embedder(EMBEDDING_DIMENSION)))
        self.telemetry = Telemetry(self.metrics, conduct, self.beliefs)
        context = BackendContext(state=self.paths.root, environment=environment)
        self.roster = Roster(self.holder.catalog, lambda entry: make_backend(entry, context), conduct, self.beliefs)
        store = BeliefStore(settings.beliefs or self.paths.root / "beliefs", settings.router_name)
        self._belief_keeper = BeliefKeeper(self.beliefs, store, self.roster)
        self.book = PlanBook(self.paths, settings.plans_kept)
        self._mirror = self._make_mirror()
        self._demoter = Demoter(Registrar(self.paths.root), self.policies.promotion.demotion, self.metrics)
        self.gateway = Gateway(
            Parts(
                roster=self.roster,
                policies=self.policies.decisions,
                recorder=self.recorder,
                telemetry=self.telemetry,
                book=self.book,
                limits=self.limits,
                beliefs=self.beliefs,
                mirror=self._mirror,
                demoter=self._demoter,
            ),
            require_record=settings.require_record,
        )
        self._loader = RecordLoader(self.paths) if settings.load_records else None
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def catalog(self) -> Catalog:
        """The catalog in force."""
        return self.holder.catalog

    def admit(self, job: Job) -> None:
        """Refuse a call that its caller may not make, or that nobody could answer as asked."""
        job.caller.tenant.check_model(job.model)
        self.gateway.check(job)
        self.limits.rate(job)

    def content_mode(self, tenant: str) -> ContentMode:
        """What may be kept of a tenant's calls."""
        return self.policies.access.tenant(tenant).content_mode

    async def start(self) -> None:
        """Start backends, the registry watch and the loader."""
        self._belief_keeper.recall()
        self._classifier.look()
        self._found.look()
        self.holder.subscribe(self.roster.follow)
        self.holder.subscribe(self._demoter.follow)
        self._report(self.holder.status)
        self._tasks = [
            asyncio.create_task(watch(self.holder, self.settings.reload_interval_s, self._report)),
            asyncio.create_task(Upkeep(self.roster, self._follow_moves).run()),
            asyncio.create_task(self._classifier.run(self.settings.reload_interval_s)),
            asyncio.create_task(self._found.run(self.settings.reload_interval_s)),
            asyncio.create_task(self._belief_keeper.run(self.settings.beliefs_interval_s)),
        ]
        if self._mirror is not None:
            self._tasks.append(asyncio.create_task(self._mirror.run()))
        if self.policies.access.has_budgets:
            await self._remember_spending()
        if self._loader is not None:
            await self._loader.start()

    async def stop(self) -> None:
        """Stop in reverse order; what is in the spool stays there until it is loaded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._belief_keeper.stop()
        await self.roster.close()
        self.spool.close()
        if self._loader is not None:
            await self._loader.stop()

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` shows: `ready`, `degraded` (calls are answered, something is wrong) or `unavailable`."""
        backends = {name: backend.health() for name, backend in self.roster.backends().items()}
        status = self.holder.status
        trouble = [f"backend {name}: {health.reason}" for name, health in backends.items() if not health.ok]
        trouble.extend(replica_view.troubles(self.roster))
        if not status.ok:
            trouble.append(f"registry: {status.error}")
        trouble.extend(status.left_out)
        if self._loader is not None and (stuck := self._loader.trouble()):
            trouble.append(f"loader: {stuck}")
        for name, keeper in (("classifier", self._classifier), ("found clusters", self._found)):
            if keeper.trouble:
                trouble.append(f"{name}: {keeper.trouble}")
        if self.keys.reload_error is not None:
            trouble.append(f"keys: {self.keys.reload_error}")
        state = "ready" if not trouble else "degraded"
        if not any(health.ok for health in backends.values()):
            state = "unavailable"
        return {
            "status": state,
            "trouble": trouble,
            "catalog": {"digest": status.digest, "ok": status.ok, "loaded_at_ms": status.loaded_at_ms},
            "backends": {name: {"ok": h.ok, "reason": h.reason} for name, h in backends.items()},
            "replicas": replica_view.shown(self.roster),
            "adapters": {n: list(a.ready_names()) for n, a in self.roster.adapter_sets().items() if a.wanted()},
            "placement": placement_view.shown(self.roster),
        }

    def sample_gauges(self) -> None:
        """Bring the gauges up to date; called when somebody reads them."""
        gauges.sample(self.metrics, self.roster, self.beliefs, self.spool)
        gauges.count_trainings(self.metrics, self._trainings)

    def _make_mirror(self) -> Mirror | None:
        if self.settings.shadow_share <= 0.0:
            return None
        verifier = Verifier(check_truncated_text=self.policies.decisions.planner.check_truncated_text)
        parts = ShadowParts(self.roster, verifier, self.recorder, self.beliefs, self.metrics)
        return Mirror(parts, self.settings.shadow_share, self.settings.shadow_max_in_flight)

    def _refuse_open_door(self) -> None:
        if not self.settings.is_loopback and not self.keys.has_keys():
            raise EnvironmentFaultError(
                f"Refusing to listen on {self.settings.host} without API keys: anyone who reaches it could spend "
                "your money. Make one with `journeyman keys add`, or listen on 127.0.0.1."
            )

    def _report(self, status: ReloadStatus) -> None:
        self.metrics.set("journeyman_registry_ok", value=float(status.ok))
        if status.reloads_total or status.failures_total:
            self.metrics.add("journeyman_registry_reloads_total", "taken" if status.ok else "refused")
        for line in status.left_out:
            _log.error("made specialists", reason=line)
        self._remember_catalog()
        if status.ok:
            _log.info("registry in force", digest=status.digest, warnings=list(status.warnings))
        else:
            _log.error("registry edit refused; the last good one stays in force", error=status.error)

    async def _remember_spending(self) -> None:
        """Charge what this month's calls have cost, so that a restart renews nobody's budget."""
        now_ms = int(time.time() * 1000)
        month = datetime.fromtimestamp(now_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        try:
            spent = await ask_spending(self.paths, int(month.timestamp() * 1000))
        except StorageError as error:
            _log.error("budgets start anew", reason=error.message)
            return
        for row in spent:
            self.limits.remember(self.policies.access.tenant(row.tenant), row, now_ms)

    def _remember_catalog(self) -> None:
        """Record what may answer from now on, once for each catalog."""
        catalog, now_ms = self.holder.catalog, int(time.time() * 1000)
        entries: list[dict[str, Any]] = msgspec.to_builtins([*catalog.file.models, *catalog.file.specialists])
        try:
            self.recorder.write(CatalogRecord(id=catalog.digest, at_ms=now_ms, digest=catalog.digest, models=entries))
        except StorageError as error:
            _log.error("record lost", digest=catalog.digest, reason=error.message)

    def _follow_moves(self) -> None:
        self._audit.follow(self._made.last.history)


def warm_redactor(policy: RedactionPolicy) -> Redactor:
    """A redactor that has compiled its patterns, so that no caller waits for it."""
    redactor = Redactor(policy)
    redactor.redact("Write to jane@example.org or call +49 30 901820, card 4111 1111 1111 1111, password: hunter2")
    return redactor


def hash_key(path: Path) -> bytes:
    """The secret under which prompts and end users are hashed; made once for each state folder."""
    try:
        fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(fd, "wb") as file:
        file.write(key := secrets.token_bytes(32))
    return key
