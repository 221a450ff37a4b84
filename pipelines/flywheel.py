"""One turn of the loop: from recorded traffic to specialists in shadow, and on from there as far as evidence goes.

curate, cluster and propose work on a run of their own; each proposed task then has a run in which it is trained and
evaluated. Whatever was finished is skipped when the turn is made again. Knows the order of the steps, not their work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.state import StatePaths
from observations.store import open_reader
from pipelines.base_weights import weights_of
from pipelines.curate import CurateOptions, curate
from pipelines.datasets import Dataset, DatasetStore
from pipelines.promote import Look, look_at_all
from pipelines.propose import PROPOSALS, ProposedTask, load_proposal_policy, read_proposals, run_propose
from pipelines.register import ACTOR, register
from pipelines.run import RUNS, Run
from pipelines.shadow_replay import ReplayOptions, ReplayReport, replay_to_shadows
from pipelines.training_config import make_config
from policies.promotion import PromotionPolicy
from registry.catalog import Catalog
from registry.errors import BadInputError, IntegrityError, NotFoundError
from registry.registrar import Note, Registrar

Say = Callable[[str], None]
_WAIT_S: Final = 30.0


class TurnOptions(Struct, frozen=True, kw_only=True):
    """How a turn is made."""

    run_id: str | None = None
    """The run to go on with; None begins one."""
    proposals: Path | None = None
    """A proposals.yaml; the shipped one when None."""
    exclude: tuple[Path, ...] = ()
    """Files of evaluation inputs that nothing is learnt from."""
    promotion: PromotionPolicy = msgspec.field(default_factory=PromotionPolicy)
    preset: str = "balanced"
    max_examples: int | None = None
    """Most examples that one training looks at."""
    max_tasks: int = 8
    """Most specialists made in one turn, those that save most first."""
    min_cluster_calls: int = 20
    threads: int | None = None
    replay: bool = True
    """Whether specialists in shadow are asked the recorded calls that their datasets hold back."""


class Made(Struct, frozen=True, kw_only=True):
    """What became of one proposed task."""

    task: str
    description: str
    specialist: str = ""
    dataset: str = ""
    exact: float | None = None
    """Share of held-out examples that it had right, all answers counted."""
    coverage: float | None = None
    """Share that its threshold believes."""
    seconds: float = 0.0
    """Of training."""
    why_not: str = ""


class Turn(Struct, frozen=True, kw_only=True):
    """What a turn brought."""

    run: str
    curated: int
    tasks: int
    proposed: int
    made: tuple[Made, ...]
    looks: tuple[Look, ...]
    replays: tuple[ReplayReport, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def turn(state: StatePaths, catalog: Catalog, options: TurnOptions | None = None, say: Say | None = None) -> Turn:
    """Make one turn. A task that cannot be made into a specialist is told, and the others go on.

    Raises:
        NotFoundError: nothing was recorded yet.
        StorageError: the record cannot be read, or another turn works on this run.
        EnvironmentFaultError: a package of the extras `pipelines`, `engine` or `training` is missing.
    """
    options = options or TurnOptions()
    open_reader(state, _WAIT_S).close()  # a wrong folder is named before a run is begun in it
    with Run.open(state.root / RUNS, options.run_id, say) as run:
        kept, tasks, proposed = _find(state, catalog, run, options)
        made = tuple(_make(state, catalog, run, task, options) for task in proposed[: options.max_tasks])
        asking = ReplayOptions(threads=options.threads)
        replays = replay_to_shadows(state, catalog, asking, run.progress) if options.replay else ()
        looks = tuple(look_at_all(state, options.promotion))
        counts = {"curated": kept, "tasks": tasks, "proposed": len(proposed)}
        return Turn(run=run.run_id, made=made, looks=looks, replays=replays, **counts)


def _find(
    state: StatePaths, catalog: Catalog, run: Run, options: TurnOptions
) -> tuple[int, int, tuple[ProposedTask, ...]]:
    """Curate, cluster, propose. Return calls kept, tasks found, and the tasks proposed."""
    from pipelines.cluster import ClusterOptions  # noqa: PLC0415  numpy, scikit-learn and hdbscan, when they are needed
    from pipelines.cluster_step import run_cluster  # noqa: PLC0415

    curated = curate(state, run, CurateOptions(exclude=options.exclude))
    run_cluster(run, state, ClusterOptions(min_cluster_calls=options.min_cluster_calls))
    step = run_propose(run, catalog, load_proposal_policy(options.proposals))
    file = read_proposals(step.folder / PROPOSALS)
    return curated.report.kept, len(file.tasks), file.proposed


def _make(state: StatePaths, catalog: Catalog, run: Run, task: ProposedTask, options: TurnOptions) -> Made:
    """Train, evaluate and register one task's specialist, and send it into shadow."""
    cluster, base = task.verdict.task, task.verdict.base
    made = Made(task=cluster, description=task.description)
    try:
        dataset = _dataset(state, run, cluster)
        known = specialist_of(Registrar(state.root), dataset, run.progress)
        if known is not None:
            return msgspec.structs.replace(made, specialist=known, dataset=dataset.uri, why_not="made already")
        if base is None:
            raise BadInputError(f"No base model may carry {cluster}.")
        return _train(state, run, made, (dataset, base, weights_of(catalog, base)), options)
    except (BadInputError, NotFoundError) as error:
        run.progress(f"{cluster}: no specialist, {error.message}")
        return msgspec.structs.replace(made, why_not=error.message)


