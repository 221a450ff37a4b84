"""Fits a `LearnedClassifier` on calls with known clusters, calibrates it, and says how well it does.

The same calls give the same artifact, byte for byte. Knows nothing of where calls come from or of the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final

from pipelines.classifier_calibration import calibrate
from pipelines.classifier_models import FitOptions, Progress, fit_models, gather
from pipelines.classifier_rows import LabelledCall
from registry.errors import BadInputError
from specialists.classifier import LearnedClassifier, Settings

_OF_VOCABULARY: Final = ("counted_by", "callers", "min_callers", "words_left_out", "pairs_left_out")


def fit_classifier(
    calls: Iterable[LabelledCall], options: FitOptions | None = None, progress: Progress = lambda line: None
) -> LearnedClassifier:
    """Fit and calibrate a classifier; `facts` of the result is the report.

    Raises:
        BadInputError: too few calls, or options that make no sense.
    """
    options = options or FitOptions()
    _check(options)
    corpus = gather(calls, options)
    progress(f"classifier: {len(corpus.calls)} calls of {len(corpus.clusters)} clusters")
    with _one_thread():
        calibration = calibrate(corpus, options, progress)
        progress("classifier: the final fit")
        models = fit_models(corpus, options)
    settings = Settings(corpus.clusters, calibration.mixture, calibration.hidden, calibration.shown)
    facts = {
        "calls": dict(sorted(Counter(call.cluster for call in corpus.calls).items())),
        "too_small": corpus.too_small,
        "dimension": models.embedder.dimension,
        "words": models.embedder.word_count,
        "pairs": models.embedder.feature_count - models.embedder.word_count,
        **{name: models.embedder.facts[name] for name in _OF_VOCABULARY},
        **calibration.report,
    }
    return LearnedClassifier(models, settings, facts)


def _one_thread() -> AbstractContextManager[object]:
    """Many fits of small matrices: more threads wait for each other longer than they compute."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  it comes with scikit-learn, which is optional

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _check(options: FitOptions) -> None:
    for name in ("false_known_rate", "unknown_share"):
        if not 0.0 < getattr(options, name) < 1.0:
            raise BadInputError(f"{name} lies between 0 and 1, not {getattr(options, name)}.", param=name)
    if options.folds < 2:
        raise BadInputError(f"A calibration needs at least 2 folds, not {options.folds}.", param="folds")
    if options.min_calls < 2 or options.max_calls < options.min_calls:
        raise BadInputError("min_calls is at least 2, and max_calls no less.", param="min_calls")
