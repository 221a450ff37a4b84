"""When a learned classifier's answer is `unknown`: calibrated on clusters that each fold's fit has never seen.

For each fold, calls held out of a fit of all clusters say what known calls look like, and the calls of clusters left
out of another fit (vocabulary, weights and all) what unknown ones do. Everything that is chosen (mixture, weights,
threshold) is chosen on these; the figures reported come from folds that the figure's own model did not see.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from pipelines.classifier_models import Corpus, FitOptions, Progress, part_of, uncalibrated
from specialists.classifier import SIGNS, LearnedClassifier, Mixture, Parts, UnknownHead, logits_of
from specialists.contexts import Fixed

MODES: Final = ("hidden", "shown")
"""The text alone, and the text with its agent's fixed part."""

_MIN_CLUSTERS: Final = 3
_MAX_ROWS: Final = 4_000
"""Of each kind and fold together, the calls that are scored."""
_MAX_CELLS: Final = 4_000_000
_LEXICAL: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
_EMBEDDING: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
_LIKENESS: Final = (2.0, 5.0, 10.0, 20.0, 40.0)
_POWERS: Final = (0.0, 0.5)
_EDITS: Final = (0.0, 0.0, 0.1, 0.3)
"""Shares of a system prompt's words that an operator may have changed since the fit; a call draws one of them."""
_SIGN_OF_FALLBACK: Final = SIGNS.index("seen_words")
_LIKELIER: Final = 0.5
"""Whatever rate is allowed, a call that is likelier unknown than known is unknown."""
_FALLBACK_QUANTILE: Final = 0.05


class Calibration(Struct, frozen=True):
    """What a fit adds to the models."""

    mixture: Mixture
    hidden: UnknownHead
    shown: UnknownHead
    report: dict[str, Any]


class Scored(Struct, frozen=True):
    """A call scored by a model that did not see it. `label` is its number among the model's clusters, -1 if unknown."""

    model: int
    fold: int
    label: int
    hidden: Parts
    shown: Parts


class Signs(Struct, frozen=True):
    """The signs of scored calls: shape (n, signs), whether each is unknown, and its fold."""

    values: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    folds: NDArray[np.int64]


def calibrate(corpus: Corpus, options: FitOptions, progress: Progress) -> Calibration:
    """Choose the mixture, the heads and their thresholds. Fits each fold twice; the longest part of a fit."""
    models: list[LearnedClassifier] = []
    scored: list[Scored] = []
    for fold in range(options.folds):
        progress(f"classifier: fold {fold + 1} of {options.folds}")
        for model, calls in _fold(corpus, options, fold):
            models.append(model)
            scored += _score(model, len(models) - 1, fold, calls, corpus)
    known = [one for one in scored if one.label >= 0]
    mixture = _best_mixture(known)
    for model in models:
        model.settings = replace(model.settings, mixture=mixture)
    heads: dict[str, UnknownHead] = {}
    report: dict[str, Any] = {"false_known_rate": options.false_known_rate, "unknown_share": options.unknown_share}
    for mode in MODES:
        heads[mode], figures = _head(_signs(models, scored, mode), options)
        report[mode] = _known_figures(known, mixture, mode) | figures
    return Calibration(mixture, heads["hidden"], heads["shown"], report)


def _fold(corpus: Corpus, options: FitOptions, fold: int) -> Iterator[tuple[LearnedClassifier, NDArray[np.int64]]]:
    """Yield a fit of all clusters with its held-out calls, then one without some clusters with the calls of those."""
    row_fold = np.arange(len(corpus.calls)) % options.folds
    cells = _MAX_CELLS // max(len(corpus.clusters), 1)
    at_most = max(min(_MAX_ROWS, cells) // (2 * options.folds), 50)
    held_out = np.flatnonzero(row_fold == fold)
    yield uncalibrated(part_of(corpus, np.flatnonzero(row_fold != fold)), options), _thinned(held_out, at_most)
    groups = min(options.folds, len(corpus.clusters))
    if len(corpus.clusters) < _MIN_CLUSTERS or fold >= groups:
        return
    left_out = corpus.labels % groups == fold
    rest = np.flatnonzero(~left_out & (row_fold != fold))
    yield uncalibrated(part_of(corpus, rest), options), _thinned(np.flatnonzero(left_out), at_most)


def _thinned(rows: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    """Return at most so many rows, evenly spread."""
    if len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).astype(np.int64)]


