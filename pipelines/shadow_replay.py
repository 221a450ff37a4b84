"""Proves a specialist in shadow on recorded calls: asks it what its dataset held back, and records its answers.

The prompts, the reading and checking of answers and the threshold are the live ones; the base model is loaded in this
process, or its backend is asked where it has one of its own. The records go through a spool beside a running
gateway's, so promotion counts them as it counts mirrored calls. Knows nothing of gates.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.records import ShadowRecord
from observations.spool import Spool
from observations.state import StatePaths
from pipelines.asking import Ask, Asking, ask_each, backend_ask, canary_holds, engine_module, most_tokens
from pipelines.base_weights import weights_of
from pipelines.datasets import Dataset, DatasetStore
from pipelines.evaluation import Answered
from pipelines.render import Example
from pipelines.replayed_calls import Asked, ReplayRecorder, asked_before, load_recorded, origins_of
from pipelines.trials import step_began_ms
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.entries import BackendEntry, Prices, TemplateEntry
from registry.errors import BadInputError, EnvironmentFaultError, IntegrityError, JourneymanError, StorageError
from registry.manifest import SpecialistManifest
from registry.registrar import Registrar, find
from specialists.backend import Backend
from specialists.backends import BackendContext, make_backend

REPLAYED_IN: Final = ("shadow", "canary")
_MOST_TOKENS: Final = 512
_POLL_S: Final = 0.5
_QUIET_S: Final = 20.0
"""Progress is told every tenth of the calls, and at the latest after this long."""

Say = Callable[[str], None]
AskWith = Callable[[Asking], Ask]
Work = Callable[[AskWith], Awaitable[None]]


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """How much is asked, and how."""

    max_calls: int = 400
    timed: int = 80
    """Calls that are asked one after the other, for their latency; the rest are asked together and have none."""
    threads: int | None = None
    """Of the engine in this process."""
    wait_s: float = 60.0
    """How long a backend of its own may take until it serves the adapter."""


class ReplayReport(Struct, frozen=True, kw_only=True):
    """What a replay asked and what came of it."""

    specialist: str
    stage: str
    asked: int = 0
    waiting: int = 0
    """Held-back calls that it was not asked yet in this stage."""
    believed: int = 0
    agrees: int = 0
    """Answers that say what was served."""
    judged: int = 0
    """Calls on which there is a person's word."""
    right: int = 0
    """Of the judged."""
    reference_right: int = 0
    """Of the judged: what was served."""
    believed_wrong: int = 0
    """Of the judged."""
    latency_p50_ms: float | None = None
    """Of those that were asked one after the other."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def replay(
    state: StatePaths,
    catalog: Catalog,
    specialist_id: str,
    options: ReplayOptions | None = None,
    say: Say | None = None,
) -> ReplayReport:
    """Ask a specialist in shadow or canary the held-back calls that it was not asked since it came there.

    The records are in the store when it returns. A replay that was cut goes on where it was.

    Raises:
        NotFoundError: no such specialist or dataset.
        BadInputError: it stands in another stage, or its base model is not in the catalog.
        IntegrityError, StorageError: its files, its dataset or the record do not hold or cannot be used.
        EnvironmentFaultError: the engine's packages are missing, or the adapter is not served where it should be.
        BackendError: its backend does not answer.
    """
    options, say = options or ReplayOptions(), say or _silent
    began_s = time.monotonic()
    find(Registrar(state.root).history(), specialist_id)  # a wrong name or folder is told before anything is written
    load_recorded(state)
    subject = _subject(state, catalog, specialist_id)
    left = [one for one in subject.examples if one.call_id not in subject.asked.since]
    # Judged calls say most, so they come first; which those are does not depend on any answer.
    chosen = sorted(left, key=lambda one: (not one.is_judged, one.call_id))[: options.max_calls]
    records: list[ShadowRecord] = []
    if chosen:
        say(f"{subject.specialist}: asked {len(chosen)} of {len(left)} calls that its dataset holds back")
        records = _Replayer(state, subject, chosen, say).run(options)
    seconds = time.monotonic() - began_s
    return _report(subject, records, waiting=len(left) - len(records), seconds=seconds)


def replay_to_shadows(
    state: StatePaths, catalog: Catalog, options: ReplayOptions, say: Say
) -> tuple[ReplayReport, ...]:
    """Replay to every specialist in shadow, and return the reports of those that were asked anything.

    One that cannot be asked now is told, and waits for live calls. Raises IntegrityError, StorageError for a ledger
    that does not hold.
    """
    reports: list[ReplayReport] = []
    for specialist, now in Registrar(state.root).history().stages.items():
        if now.stage != "shadow":
            continue
        try:
            report = replay(state, catalog, specialist, options, say)
        except JourneymanError as error:
            say(f"{specialist}: nothing is replayed, {error.message}")
            continue
        if report.asked:
            reports.append(report)
    return tuple(reports)


class _Subject(Struct, frozen=True, kw_only=True):
    """A specialist on trial, and what it is to be asked."""

    specialist: str
    stage: str
    manifest: SpecialistManifest
    adapter: Path
    backend: BackendEntry
    weights: str
    prices: Prices
    template: TemplateEntry
    dataset: Dataset
    examples: tuple[Example, ...]
    """The whole part."""
    asked: Asked


def _subject(state: StatePaths, catalog: Catalog, specialist_id: str) -> _Subject:
    registrar = Registrar(state.root)
    history = registrar.history()
    specialist = find(history, specialist_id)
    stage = history.stages[specialist].stage
    if stage not in REPLAYED_IN:
        raise BadInputError(f"{specialist} is in the stage {stage}: calls are replayed to a shadow or canary alone.")
    manifest = registrar.check(specialist)
    dataset = DatasetStore(state.root).open(manifest.dataset)
    if dataset.sha256 != manifest.dataset_sha256.removeprefix("sha256:"):
        raise IntegrityError(f"{dataset.folder}: is not the dataset that {specialist} was trained on. Restore it.")
    weights = weights_of(catalog, manifest.base)
    base = catalog.models[manifest.base]
    return _Subject(
        specialist=specialist,
        stage=stage,
        manifest=manifest,
        adapter=ArtifactStore(registrar.paths.artifacts).path(manifest.adapter_digest),
        backend=catalog.backends[base.backend],
        weights=weights,
        prices=manifest.prices or base.prices,
        template=manifest.template or dataset.manifest.template,
        dataset=dataset,
        examples=tuple(dataset.rows("shadow")),
        asked=asked_before(state, specialist, step_began_ms(history, specialist)),
    )


class _Replayer:
    """One replay: asks, and writes a record with each answer."""

    def __init__(self, state: StatePaths, subject: _Subject, chosen: list[Example], say: Say) -> None:
        self._state = state
        self._subject = subject
        self._chosen = chosen
        self._say = say
        self._records: list[ShadowRecord] = []
        self._said_s = time.monotonic()
        self._recorder = ReplayRecorder(
            specialist=subject.specialist,
            cluster=subject.dataset.manifest.cluster,
            template=subject.template,
            shapes=subject.dataset.shapes(),
            threshold=subject.manifest.confidence_threshold,
            prices=subject.prices,
            asked=subject.asked,
            origins=origins_of(state, [one.call_id for one in chosen]),
        )

    def run(self, options: ReplayOptions) -> list[ShadowRecord]:
        """Ask every chosen example and return what was recorded. What was answered before a fault is kept."""
        spool = Spool.open(self._state.spool)
        try:
            if self._subject.backend.kind == "embedded":
                self._in_engine(self._work(options, spool), options.threads)
            else:
                asyncio.run(self._in_backend(self._work(options, spool), options.wait_s))
        finally:
            spool.close()
            load_recorded(self._state)
        return self._records

    def _in_engine(self, work: Work, threads: int | None) -> None:
        module, subject = engine_module(), self._subject
        spec = module.EngineSpec(subject.weights, subject.specialist, subject.adapter, threads)
        with module.engine_of(spec, self._say) as engine:

            async def ask_engine() -> None:
                engine.start()
                await work(lambda asking: module.engine_ask(engine, asking))

            asyncio.run(ask_engine())

    async def _in_backend(self, work: Work, wait_s: float) -> None:
        backend = make_backend(self._subject.backend, BackendContext(self._state.root, os.environ))
        await backend.start()
        try:
            await _until_served(backend, self._subject.specialist, wait_s)
            await work(lambda asking: backend_ask(backend, asking))
        finally:
            await backend.close()

    def _work(self, options: ReplayOptions, spool: Spool) -> Work:
        subject = self._subject

        def told(number: int, answered: Answered) -> None:
            self._keep(spool, self._recorder.record(self._chosen[number], answered))

        async def work(ask_with: AskWith) -> None:
            # By the whole part, so that a replay that goes on asks as the one before it.
            asking = Asking(subject.specialist, subject.template, most_tokens(subject.examples, _MOST_TOKENS))
            canary = subject.manifest.canary
            if canary is not None and not await canary_holds(ask_with, asking, canary):
                raise EnvironmentFaultError(
                    f"{subject.specialist} does not decode its canary here to the text that its manifest holds, so its "
                    "answers would not be those of a gateway. Check the base model's weights (registry.yaml)."
                )
            prompts = [one.prompt for one in self._chosen]
            await ask_each(ask_with(asking), subject.template, prompts, options.timed, told)

        return work

    def _keep(self, spool: Spool, record: ShadowRecord) -> None:
        if not spool.append(record):
            raise StorageError(f"The spool {self._state.spool} is full: let `journeyman serve` or a loader empty it.")
        self._records.append(record)
        done, total = len(self._records), len(self._chosen)
        is_quiet = time.monotonic() - self._said_s >= _QUIET_S
        if is_quiet or done * 10 // total > (done - 1) * 10 // total:
            self._said_s = time.monotonic()
            self._say(f"{self._subject.specialist}: {done} of {total} calls replayed")


async def _until_served(backend: Backend, specialist: str, wait_s: float) -> None:
    """Wait for the gateway to have loaded the adapter. Raises EnvironmentFaultError, BackendError."""
    ends_s = time.monotonic() + wait_s
    while specialist not in await backend.served_models():
        if time.monotonic() >= ends_s:
            raise EnvironmentFaultError(
                f"The backend {backend.entry.name!r} does not serve {specialist}: start the gateway on this state, "
                "which loads the adapters of shadows there, and replay again."
            )
        await asyncio.sleep(_POLL_S)


def _report(subject: _Subject, records: list[ShadowRecord], *, waiting: int, seconds: float) -> ReplayReport:
    judged = [one for one in records if one.right is not None]
    latencies = [one.latency_ms for one in records if one.latency_ms is not None]
    return ReplayReport(
        specialist=subject.specialist,
        stage=subject.stage,
        asked=len(records),
        waiting=waiting,
        believed=sum(one.outcome == "verified" for one in records),
        agrees=sum(one.agrees is True for one in records),
        judged=len(judged),
        right=sum(one.right is True for one in judged),
        reference_right=sum(one.reference_right is True for one in judged),
        believed_wrong=sum(one.outcome == "verified" and one.right is False for one in judged),
        latency_p50_ms=median(latencies) if latencies else None,
        seconds=seconds,
    )


def _silent(_line: str) -> None:
    """Say nothing."""
