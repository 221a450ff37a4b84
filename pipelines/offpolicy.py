"""How another policy would have done on decisions that were made and recorded: importance weights and a model.

With w = target propensity / logged propensity of what was done, r its outcome, m the model's prediction:

| estimator | formula | right when |
|---|---|---|
| IPS (Horvitz and Thompson, 1952) | mean(w r) | the propensities are right; large variance |
| SNIPS (Hajek, 1971) | sum(w r) / sum(w) | the same; smaller variance, a bias of order 1/n |
| DR (Dudik, Langford, Li, ICML 2011, eq. 2) | mean(m_target + w (r - m_done)) | propensities or model are right |
| direct | mean(m_target) | the model is right |

DR is anchored here: the change against the logging policy, mean(m_target - m_logging + (w - 1)(r - m_done)), is added
to the observed mean. What that adds to the formula above has mean 0, and a policy compared with itself gives just what
was observed. A model that is off by a constant (or, for positive amounts, by a factor) on what was done is moved
accordingly first, and the noise of doing so is part of the interval.

Intervals are normal, from the larger of two variances: that of the estimator's influence values in the sample, and the
one that the propensities imply for outcomes as scattered as the observed ones, mean(sum_a target_a^2 / logged_a). That
way a sample that happens to hold none of the rare, heavy decisions does not look calm. Where the logging policy never
does what the target would, no weight can help: `Overlap.unsupported` is that share. There DR is the model alone, and no
interval covers the model's error.

Pure numpy; knows nothing of planners, stores or outcomes' meaning.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Calibration = Literal["none", "shift", "scale"]

Z95: Final = 1.959963984540054


class LoggedDecisions(Struct, frozen=True):
    """n decisions among up to k actions, what was done and what came of it."""

    taken: NDArray[np.intp]
    """Shape (n,): the action's column."""
    propensities: Floats
    """Shape (n, k): how likely each action was; 0 for those that were not possible. Rows sum to 1."""
    outcomes: Floats
    """Shape (n,)."""
    span: float = 0.0
    """Width of the outcomes' natural range; with it, n equal outcomes do not pass for certainty. 0: none is known."""

    @property
    def least_scatter(self) -> float:
        """The variance that n equal outcomes leave possible (Laplace's rule)."""
        return self.span**2 / (len(self.outcomes) + 2)


class DirectModel(Struct, frozen=True):
    """What a model predicts of each action; shapes (n, k)."""

    target: Floats
    """If the target takes it, and goes on as the target would."""
    logging: Floats
    """If the logging policy takes it."""
    calibration: Calibration = "none"
    """How to move it to what was observed: not at all, by a constant, by a factor."""


class Aftermath(Struct, frozen=True):
    """Where a target is known to differ in what comes after the action; shapes (n,)."""

    refused: NDArray[np.bool_]
    """The target would do nothing at all: its outcome is 0, for sure."""
    followed: NDArray[np.bool_]
    """After the action that was taken, the target would have gone on in the same way."""
    spent: Floats
    """Where it would not: what had come of it when the ways part, ..."""
    rest: Floats
    """... and what the model predicts from there on."""


class Interval(Struct, frozen=True):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside."""
        return self.low > 0.0 or self.high < 0.0


class Overlap(Struct, frozen=True):
    """How much the logged decisions can say about the target."""

    decisions: int
    effective: float
    """Decisions of an on-policy sample that would say as much: (sum w)^2 / sum w^2; refused ones aside."""
    unsupported: float
    """Share of the target's choices that the logging policy never makes there: only a model can judge them."""
    elsewhere: float
    """Share of decisions that the target would have continued otherwise after the same start."""
    refused: float
    """Share of decisions for which the target does nothing."""
    max_weight: float
    clipped: float
    """Share of decisions whose weight was cut to the limit."""
    weight_lost: float
    """Mean weight that the cutting removed: for outcomes in 0..1 the most that IPS is too low by."""


class Estimates(Struct, frozen=True):
    """One quantity, under the logging policy and under the target."""

    logged: Interval
    ips: Interval
    snips: Interval
    dr: Interval
    direct: float
    snips_difference: Interval
    """Target less logged."""
    dr_difference: Interval
    within: tuple[float, float]
    """For outcomes in 0..1: SNIPS of the supported share, with 0 and with 1 for all of the rest. Needs no model."""
    overlap: Overlap


