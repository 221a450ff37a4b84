"""The step `cluster` of a run: curated calls in, assignments and cards out, and the tasks made known to serving.

A kept model knows the tasks of earlier runs again; it is fitted anew when there is none that can be used, when too much
is new to it, when a task drifted, or on demand. Writes `assignments.jsonl` and `clusters.json` into the step's folder,
and under `<state>/clusters` publishes `clusters.json` with the model and what the next run matches against. It knows
files and runs; how tasks are found, named and described is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from observations.state import StatePaths, make_folder
from pipelines.cluster import ClusterOptions, Progress
from pipelines.cluster_cards import DAY_MS, ClusterFile, file_of, owned_signatures, telling_words
from pipelines.cluster_find import Found, assign_calls, extend, fit_model
from pipelines.cluster_identity import Calls, Identities, Known, Sketch, identify, pack_members, read_members
from pipelines.cluster_model import ClusterModel, load_model, options_digest, save_model
from pipelines.cluster_places import NOISE_NUMBER
from pipelines.cluster_source import CallFile, Heads
from pipelines.loop_rows import ASSIGNMENTS, CURATED, NOISE, Assignment, write_rows
from pipelines.run import Run, Step, sha256_of, write_atomically
from registry.errors import BadInputError, ConfigError
from registry.identifiers import digest_of

STEP: Final = "cluster"
CLUSTERS: Final = "clusters.json"
MEMBERS: Final = "members.npz"
MODEL: Final = "model"
DRIFT_ALERT: Final = 0.3
MAX_LAYERS: Final = 4
MOST_NEW: Final = 0.2
"""Share of calls that a kept model may not know, beyond what it took for noise when it was fitted."""
MOST_GROWTH: Final = 4
"""Times as many calls as it was fitted on."""
_VERSION: Final = 2
_NO_CALLS: Final[NDArray[np.uint64]] = np.empty(0, dtype=np.uint64)


class Clustering(Struct, frozen=True):
    """What a clustering of calls says."""

    file: ClusterFile
    found: Found
    """Its model knows the ids."""
    members: dict[str, NDArray[np.uint64]]


class History(Struct, frozen=True):
    """The run before."""

    known: tuple[Known, ...] = ()
    calls: NDArray[np.uint64] = _NO_CALLS
    """Digests of the ids of all its calls."""
    model: ClusterModel | None = None
    why: str = "there is none yet"
    """Why there is no model that can be used."""
    moved: dict[str, float] = {}
    """Tasks that are known to have drifted, and how far."""


def run_cluster(
    run: Run,
    state: StatePaths,
    options: ClusterOptions | None = None,
    drift_alert: float = DRIFT_ALERT,
    *,
    refit: bool = False,
) -> Step:
    """Do the step in an open run, unless it is done. Returns it. `refit` fits a model anew whatever is kept.

    Raises:
        BadInputError: the run has no curated calls, or too few.
        EnvironmentFaultError: hdbscan or scikit-learn is not installed.
    """
    options = options or ClusterOptions()
    curated = run.folder / "curate" / CURATED
    if not curated.is_file():
        raise BadInputError(f"{curated} is not there. Run `journeyman flywheel curate --run {run.run_id}` first.")
    wanted = digest_of([options_digest(options), drift_alert, refit])
    step = run.step(STEP, {"curated": sha256_of(curated), "options": wanted}, version=_VERSION)
    if step.done:
        run.progress(f"cluster: done already, in {step.folder}")
        return step
    history = published(state, options)
    if refit:
        history = replace(history, model=None, why="it was asked for")
    done = cluster_file(curated, options, history, drift_alert, run.progress)
    write_rows(step.folder / ASSIGNMENTS, assignments(curated, done))
    content = msgspec.json.format(msgspec.json.encode(done.file))
    write_atomically(step.folder / CLUSTERS, content)
    folder = make_folder(state.root / "clusters")
    save_model(folder / MODEL, done.found.model, options)
    write_atomically(folder / MEMBERS, pack_members(done.members))
    write_atomically(folder / CLUSTERS, content)
    step.finish([step.folder / ASSIGNMENTS, step.folder / CLUSTERS], facts_of(done.file))
    return step


def cluster_file(
    curated: Path,
    options: ClusterOptions,
    history: History,
    drift_alert: float = DRIFT_ALERT,
    progress: Progress = lambda _: None,
) -> Clustering:
    """Find, name and describe the tasks in a file of curated calls, by the model of the run before if that will do."""
    file = CallFile(curated)
    heads = file.heads()
    kept = _by_kept_model(file, heads, (options, history, drift_alert), progress)
    if isinstance(kept, Clustering):
        return kept
    progress(f"cluster: a model is fitted anew, since {kept.why}")
    found = assign_calls(file, heads, fit_model(file, heads, options, progress), progress)
    strayed = tuple(found.strayed.get(task, 0.0) for task in range(len(found.model.ids)))
    found = replace(found, model=replace(found.model, strayed=strayed))
    done = _named(found, replace(history, moved=kept.moved), drift_alert)
    return replace(done, file=replace(done.file, fitted="anew", why=kept.why))


def _by_kept_model(
    file: CallFile, heads: Heads, given: tuple[ClusterOptions, History, float], progress: Progress
) -> Clustering | _Refused:
    """Return what the kept model makes of the calls, or why it will not do."""
    options, history, drift_alert = given
    model = history.model
    if model is None:
        return _Refused(history.why)
    if len(heads) > MOST_GROWTH * model.fitted_calls:
        return _Refused(f"there are {len(heads)} calls, and it was fitted on {model.fitted_calls}")
    found = assign_calls(file, heads, model, progress)
    new_share = found.left_over / max(1, len(heads))
    if new_share > model.noise_share + MOST_NEW:
        return _Refused(f"{new_share:.0%} of the calls are new to it")
    if moved := _moved(found, drift_alert):
        return _Refused(f"calls of {', '.join(moved)} no longer look as they did", moved)
    extended = extend(file, found, options, progress)
    if len(extended.model.layers) > MAX_LAYERS:
        return _Refused(f"it has {MAX_LAYERS} layers, and there are new tasks")
    done = _named(extended, history, drift_alert)
    if alerted := [card.id for card in done.file.clusters if card.drift_alert]:
        return _Refused(f"{', '.join(alerted)} drifted by more than {drift_alert:g}")
    fitted = "kept" if extended is found else "extended"
    return replace(done, file=replace(done.file, fitted=fitted, why=""))


class _Refused(Struct, frozen=True):
    """Why the kept model will not do."""

    why: str
    moved: dict[str, float] = {}
    """By how much more the calls of a task stray than when the model was fitted."""


def _moved(found: Found, drift_alert: float) -> dict[str, float]:
    """Return the tasks whose agents' calls stray more than they did: known agents that now do something else."""
    model = found.model
    before = dict(enumerate(model.strayed))
    rises = {task: share - before.get(task, 0.0) for task, share in sorted(found.strayed.items())}
    return {model.ids[task]: round(rise, 4) for task, rise in rises.items() if rise > drift_alert}


