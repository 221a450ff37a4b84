"""Assigns a file of calls to tasks: by a model that is there, by one fitted anew, and by both where something is new.

Each call is decoded once for its assignment and its card; a fit looks at a sample. So time and memory grow about
linearly: of each call stay some fifty bytes. It knows files of calls and models; ids are given elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from pipelines.cluster import ClusterOptions, Progress, fit_layer
from pipelines.cluster_cards import Tally
from pipelines.cluster_model import ClusterModel
from pipelines.cluster_places import NOISE_NUMBER
from pipelines.cluster_source import CallFile, Heads, choose_sample, in_batches
from pipelines.loop_rows import CuratedCall
from registry.errors import BadInputError

_LOOKED_AT: Final = 4_000
_LEAST_LOOKED_AT: Final = 20
_CONTEXT_SHARE: Final = 0.25
"""Of the sample of a later layer: calls that are known, so that it sees what is new among what is not."""


class Found(Struct, frozen=True):
    """What was found in a file. Call i has the task `numbers[i]` (-1 for none) and `strengths[i]` in 0..1."""

    model: ClusterModel
    heads: Heads
    numbers: NDArray[np.int32]
    strengths: NDArray[np.float32]
    tallies: dict[int, Tally]
    """Of each task that has a call."""
    window_ms: tuple[int, int]
    left_over: int
    """Calls that the model did not know before it was extended."""
    strayed: dict[int, float]
    """Of the tasks of which enough calls were looked at: the share that alone, without their agent, goes elsewhere."""

    @property
    def noise(self) -> int:
        """Calls of no task."""
        return int((self.numbers == NOISE_NUMBER).sum())


def fit_model(file: CallFile, heads: Heads, options: ClusterOptions, progress: Progress) -> ClusterModel:
    """Fit a model of one layer on a sample of all calls.

    Raises:
        BadInputError: fewer calls than a cluster needs.
        EnvironmentFaultError: hdbscan or scikit-learn is not installed.
    """
    if len(heads) < options.min_cluster_calls:
        raise BadInputError(
            f"{len(heads)} calls are too few to find tasks in: a cluster needs {options.min_cluster_calls}."
            " Record more traffic or lower --min-calls."
        )
    chosen = choose_sample(heads.agents, heads.ranks, options.sample)
    progress(f"cluster: a model is fitted on {int(chosen.sum())} of {len(heads)} calls")
    taught = fit_layer(list(file.at(heads.offsets[chosen])), options)
    clusters = taught.layer.clusters
    progress(f"cluster: {clusters} tasks in the sample")
    noise = float((taught.numbers == NOISE_NUMBER).mean())
    return ClusterModel((taught.layer,), (tuple(range(clusters)),), ("",) * clusters, len(heads), noise)


def assign_calls(file: CallFile, heads: Heads, model: ClusterModel, progress: Progress) -> Found:
    """Assign every call by the model, and count the cards."""
    numbers = np.full(len(heads), NOISE_NUMBER, dtype=np.int32)
    strengths = np.zeros(len(heads), dtype=np.float32)
    tallies: dict[int, Tally] = {}
    strays = _Strays(model, len(heads))
    first, last, done, told = 2**62, 0, 0, 0
    for batch in file.batches():
        here = slice(done, done + len(batch))
        numbers[here], strengths[here] = model.assign(batch, heads.agents[here].tolist())
        _count(tallies, batch, numbers[here], heads.ranks[here])
        strays.look(batch, numbers[here], heads.ranks[here])
        first, last = min(first, *(one.at_ms for one in batch)), max(last, *(one.at_ms for one in batch))
        done += len(batch)
        if done * 10 // len(heads) > told:
            told = done * 10 // len(heads)
            progress(f"cluster: {done} of {len(heads)} calls assigned")
    left_over = int((numbers == NOISE_NUMBER).sum())
    return Found(model, heads, numbers, strengths, tallies, (first, last), left_over, strays.shares())


class _Strays:
    """Looks at some thousand calls by themselves: an agent that is known may have begun to do something else."""

    def __init__(self, model: ClusterModel, calls: int) -> None:
        self._model = model
        self._every = max(1, calls // _LOOKED_AT)
        self._looked: Counter[int] = Counter()
        self._strayed: Counter[int] = Counter()

    def look(self, batch: Sequence[CuratedCall], numbers: NDArray[np.int32], ranks: NDArray[np.uint64]) -> None:
        chosen = np.flatnonzero((ranks % np.uint64(self._every) == 0) & (numbers != NOISE_NUMBER))
        if len(chosen):
            alone, _ = self._model.nearest([batch[at] for at in chosen.tolist()])
            self._looked.update(numbers[chosen].tolist())
            self._strayed.update(numbers[chosen][alone != numbers[chosen]].tolist())

    def shares(self) -> dict[int, float]:
        return {
            task: self._strayed[task] / looked for task, looked in self._looked.items() if looked >= _LEAST_LOOKED_AT
        }


def extend(file: CallFile, found: Found, options: ClusterOptions, progress: Progress) -> Found:
    """Fit a further layer on what is left over and a sample of the rest. Returns `found` itself if that finds nothing.

    A cluster of the layer that is mostly calls of a known task is that task; another is a new one.
    """
    heads, left = found.heads, found.numbers == NOISE_NUMBER
    if int(left.sum()) < options.min_cluster_calls:
        return found
    context = int(options.sample * _CONTEXT_SHARE)
    chosen = np.sort(np.concatenate((_some(heads, left, options.sample - context), _some(heads, ~left, context))))
    progress(f"cluster: {int(left.sum())} calls are new to the model; a layer is fitted on them and {context} others")
    taught = fit_layer(list(file.at(heads.offsets[chosen])), options)
    gained = int(((taught.numbers != NOISE_NUMBER) & left[chosen]).sum())
    if gained < options.min_cluster_calls:
        return found
    tasks, new = _named(taught.numbers, found.numbers[chosen], taught.layer.clusters, len(found.model.ids))
    model = replace(
        found.model,
        layers=(*found.model.layers, taught.layer),
        tasks=(*found.model.tasks, tasks),
        ids=(*found.model.ids, *("",) * new),
    )
    alone = replace(model, layers=(taught.layer,), tasks=(tasks,))
    return _of_left_over(file, replace(found, model=model), alone, np.flatnonzero(left))


def _of_left_over(file: CallFile, found: Found, layer: ClusterModel, left: NDArray[np.int64]) -> Found:
    numbers, strengths, tallies = found.numbers.copy(), found.strengths.copy(), found.tallies
    done = 0
    for batch in in_batches(file.at(found.heads.offsets[left])):
        here = left[done : done + len(batch)]
        numbers[here], strengths[here] = layer.assign(batch, found.heads.agents[here].tolist())
        _count(tallies, batch, numbers[here], found.heads.ranks[here])
        done += len(batch)
    return replace(found, numbers=numbers, strengths=strengths)


def _named(
    clusters: NDArray[np.int32], known: NDArray[np.int32], count: int, next_task: int
) -> tuple[tuple[int, ...], int]:
    """Return the task of each cluster of a new layer, and how many of them are new.

    `clusters` and `known` say of each call of the sample what the layer and the model before take it for.
    """
    tasks, new = [], 0
    for cluster in range(count):
        votes = Counter(known[clusters == cluster].tolist()).most_common(1)
        task = votes[0][0] if votes else NOISE_NUMBER
        is_new = task == NOISE_NUMBER
        tasks.append(next_task + new if is_new else int(task))
        new += is_new
    return tuple(tasks), new


def _some(heads: Heads, among: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    places = np.flatnonzero(among)
    return places[choose_sample(heads.agents[places], heads.ranks[places], size)]


def _count(
    tallies: dict[int, Tally], batch: Sequence[CuratedCall], numbers: NDArray[np.int32], ranks: NDArray[np.uint64]
) -> None:
    for call, number, rank in zip(batch, numbers.tolist(), ranks.tolist(), strict=True):
        if number != NOISE_NUMBER:
            tally = tallies.get(number)
            if tally is None:
                tally = tallies[number] = Tally()
            tally.add(call, rank)