def _score(
    model: LearnedClassifier, number: int, fold: int, rows: NDArray[np.int64], corpus: Corpus
) -> Iterator[Scored]:
    labels = {name: label for label, name in enumerate(model.clusters)}
    for row in rows.tolist():
        call = corpus.calls[row]
        yield Scored(
            model=number,
            fold=fold,
            label=labels.get(call.cluster, -1),
            hidden=model.parts(call.text, Fixed()),
            shown=model.parts(call.text, edited(call.fixed, call.text)),
        )


def edited(fixed: Fixed, seed: str) -> Fixed:
    """Return a fixed part as it may look after some editing: half the time as it is, else with words left out."""
    rng = np.random.default_rng(zlib.crc32(seed.encode("utf-8", "replace")))
    share = _EDITS[int(rng.integers(len(_EDITS)))]
    words = fixed.system.split()
    if share == 0.0 or len(words) < 2:
        return fixed
    # A few fixed variants of each prompt, so that their likeness is measured once and remembered.
    variant = np.random.default_rng([len(words), int(share * 100), int(rng.integers(8))])
    kept = [word for word, chance in zip(words, variant.random(len(words)), strict=True) if chance >= share]
    return Fixed(" ".join(kept), fixed.tool_names, fixed.json_keys)


def _best_mixture(known: list[Scored]) -> Mixture:
    """Return the mixture under which held-out calls are likeliest: the text's weights first, then the fixed part's."""
    text = [
        Mixture(lexical, embedding, 0.0, power) for lexical in _LEXICAL for embedding in _EMBEDDING for power in _POWERS
    ]
    best = min(text, key=lambda mixture: _loss(known, mixture, "hidden"))
    with_fixed = [Mixture(best.lexical, best.embedding, likeness, best.length_power) for likeness in _LIKENESS]
    return min(with_fixed, key=lambda mixture: _loss(known, mixture, "shown"))


def _loss(known: list[Scored], mixture: Mixture, mode: str) -> float:
    """Mean negative log-likelihood of the true clusters."""
    return float(np.mean([-_log_probabilities(one, mixture, mode)[one.label] for one in known]))


def _log_probabilities(one: Scored, mixture: Mixture, mode: str) -> NDArray[np.float64]:
    logits = logits_of(getattr(one, mode), mixture)
    logits = logits - logits.max()
    result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
    return result


def _signs(models: list[LearnedClassifier], scored: list[Scored], mode: str) -> Signs:
    values = np.stack([models[one.model].weigh(getattr(one, mode)).signs for one in scored])
    unknown = np.array([one.label < 0 for one in scored])
    return Signs(values, unknown, np.array([one.fold for one in scored]))


def _head(signs: Signs, options: FitOptions) -> tuple[UnknownHead, dict[str, Any]]:
    """Fit P(unknown) and choose its threshold on values that each fold's own model gave."""
    if not signs.unknown.any():
        return _fallback(signs.values)
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  - heavy, and only a fit needs it

    mean, scale = signs.values.mean(axis=0), np.maximum(signs.values.std(axis=0), 1e-6)
    scaled = np.clip((signs.values - mean) / scale, -8.0, 8.0)
    crossed = np.zeros(len(scaled))
    for fold in np.unique(signs.folds):
        inside = signs.folds == fold
        others = ~inside if signs.unknown[~inside].any() else np.ones(len(scaled), dtype=bool)
        weights, bias = _logistic(scaled[others], signs.unknown[others], options.unknown_share)
        crossed[inside] = 1.0 / (1.0 + np.exp(-(scaled[inside] @ weights + bias)))
    threshold = min(float(np.quantile(crossed[signs.unknown], options.false_known_rate)), _LIKELIER)
    weights, bias = _logistic(scaled, signs.unknown, options.unknown_share)
    share = np.where(signs.unknown, options.unknown_share / signs.unknown.sum(), 0.0)
    share += np.where(signs.unknown, 0.0, (1 - options.unknown_share) / (~signs.unknown).sum())
    report = {
        "unknown_auroc": float(roc_auc_score(signs.unknown, crossed)),
        "unknown_fpr95": fpr_at(crossed, signs.unknown, 0.95),
        "unknown_ece": calibration_error(crossed, signs.unknown, share),
        "threshold": threshold,
        "false_known": float(np.mean(crossed[signs.unknown] <= threshold)),
        "false_unknown": float(np.mean(crossed[~signs.unknown] > threshold)),
        "unknown_calls": int(signs.unknown.sum()),
    }
    return _as_head(mean, scale, weights, (bias, threshold)), report


