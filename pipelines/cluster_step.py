"""The step `cluster` of a run: curated calls in, assignments and cards out, and the tasks made known to serving.

Writes `assignments.jsonl` and `clusters.json` into the step's folder and publishes `clusters.json`, with what the next
run matches against, under `<state>/clusters`. It knows files and runs; how tasks are found, named and described is
done elsewhere.
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
from pipelines.cluster import NOISE_NUMBER, ClusterOptions, Found, Progress, find_clusters, rank_of
from pipelines.cluster_cards import DAY_MS, ClusterCard, ClusterFile, Tally, file_of, owned_signatures, telling_words
from pipelines.cluster_identity import Calls, Drift, Identities, Known, Sketch, identify, pack_members, read_members
from pipelines.loop_rows import ASSIGNMENTS, CURATED, NOISE, Assignment, CuratedCall, read_rows, write_rows
from pipelines.run import Run, Step, sha256_of, write_atomically
from registry.errors import BadInputError
from registry.identifiers import digest_of

STEP: Final = "cluster"
CLUSTERS: Final = "clusters.json"
MEMBERS: Final = "members.npz"
DRIFT_ALERT: Final = 0.3
_VERSION: Final = 1
_NO_CALLS: Final[NDArray[np.uint64]] = np.empty(0, dtype=np.uint64)


class Clustering(Struct, frozen=True):
    """What a clustering of calls says."""

    file: ClusterFile
    found: Found
    ids: tuple[str, ...]
    members: dict[str, NDArray[np.uint64]]


class History(Struct, frozen=True):
    """The run before."""

    known: tuple[Known, ...] = ()
    calls: NDArray[np.uint64] = _NO_CALLS
    """Digests of the ids of all its calls."""


def run_cluster(
    run: Run, state: StatePaths, options: ClusterOptions | None = None, drift_alert: float = DRIFT_ALERT
) -> Step:
    """Do the step in an open run, unless it is done. Returns it.

    Raises:
        BadInputError: the run has no curated calls, or too few.
        EnvironmentFaultError: hdbscan or scikit-learn is not installed.
    """
    options = options or ClusterOptions()
    curated = run.folder / "curate" / CURATED
    if not curated.is_file():
        raise BadInputError(f"{curated} is not there. Run `journeyman flywheel curate --run {run.run_id}` first.")
    inputs = {"curated": sha256_of(curated), "options": digest_of([msgspec.to_builtins(options), drift_alert])}
    step = run.step(STEP, inputs, version=_VERSION)
    if step.done:
        run.progress(f"cluster: done already, in {step.folder}")
        return step
    done = cluster_file(curated, options, published(state), drift_alert, run.progress)
    write_rows(step.folder / ASSIGNMENTS, assignments(curated, done))
    content = msgspec.json.format(msgspec.json.encode(done.file))
    write_atomically(step.folder / CLUSTERS, content)
    folder = make_folder(state.root / "clusters")
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
    """Find, name and describe the tasks in a file of curated calls."""
    found = find_clusters(lambda: read_rows(curated, CuratedCall), options, progress)
    tallies = [Tally() for _ in range(found.clusters)]
    window = [2**62, 0]
    ranks = np.empty(len(found.numbers), dtype=np.uint64)
    for at, call in enumerate(read_rows(curated, CuratedCall)):
        window = [min(window[0], call.at_ms), max(window[1], call.at_ms)]
        ranks[at] = rank = rank_of(call.call_id)
        if found.numbers[at] != NOISE_NUMBER:
            tallies[found.numbers[at]].add(call, rank)
    progress("cluster: cards are counted")
    words, signatures = telling_words(tallies), owned_signatures(tallies)
    sketches = [tally.sketch(*texts) for tally, *texts in zip(tallies, words, signatures, strict=True)]
    identities = identify(sketches, history.known, Calls(history.calls, np.sort(ranks)), drift_alert)
    days = max(1.0, (window[1] - window[0]) / DAY_MS)
    described = zip(identities.ids, tallies, words, signatures, strict=True)
    cards = [tally.card(name, telling, own, days) for name, tally, telling, own in described]
    return Clustering(
        file=_file(cards, identities, found, window),
        found=found,
        ids=identities.ids,
        members={
            NOISE: np.sort(ranks[found.numbers == NOISE_NUMBER]),
            **{name: sketch.members for name, sketch in zip(identities.ids, sketches, strict=True)},
        },
    )


def assignments(curated: Path, done: Clustering) -> Iterator[Assignment]:
    """Yield which task each call belongs to, in the order of the calls."""
    calls = read_rows(curated, CuratedCall)
    for number, strength, call in zip(done.found.numbers, done.found.strengths, calls, strict=True):
        name = NOISE if number == NOISE_NUMBER else done.ids[number]
        yield Assignment(call.call_id, name, round(float(strength), 4))


def published(state: StatePaths) -> History:
    """Return the clusters of the run before, as far as they can be read. Raises BadInputError for a damaged file."""
    path = state.root / "clusters" / CLUSTERS
    if not path.is_file():
        return History()
    members = read_members(path.with_name(MEMBERS))
    known = tuple(
        Known(card.id, Sketch(members.get(card.id, _NO_CALLS), frozenset(card.signatures), card.terms))
        for card in read_cluster_file(path).clusters
    )
    return History(known, np.concatenate([_NO_CALLS, *members.values()]))


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
        "new": list(file.new),
        "gone": list(file.gone),
        "drift_alerts": [card.id for card in file.clusters if card.drift_alert],
    }


def _file(cards: list[ClusterCard], identities: Identities, found: Found, window: list[int]) -> ClusterFile:
    drifts: dict[str, Drift] = {one.id: one for one in identities.drifts}
    known = [
        replace(card, drift=drifts[card.id].drift, drift_alert=drifts[card.id].alert) if card.id in drifts else card
        for card in cards
    ]
    return file_of(
        known,
        calls=len(found.numbers),
        noise=int((found.numbers == NOISE_NUMBER).sum()),
        from_ms=window[0],
        until_ms=window[1],
        new=identities.new,
        gone=identities.gone,
        drift_alert=any(one.alert for one in identities.drifts),
    )
