"""The fitted model that clusters are known again by: layers of what samples taught, kept as numbers under a digest.

The first layer is fitted on a whole run's sample; a later one on what the layers before it did not know. Their clusters
are tasks with ids that stay. Kept are the words of prompts, answers' keys and words that recur in users' texts; labels
of answers, calls and agents only as 64 bits of a digest. It knows calls and arrays; not how a layer is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.cluster import ClusterOptions, Layer
from pipelines.cluster_features import FeatureModel
from pipelines.cluster_nearest import References
from pipelines.cluster_places import NOISE_NUMBER, unit_of
from pipelines.cluster_space import TokenSpace
from pipelines.loop_rows import CuratedCall
from registry.errors import ConfigError
from registry.identifiers import digest_of
from specialists.embedder import Embedder, HashingEmbedder, TextEmbedder, Vocabulary
from specialists.model_folder import ModelFolder, pack, read, write
from specialists.words import WORDS_VERSION

KIND: Final = "task-clusters"
_TOKENS_VERSION: Final = 1
"""Raised when calls are cut into other tokens: a model fitted before says nothing of them."""
_SPACES: Final = ("fixed", "form")

Arrays = dict[str, NDArray[Any]]


class ClusterModel(Struct, frozen=True):
    """Layers, and the tasks that their clusters are."""

    layers: tuple[Layer, ...]
    tasks: tuple[tuple[int, ...], ...]
    """For each layer, the task's number of each of its clusters."""
    ids: tuple[str, ...]
    """Of each task; "" for one that was not named yet."""
    fitted_calls: int
    """Calls of the run that fitted the first layer."""
    noise_share: float
    """Of those, belonging to no task."""
    strayed: tuple[float, ...] = ()
    """Of each task that the first layer found: the share of calls which alone, without their agent, go elsewhere."""

    def assign(
        self, calls: Sequence[CuratedCall], agents: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the task's number (-1 for none) and the strength of each call; `agents`: `agent_of` each.

        Calls of an agent that belongs to one task whole go by that, the others one by one. An earlier layer goes first.
        """
        units = [unit_of(call, agent) for call, agent in zip(calls, agents, strict=True)]
        numbers = np.full(len(calls), NOISE_NUMBER, dtype=np.int32)
        for layer, tasks in zip(self.layers, self.tasks, strict=True):
            numbers = np.where(numbers == NOISE_NUMBER, _tasks_of(layer.settled(units), tasks), numbers)
        strengths = (numbers != NOISE_NUMBER).astype(np.float32)
        open_ones = np.flatnonzero(numbers == NOISE_NUMBER)
        if len(open_ones):
            numbers[open_ones], strengths[open_ones] = self.nearest([calls[at] for at in open_ones.tolist()])
        return numbers, strengths

    def nearest(self, calls: Sequence[CuratedCall]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the same, each call by itself whatever its agent."""
        numbers = np.full(len(calls), NOISE_NUMBER, dtype=np.int32)
        strengths = np.zeros(len(calls), dtype=np.float32)
        for layer, tasks in zip(self.layers, self.tasks, strict=True):
            open_ones = np.flatnonzero(numbers == NOISE_NUMBER)
            if len(open_ones):
                found, strengths[open_ones] = layer.nearest([calls[at] for at in open_ones.tolist()])
                numbers[open_ones] = _tasks_of(found, tasks)
        return numbers, strengths


def _tasks_of(clusters: NDArray[np.int32], tasks: Sequence[int]) -> NDArray[np.int32]:
    return np.array([*tasks, NOISE_NUMBER], dtype=np.int32)[clusters]


def save_model(folder: Path, model: ClusterModel, options: ClusterOptions) -> None:
    """Write the model into the folder, over an older one: a reader sees the one or the other. Raises StorageError."""
    arrays: Arrays = {}
    layers = []
    for at, (layer, tasks) in enumerate(zip(model.layers, model.tasks, strict=True)):
        facts, own = _packed_layer(layer)
        layers.append({**facts, "tasks": list(tasks)})
        arrays.update({f"{at}.{name}": array for name, array in own.items()})
    facts = {
        "options": options_digest(options),
        "ids": list(model.ids),
        "fitted_calls": model.fitted_calls,
        "noise_share": model.noise_share,
        "strayed": list(model.strayed),
        "layers": layers,
    }
    write(folder, *pack(KIND, facts, arrays))


def load_model(folder: Path, options: ClusterOptions) -> ClusterModel:
    """Read the model and prove it whole.

    Raises ConfigError that says why it cannot be used: none there, damaged, or fitted with other options.
    """
    stored = read(folder, KIND)
    facts = stored.manifest.facts
    if facts.get("options") != options_digest(options):
        raise ConfigError(f"{folder}: fitted with other options or by another version.")
    try:
        return _unpacked(stored, options)
    except (KeyError, IndexError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{folder}: not a model of clusters: {error!r}.") from error


def options_digest(options: ClusterOptions) -> str:
    """Return the digest of all that a model depends on besides the calls."""
    return digest_of([msgspec.to_builtins(options), WORDS_VERSION, _TOKENS_VERSION])


def _unpacked(stored: ModelFolder, options: ClusterOptions) -> ClusterModel:
    facts = stored.manifest.facts
    layers = []
    for at, own in enumerate(facts["layers"]):
        start = f"{at}."
        arrays = {name.removeprefix(start): one for name, one in stored.arrays.items() if name.startswith(start)}
        layers.append(_unpacked_layer(own, arrays, options))
    return ClusterModel(
        layers=tuple(layers),
        tasks=tuple(tuple(map(int, own["tasks"])) for own in facts["layers"]),
        ids=tuple(map(str, facts["ids"])),
        fitted_calls=int(facts["fitted_calls"]),
        noise_share=float(facts["noise_share"]),
        strayed=tuple(map(float, facts["strayed"])),
    )


def _packed_layer(layer: Layer) -> tuple[dict[str, Any], Arrays]:
    features, places = layer.features, layer.references
    embedder_facts, arrays = _packed_embedder(features.embedder)
    arrays["labels"] = np.array(list(features.labels), dtype=np.uint64)
    arrays["label_places"] = np.array([*features.labels.values()], dtype=np.float32).reshape(len(features.labels), -1)
    if features.axes is not None:
        arrays["axes"] = features.axes
    rarest = {}
    for name, space in zip(_SPACES, (features.fixed, features.form), strict=True):
        arrays[f"{name}_tokens"] = _as_bytes(space.tokens)
        arrays[f"{name}_idf"], arrays[f"{name}_rows"] = space.idf, space.rows
        rarest[name] = space.rarest
    arrays["references"], arrays["reference_clusters"] = places.vectors, places.numbers
    arrays["units"] = np.array(list(layer.units), dtype=np.uint64)
    arrays["unit_clusters"] = np.array(list(layer.units.values()), dtype=np.int32)
    facts = {
        "embedder": embedder_facts,
        "rarest": rarest,
        "distance": places.distance,
        "least_known": layer.least_known,
        "clusters": layer.clusters,
    }
    return facts, arrays


def _unpacked_layer(facts: dict[str, Any], arrays: Arrays, options: ClusterOptions) -> Layer:
    spaces = [
        TokenSpace(
            msgspec.json.decode(arrays[f"{name}_tokens"].tobytes(), type=list[str]),
            arrays[f"{name}_idf"],
            arrays[f"{name}_rows"],
            float(facts["rarest"][name]),
        )
        for name in _SPACES
    ]
    labels = dict(zip(arrays["labels"].tolist(), arrays["label_places"], strict=True))
    embedder = _unpacked_embedder(facts["embedder"], arrays)
    features = FeatureModel((spaces[0], spaces[1]), embedder, labels, arrays.get("axes"), options.features)
    return Layer(
        features=features,
        references=References(arrays["references"], arrays["reference_clusters"], float(facts["distance"])),
        units=dict(zip(arrays["units"].tolist(), arrays["unit_clusters"].tolist(), strict=True)),
        least_known=float(facts["least_known"]),
        clusters=int(facts["clusters"]),
    )


def _packed_embedder(embedder: Embedder) -> tuple[dict[str, Any], Arrays]:
    if isinstance(embedder, HashingEmbedder):
        return {"hashed": embedder.dimension}, {}
    return {"fitted": embedder.facts}, {f"text_{name}": array for name, array in embedder.arrays().items()}


def _unpacked_embedder(facts: dict[str, Any], arrays: Arrays) -> Embedder:
    if "hashed" in facts:
        return HashingEmbedder(int(facts["hashed"]))
    words = arrays["text_words"].tobytes().decode().split("\n")
    vocabulary = Vocabulary(words, arrays["text_pairs"])
    return TextEmbedder(vocabulary, arrays["text_idf"], arrays["text_components"], facts["fitted"])


def _as_bytes(tokens: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(msgspec.json.encode(tokens), dtype=np.uint8)