def _named(found: Found, history: History, drift_alert: float) -> Clustering:
    """Give the tasks that have calls their ids, and describe them."""
    numbers = sorted(found.tallies)
    tallies = [found.tallies[number] for number in numbers]
    words, signatures = telling_words(tallies), owned_signatures(tallies)
    kept = [found.model.ids[number] for number in numbers]
    described = zip(tallies, words, signatures, kept, strict=True)
    sketches = [tally.sketch(telling, own, name) for tally, telling, own, name in described]
    calls = Calls(history.calls, np.sort(found.heads.ranks))
    identities = identify(sketches, history.known, calls, drift_alert)
    days = max(1.0, (found.window_ms[1] - found.window_ms[0]) / DAY_MS)
    drifts = {one.id: one for one in identities.drifts}
    cards = []
    for name, tally, telling, own in zip(identities.ids, tallies, words, signatures, strict=True):
        card = tally.card(name, telling, own, days)
        moved = drifts.get(name)
        if moved is not None:
            drift = max(moved.drift, history.moved.get(name, 0.0))
            card = replace(card, drift=drift, drift_alert=moved.alert or name in history.moved)
        cards.append(card)
    ids = list(found.model.ids)
    for number, name in zip(numbers, identities.ids, strict=True):
        ids[number] = name
    members = {name: sketch.members for name, sketch in zip(identities.ids, sketches, strict=True)}
    members[NOISE] = np.sort(found.heads.ranks[found.numbers == NOISE_NUMBER])
    found = replace(found, model=replace(found.model, ids=tuple(ids)))
    facts = {**_facts(found, identities), "drift_alert": any(card.drift_alert for card in cards)}
    return Clustering(file_of(cards, **facts), found, members)


def _facts(found: Found, identities: Identities) -> dict[str, object]:
    return {
        "calls": len(found.numbers),
        "noise": found.noise,
        "from_ms": found.window_ms[0],
        "until_ms": found.window_ms[1],
        "new": identities.new,
        "gone": identities.gone,
        "left_over": found.left_over,
    }


def assignments(curated: Path, done: Clustering) -> Iterator[Assignment]:
    """Yield which task each call belongs to, in the order of the calls."""
    found, ids = done.found, [*done.found.model.ids, NOISE]
    call_ids = CallFile(curated).call_ids()
    for number, strength, call_id in zip(found.numbers.tolist(), found.strengths.tolist(), call_ids, strict=True):
        yield Assignment(call_id, ids[number], round(strength, 4))


def published(state: StatePaths, options: ClusterOptions | None = None) -> History:
    """Return the clusters of the run before, as far as they can be read, and its model if it has the same options.

    Raises BadInputError for a damaged clusters.json. A model that cannot be used is no error: one is fitted anew.
    """
    path = state.root / "clusters" / CLUSTERS
    if not path.is_file():
        return History()
    members = read_members(path.with_name(MEMBERS))
    known = tuple(
        Known(card.id, Sketch(members.get(card.id, _NO_CALLS), frozenset(card.signatures), card.terms))
        for card in read_cluster_file(path).clusters
    )
    history = History(known, np.concatenate([_NO_CALLS, *members.values()]))
    try:
        return replace(history, model=load_model(path.with_name(MODEL), options or ClusterOptions()), why="")
    except ConfigError as error:
        return replace(history, why=f"the kept one cannot be used: {error.message}")


def read_cluster_file(path: Path) -> ClusterFile:
    """Return what a clusters.json says. Raises BadInputError naming the place and the mend."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterFile)
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}. Run `journeyman flywheel cluster` first.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a file of clusters ({error}). Move it away and cluster again.") from None


def facts_of(file: ClusterFile) -> dict[str, object]:
    """Return the figures of the step's manifest."""
    return {
        "clusters": len(file.clusters),
        "calls": file.calls,
        "noise": file.noise,
        "fitted": file.fitted,
        "why": file.why,
        "left_over": file.left_over,
        "new": list(file.new),
        "gone": list(file.gone),
        "drift_alerts": [card.id for card in file.clusters if card.drift_alert],
    }