def _dataset(state: StatePaths, run: Run, cluster: str) -> Dataset:
    from pipelines.train_command import build_dataset  # noqa: PLC0415

    dataset = build_dataset(DatasetStore(state.root), run.folder, cluster)
    run.progress(f"{cluster}: dataset {dataset.uri}")
    return dataset


def _train(state: StatePaths, run: Run, made: Made, what: tuple[Dataset, str, str], options: TurnOptions) -> Made:
    from pipelines.train_command import evaluate_step, train_step  # noqa: PLC0415

    dataset, base, weights = what
    # What the task's run says goes through the turn's, which would else take the long work for a stall.
    with Run.open(state.root / RUNS, f"{run.run_id}.{made.task}"[:80], run.progress) as own:
        given = {"max_examples": options.max_examples, "threads": options.threads}
        config = make_config(
            options.preset,
            training_data_path=str(dataset.folder),
            output_dir=str(own.folder / "train"),
            base_model=weights,
            **{name: value for name, value in given.items() if value is not None},
        )
        trained = train_step(own, config)
        evaluated = evaluate_step(own, DatasetStore(state.root), {"threads": options.threads, "base_examples": 10})
        registrar = Registrar(state.root)
        specialist = register(registrar, own.folder, dataset, base)
    registrar.promote(specialist, Note(ACTOR, "to be compared with what is served"), "shadow")
    threshold = evaluated.facts["threshold"]
    return msgspec.structs.replace(
        made,
        specialist=specialist,
        dataset=dataset.uri,
        exact=evaluated.facts["specialist"]["exact"]["share"],
        coverage=0.0 if threshold["threshold"] is None else threshold["coverage"],
        seconds=trained.facts["seconds"],
    )


def specialist_of(registrar: Registrar, dataset: Dataset, say: Say) -> str | None:
    """Return the specialist that was made of just this dataset, unless it was retired or does not hold any more.

    Raises StorageError when the ledger or a file cannot be read.
    """
    for specialist, now in registrar.history().stages.items():
        if now.stage == "deprecated":
            continue
        try:
            manifest = registrar.check(specialist)
        except IntegrityError as error:
            say(f"{specialist}: passed over, {error.message}")
            continue
        if manifest.dataset_sha256 == dataset.sha256:
            return specialist
    return None
