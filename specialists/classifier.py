"""Which cluster a text belongs to, learned from recorded calls, with a calibrated `unknown`. numpy alone.

Evidence: the words under each cluster's naive Bayes, the embedding under a linear discriminant, and the likeness of the
agent's fixed part where it is shown. They are mixed into a posterior over the known clusters; then a logistic model
of how good that fit is says P(unknown), calibrated on clusters that were left out of a fit (pipelines/fit_classifier).
Immutable: the name carries the digest. Knows nothing of signatures, tables or policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import ConfigError
from registry.identifiers import UNKNOWN_CLUSTER

from .contexts import ContextModel, Fixed
from .embedder import TextEmbedder
from .lexical import LexicalModel, LexicalScore
from .model_folder import ModelFolder, pack, read, read_manifest, write

CLASSIFIER_KIND: Final = "cluster-classifier"

SIGNS: Final = (
    "log_probability",
    "margin",
    "gain_per_root",
    "gain_per_feature",
    "gain",
    "seen_words",
    "known_words",
    "seen_pairs",
    "energy",
    "likeness",
)
"""What P(unknown) is computed from: how well the best cluster fits, more is better. `likeness` is 0 when hidden."""


class Mixture(Struct, frozen=True):
    """How the evidence is added up: weights of log-likelihoods, chosen by cross-validated likelihood."""

    lexical: float = 2.0
    embedding: float = 0.1
    likeness: float = 10.0
    length_power: float = 0.0
    """The words' sum is divided by the number of features to this power: naive Bayes is overconfident on long texts."""


class UnknownHead(Struct, frozen=True):
    """P(unknown) = logistic(bias + weights · (signs - mean) / scale); above `threshold` the answer is `unknown`."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float

    def probability(self, signs: NDArray[np.float64]) -> float:
        """Return P(unknown) for one text's signs."""
        total = self.bias
        for value, mean, scale, weight in zip(signs.tolist(), self.mean, self.scale, self.weights, strict=True):
            total += weight * min(max((value - mean) / scale, -_FAR), _FAR)
        return 1.0 / (1.0 + math.exp(-min(max(total, -50.0), 50.0)))


class Settings(Struct, frozen=True):
    """The few numbers beside the arrays."""

    clusters: tuple[str, ...]
    mixture: Mixture
    hidden: UnknownHead
    """For a text alone."""
    shown: UnknownHead
    """For a text with its agent's fixed part."""


class Posterior(Struct, frozen=True):
    """The answer for one call."""

    cluster: str
    """The most probable cluster, or `unknown` when that is likelier than the operating threshold allows."""
    probability: float
    """Of the answer: P(known) x P(cluster | known), or P(unknown)."""
    unknown_probability: float
    runner_up: str
    """The second most probable cluster; "" when there is only one."""
    nearest: str
    """The most probable cluster, whatever the answer."""


class Parts(Struct, frozen=True):
    """The evidence for one call, before it is weighed."""

    words: LexicalScore
    word_count: int
    known_share: float
    energy: float
    discriminants: NDArray[np.float64]
    likeness: NDArray[np.float64] | None
    """None when the fixed part is hidden."""


class Evidence(Struct, frozen=True):
    """The evidence weighed: P(cluster | known) and the signs of the best cluster."""

    probabilities: NDArray[np.float64]
    best: int
    signs: NDArray[np.float64]


class Models(Struct, frozen=True):
    """The arrays of a classifier, by what they are for."""

    embedder: TextEmbedder
    lexical: LexicalModel
    contexts: ContextModel
    discriminant: NDArray[Any]
    """Shape (clusters, dimension + 1); the last column is the constant."""