class _Weighed(Struct, frozen=True):
    """Everything per decision; shapes (n,)."""

    weight: Floats
    """Of the action."""
    known_weight: Floats
    """Of the action and all that came after it; 1 where refused."""
    outcome: Floats
    """0 where refused."""
    second_moment: Floats
    """E[weight^2] over the logging policy's draw; 1 where refused."""
    supported: Floats
    """The target's probability of actions that the logging policy takes, too; 1 where refused."""
    refused: NDArray[np.bool_]
    clipped: NDArray[np.bool_]

    @property
    def known_share(self) -> float:
        """The share of the target's choices whose outcome the log can tell, up to the last step."""
        started = float(self.weight.mean() + np.where(self.refused, 1.0, 0.0).mean())
        return float(self.supported.mean() * self.known_weight.mean()) / started if started > 0.0 else 0.0

    @property
    def apart(self) -> float:
        """E[(weight - 1)^2]: how far the two policies are from each other."""
        return max(0.0, float((self.second_moment - 2.0 * self.supported).mean()) + 1.0)


def estimate(
    logged: LoggedDecisions,
    target_propensities: Floats,
    model: DirectModel,
    aftermath: Aftermath | None = None,
    max_weight: float = np.inf,
) -> Estimates:
    """Judge a target policy. `target_propensities` has shape (n, k); rows sum to 1, or to 0 where refused.

    Weights above `max_weight` are cut: less variance, and a bias towards 0 (IPS) or towards the model (DR).
    Raises ValueError when there is no decision, when shapes differ, or when an action was taken that could not be.
    """
    _check(logged, target_propensities, model)
    after = aftermath or nothing_differs(len(logged.outcomes))
    seen = _weigh(logged, target_propensities, after, max_weight)
    snips, snips_difference = _snips(logged, seen)
    dr, dr_difference, direct = _doubly_robust(logged, target_propensities, model, after, seen)
    share = seen.known_share
    low = min(1.0, max(0.0, share * snips.mean))
    return Estimates(
        logged=_observed(logged),
        ips=_ips(seen),
        snips=snips,
        dr=dr,
        direct=direct,
        snips_difference=snips_difference,
        dr_difference=dr_difference,
        within=(low, min(1.0, low + 1.0 - share)),
        overlap=_overlap(seen, after, _raw_weights(logged, target_propensities)),
    )


def nothing_differs(count: int) -> Aftermath:
    """Return the aftermath of plain choices: the outcome depends on the action alone."""
    return Aftermath(np.zeros(count, dtype=bool), np.ones(count, dtype=bool), np.zeros(count), np.zeros(count))


def _check(logged: LoggedDecisions, target: Floats, model: DirectModel) -> None:
    shape = logged.propensities.shape
    if not len(logged.outcomes):
        raise ValueError("there is no decision to judge by")
    if target.shape != shape or model.target.shape != shape or model.logging.shape != shape:
        raise ValueError(f"shapes differ: {shape} logged, {target.shape} target, {model.target.shape} model")
    if not (_of_taken(logged, logged.propensities) > 0.0).all():
        raise ValueError("an action was taken whose logged propensity is 0")


def _of_taken(logged: LoggedDecisions, values: Floats) -> Floats:
    taken: Floats = values[np.arange(len(logged.taken)), logged.taken]
    return taken


def _raw_weights(logged: LoggedDecisions, target: Floats) -> Floats:
    return _of_taken(logged, target) / _of_taken(logged, logged.propensities)


def _weigh(logged: LoggedDecisions, target: Floats, after: Aftermath, limit: float) -> _Weighed:
    raw = _raw_weights(logged, target)
    weight = np.minimum(raw, limit)
    possible = logged.propensities > 0.0
    ratios = np.divide(target, logged.propensities, out=np.zeros_like(target), where=possible)
    squares = logged.propensities * np.minimum(ratios, limit) ** 2
    return _Weighed(
        weight=weight,
        known_weight=np.where(after.refused, 1.0, weight * after.followed),
        outcome=np.where(after.refused, 0.0, logged.outcomes),
        second_moment=np.where(after.refused, 1.0, squares.sum(axis=1)),
        supported=np.where(after.refused, 1.0, np.where(possible, target, 0.0).sum(axis=1)),
        refused=after.refused,
        clipped=raw > limit,
    )


def _observed(logged: LoggedDecisions) -> Interval:
    mean = float(logged.outcomes.mean())
    return _interval(mean, logged.outcomes - mean, logged.least_scatter)


def _ips(seen: _Weighed) -> Interval:
    terms = seen.known_weight * seen.outcome
    implied = float(seen.second_moment.mean() * np.mean(seen.outcome**2) - terms.mean() ** 2)
    return _interval(float(terms.mean()), terms - terms.mean(), implied)


def _snips(logged: LoggedDecisions, seen: _Weighed) -> tuple[Interval, Interval]:
    """The estimate and its difference from the observed mean, by the delta method."""
    total = float(seen.known_weight.mean())
    observed = float(logged.outcomes.mean())
    if total <= 0.0:  # nothing in common: nothing is known but the outcomes' own range
        spread = float(np.ptp(logged.outcomes))
        unknown = Interval(observed, observed - spread, observed + spread)
        return unknown, Interval(0.0, -spread, spread)
    mean = float((seen.known_weight * seen.outcome).mean()) / total
    relative = seen.known_weight / total
    influence = relative * (seen.outcome - mean)
    scatter = max(float(np.mean((seen.outcome - mean) ** 2)), logged.least_scatter)
    moment = float(seen.second_moment.mean())
    paired = influence - (logged.outcomes - observed)
    return (
        _interval(mean, influence, moment * scatter),
        _interval(mean - observed, paired, seen.apart * scatter),
    )