def _fallback(values: NDArray[np.float64]) -> tuple[UnknownHead, dict[str, Any]]:
    """Fewer than three clusters leave nothing to learn `unknown` from: go by the share of words the cluster uses."""
    zeros = np.zeros(len(SIGNS))
    weights = zeros.copy()
    weights[_SIGN_OF_FALLBACK] = -1.0
    mean = zeros.copy()
    mean[_SIGN_OF_FALLBACK] = np.quantile(values[:, _SIGN_OF_FALLBACK], _FALLBACK_QUANTILE)
    scale = np.full(len(SIGNS), 0.1)
    return _as_head(mean, scale, weights, (0.0, _LIKELIER)), {
        "uncalibrated": "fewer than three clusters: `unknown` goes by the share of words seen before"
    }


def _as_head(
    mean: NDArray[np.float64], scale: NDArray[np.float64], weights: NDArray[np.float64], rest: tuple[float, float]
) -> UnknownHead:
    """`rest` is bias and threshold."""
    return UnknownHead(tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights.tolist()), *rest)


def _logistic(
    values: NDArray[np.float64], unknown: NDArray[np.bool_], unknown_share: float
) -> tuple[NDArray[np.float64], float]:
    """Logistic regression in which a better fit never makes `unknown` likelier: all weights are at most 0.

    Without that bound, signs that go together get weights of either sign, which fit the clusters of the folds and fail
    on others: a family that the operator never had was taken for known in 95 of 100 calls.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  - heavy, and only a fit needs it

    weight = np.where(unknown, unknown_share / unknown.sum(), (1 - unknown_share) / max((~unknown).sum(), 1))
    target = np.where(unknown, 1.0, -1.0)
    ridge = 1.0 / len(values)

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = target * (values @ point[:-1] + point[-1])
        pull = -weight * target / (1.0 + np.exp(np.minimum(margin, 500.0)))
        slope = np.append(values.T @ pull + ridge * point[:-1], pull.sum())
        return float(weight @ np.logaddexp(0.0, -margin) + 0.5 * ridge * point[:-1] @ point[:-1]), slope

    bounds = [(None, 0.0)] * values.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(values.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B")
    return np.asarray(found.x[:-1]), float(found.x[-1])


def _known_figures(known: list[Scored], mixture: Mixture, mode: str) -> dict[str, float]:
    sure, right = [], []
    for one in known:
        logs = _log_probabilities(one, mixture, mode)
        best = int(np.argmax(logs))
        sure.append(float(np.exp(logs[best])))
        right.append(best == one.label)
    flat = np.full(len(known), 1.0 / len(known))
    return {
        "accuracy": float(np.mean(right)),
        "ece": calibration_error(np.array(sure), np.array(right), flat),
        "known_calls": len(known),
    }


def calibration_error(claimed: NDArray[np.float64], happened: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """Expected calibration error over 15 equal bins (Guo et al. 2017), rows weighted."""
    bins = np.minimum((claimed * 15).astype(np.int64), 14)
    gap = np.bincount(bins, weights=weight * (claimed - happened), minlength=15)
    return float(np.abs(gap).sum() / weight.sum())


def fpr_at(score: NDArray[np.float64], unknown: NDArray[np.bool_], recall: float) -> float:
    """Return the share of known calls called unknown where `recall` of the unknown ones are found (FPR95 at 0.95)."""
    return float(np.mean(score[~unknown] >= np.quantile(score[unknown], 1 - recall)))