class LearnedClassifier:
    """The second stage. A call takes a few hundred microseconds; safe to share between threads."""

    def __init__(self, models: Models, settings: Settings, facts: dict[str, Any]) -> None:
        self._models = models
        self._discriminant = np.ascontiguousarray(models.discriminant[:, :-1], dtype=np.float32)
        self._constant = models.discriminant[:, -1].astype(np.float64)
        self.settings = settings
        self.facts = facts
        """What it was fitted on and how well it did: the fit's report."""
        self.digest = ""
        """sha256 of the whole artifact; "" for one that was never saved or loaded."""

    @property
    def name(self) -> str:
        """Version string with the digest."""
        return f"classifier:sha256:{self.digest[:12] or 'unsaved'}"

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters it can name."""
        return self.settings.clusters

    @property
    def embedder(self) -> TextEmbedder:
        """The embedder inside it, for those who want the same vector."""
        return self._models.embedder

    @classmethod
    def load(cls, folder: Path) -> LearnedClassifier:
        """Read a classifier and prove it whole. Raises ConfigError naming the place and the mend."""
        return _of_model(read(folder, CLASSIFIER_KIND), str(folder))

    def save(self, folder: Path) -> str:
        """Write the classifier into the folder, over an older one, and return its digest. Raises StorageError."""
        models = self._models
        arrays = {f"embedder.{name}": value for name, value in models.embedder.arrays().items()}
        arrays |= {f"lexical.{name}": value for name, value in models.lexical.arrays().items()}
        arrays |= {f"contexts.{name}": value for name, value in models.contexts.arrays().items()}
        arrays["discriminant"] = models.discriminant.astype(np.float32)
        facts = {
            "embedder": models.embedder.facts,
            "settings": msgspec.to_builtins(self.settings),
            "fit": self.facts,
        }
        manifest, data = pack(CLASSIFIER_KIND, facts, arrays)
        write(folder, manifest, data)
        self.digest = manifest.digest
        return manifest.digest

    def posterior(
        self, text: str, system: str = "", tool_names: Sequence[str] = (), json_keys: Sequence[str] = ()
    ) -> Posterior:
        """Return the cluster of a call. With neither system prompt, tools nor keys it goes by the text alone.

        `json_keys` are the top-level keys of the answer that the call asks for (`contexts.json_keys_of`).
        """
        fixed = Fixed(system, tuple(tool_names), tuple(json_keys))
        return self.judge(self.parts(text, fixed))

    def judge(self, parts: Parts) -> Posterior:
        """Return the answer that the evidence gives."""
        seen = self.weigh(parts)
        head = self.settings.hidden if parts.likeness is None else self.settings.shown
        unknown = head.probability(seen.signs) if parts.words.count or parts.likeness is not None else 1.0
        nearest, runner_up = self.clusters[seen.best], self._second(seen)
        if unknown > head.threshold:
            return Posterior(UNKNOWN_CLUSTER, unknown, unknown, runner_up, nearest)
        sure = float(seen.probabilities[seen.best]) * (1.0 - unknown)
        return Posterior(nearest, sure, unknown, runner_up, nearest)

    def parts(self, text: str, fixed: Fixed) -> Parts:
        """Return the evidence for a call."""
        embedder = self._models.embedder
        reading = embedder.read(text)
        projection = embedder.project_reading(reading)
        return Parts(
            words=self._models.lexical.score(reading.features),
            word_count=reading.word_count,
            known_share=reading.known_share,
            energy=projection.energy,
            discriminants=self._discriminant @ projection.vector.astype(np.float32) + self._constant,
            likeness=self._models.contexts.likeness(fixed) if fixed else None,
        )

    def weigh(self, parts: Parts) -> Evidence:
        """Return P(cluster | known) and the signs of the best one."""
        logits = logits_of(parts, self.settings.mixture)
        best = int(np.argmax(logits))
        odds = np.exp(logits - logits[best])
        probabilities = odds / odds.sum()
        return Evidence(probabilities, best, _signs(parts, best, probabilities))

    def _second(self, seen: Evidence) -> str:
        if len(self.clusters) < 2:
            return ""
        others = seen.probabilities.copy()
        others[seen.best] = -1.0
        return self.clusters[int(np.argmax(others))]


def digest_at(folder: Path) -> str:
    """Return the digest of the classifier in a folder, from its manifest alone, to see a change. Raises ConfigError."""
    return read_manifest(folder, CLASSIFIER_KIND).digest


def logits_of(parts: Parts, mixture: Mixture) -> NDArray[np.float64]:
    """Return the weighed evidence of each cluster, up to a constant."""
    per_word = mixture.lexical / max(parts.words.count, 1) ** mixture.length_power
    logits: NDArray[np.float64] = per_word * parts.words.sums + mixture.embedding * parts.discriminants
    if parts.likeness is not None:
        logits = logits + mixture.likeness * parts.likeness
    return logits


_FAR: Final = 8.0
"""Signs further out than anything seen in the fit say no more than this many deviations do."""


def _signs(parts: Parts, best: int, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    words = parts.words
    gain = float(words.sums[best])
    count = max(words.count, 1)
    mine = words.hit_clusters == best
    seen_words = int(np.count_nonzero(words.hit_is_word & mine))
    seen_pairs = int(np.count_nonzero(mine)) - seen_words
    unknown_words = parts.word_count * (1.0 - parts.known_share)
    looked_at = max(words.words + unknown_words, 1.0)
    top = float(probabilities[best])
    second = float(np.partition(probabilities, -2)[-2]) if len(probabilities) > 1 else 0.0
    return np.array(
        [
            math.log(max(top, 1e-12)),
            top - second,
            gain / math.sqrt(count),
            gain / count,
            gain,
            seen_words / looked_at,
            parts.known_share,
            min(seen_pairs / looked_at, 1.0),
            parts.energy,
            float(parts.likeness[best]) if parts.likeness is not None else 0.0,
        ]
    )


def _of_model(model: ModelFolder, where: str) -> LearnedClassifier:
    facts, arrays = model.manifest.facts, model.arrays
    try:
        settings = msgspec.convert(facts["settings"], Settings, strict=False)
        inner = msgspec.structs.replace(model.manifest, facts=facts["embedder"])
        embedder = TextEmbedder.of_model(ModelFolder(inner, _under("embedder.", arrays)), where)
        models = Models(
            embedder=embedder,
            lexical=LexicalModel(_under("lexical.", arrays), embedder.word_count),
            contexts=ContextModel(_under("contexts.", arrays), len(settings.clusters)),
            discriminant=arrays["discriminant"],
        )
        made = LearnedClassifier(models, settings, facts["fit"])
        made.digest = model.manifest.digest
        made.posterior("a first call, to see that the arrays fit together", "system")
    except (KeyError, IndexError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{where}: not a classifier: {error!r}. Fit it again.") from None
    return made


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