def _doubly_robust(
    logged: LoggedDecisions, target: Floats, model: DirectModel, after: Aftermath, seen: _Weighed
) -> tuple[Interval, Interval, float]:
    """The anchored estimate, its difference from the observed mean, and the direct method's."""
    foreseen = _foresee(logged, target, model, after, seen.weight)
    expected = foreseen.target
    outcome = np.where(after.followed, logged.outcomes, after.spent + foreseen.rest)
    surprise = logged.outcomes - foreseen.done_logging
    corrected = expected + seen.weight * (outcome - foreseen.done_target)
    change = np.where(after.refused, -logged.outcomes, corrected - foreseen.logging - surprise)
    mean, observed = float(change.mean()), float(logged.outcomes.mean())
    influence = change - mean + foreseen.noise
    scatter = max(float(np.mean(surprise**2)), logged.least_scatter)
    moment = float(seen.second_moment.mean())
    whole = float(np.var(expected)) + moment * scatter
    apart = float(np.var(expected - foreseen.logging)) + seen.apart * scatter
    return (
        _interval(observed + mean, influence + logged.outcomes - observed, whole),
        _interval(mean, influence, apart),
        float(expected.mean()),
    )


class _Foreseen(Struct, frozen=True):
    """The model's word on each decision, moved to what was observed; shapes (n,)."""

    target: Floats
    """Mean over the target's choices; 0 where refused."""
    logging: Floats
    """Mean over the logging policy's choices."""
    done_target: Floats
    """Of what was done, if the target goes on from there."""
    done_logging: Floats
    rest: Floats
    noise: Floats
    """What each decision adds to the estimate's influence by having moved the model."""


def _foresee(
    logged: LoggedDecisions, target: Floats, model: DirectModel, after: Aftermath, weight: Floats
) -> _Foreseen:
    raw = _Foreseen(
        target=(target * model.target).sum(axis=1),
        logging=(logged.propensities * model.logging).sum(axis=1),
        done_target=_of_taken(logged, model.target),
        done_logging=_of_taken(logged, model.logging),
        rest=after.rest,
        noise=np.zeros(len(weight)),
    )
    parted = weight * ~after.followed
    answered = target.sum(axis=1)
    if model.calibration == "shift":
        shift = float((logged.outcomes - raw.done_logging).mean())
        slope = float((answered - weight + parted).mean())
        return _moved(raw, 1.0, shift, answered, slope * (logged.outcomes - raw.done_logging - shift))
    scale = float(raw.done_logging.mean())
    if model.calibration == "scale" and scale > 0.0:
        factor = float(logged.outcomes.mean()) / scale
        change = raw.target - raw.logging + raw.done_logging - weight * raw.done_target + parted * raw.rest
        slope = float(np.where(after.refused, 0.0, change).mean()) / scale
        return _moved(raw, factor, 0.0, answered, slope * (logged.outcomes - factor * raw.done_logging))
    return raw


def _moved(raw: _Foreseen, factor: float, shift: float, answered: Floats, noise: Floats) -> _Foreseen:
    return _Foreseen(
        target=raw.target * factor + shift * answered,
        logging=raw.logging * factor + shift,
        done_target=raw.done_target * factor + shift,
        done_logging=raw.done_logging * factor + shift,
        rest=raw.rest * factor + shift,
        noise=noise,
    )


def _interval(mean: float, influence: Floats, implied_variance: float = 0.0) -> Interval:
    """The normal interval; `implied_variance` is one decision's, as the propensities imply it."""
    count = len(influence)
    sampled = float(influence @ influence) / max(1, count - 1)
    half = Z95 * float(np.sqrt(max(sampled, implied_variance, 0.0) / count))
    return Interval(mean, mean - half, mean + half)


def _overlap(seen: _Weighed, after: Aftermath, raw: Floats) -> Overlap:
    weights = seen.known_weight[~after.refused]
    squares = float((weights**2).sum())
    return Overlap(
        decisions=len(raw),
        effective=float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0,
        unsupported=max(0.0, 1.0 - float(seen.supported.mean())),
        elsewhere=float(np.mean(~after.followed & ~after.refused & (seen.weight > 0.0))),
        refused=float(np.mean(after.refused)),
        max_weight=float(weights.max()) if len(weights) else 0.0,
        clipped=float(np.mean(seen.clipped)),
        weight_lost=float(np.mean(raw - seen.weight)),
    )
