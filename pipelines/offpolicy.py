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

import numpy as np

from pipelines.doubly_robust import doubly_robust
from pipelines.offpolicy_values import (
    Aftermath,
    DirectModel,
    Estimates,
    Floats,
    Interval,
    LoggedDecisions,
    Overlap,
    Weighed,
    normal_interval,
    nothing_differs,
)


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
    observed = _held(_observed(logged), logged.lowest, logged.highest)
    snips, snips_difference = _snips(logged, seen)
    dr, dr_difference, direct = doubly_robust(logged, target_propensities, model, after, seen)
    snips = _held(snips, logged.lowest, logged.highest)
    share = seen.known_share
    return Estimates(
        logged=observed,
        ips=_held(_ips(seen), logged.lowest, logged.highest),
        snips=snips,
        dr=_held(dr, logged.lowest, logged.highest),
        direct=direct,
        snips_difference=_held_change(snips_difference, observed, logged),
        dr_difference=_held_change(dr_difference, observed, logged),
        within=(share * max(0.0, snips.low), share * min(1.0, snips.high) + 1.0 - share),
        overlap=_overlap(seen, after, _raw_weights(logged, target_propensities)),
    )


def _check(logged: LoggedDecisions, target: Floats, model: DirectModel) -> None:
    shape = logged.propensities.shape
    if not len(logged.outcomes):
        raise ValueError("there is no decision to judge by")
    if target.shape != shape or model.target.shape != shape or model.logging.shape != shape:
        raise ValueError(f"shapes differ: {shape} logged, {target.shape} target, {model.target.shape} model")
    if not (logged.of_taken(logged.propensities) > 0.0).all():
        raise ValueError("an action was taken whose logged propensity is 0")


def _raw_weights(logged: LoggedDecisions, target: Floats) -> Floats:
    return logged.of_taken(target) / logged.of_taken(logged.propensities)


def _weigh(logged: LoggedDecisions, target: Floats, after: Aftermath, limit: float) -> Weighed:
    raw = _raw_weights(logged, target)
    weight = np.minimum(raw, limit)
    possible = logged.propensities > 0.0
    ratios = np.divide(target, logged.propensities, out=np.zeros_like(target), where=possible)
    squares = logged.propensities * np.minimum(ratios, limit) ** 2
    return Weighed(
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
    return normal_interval(mean, logged.outcomes - mean, logged.least_scatter)


def _ips(seen: Weighed) -> Interval:
    terms = seen.known_weight * seen.outcome
    implied = float(seen.second_moment.mean() * np.mean(seen.outcome**2) - terms.mean() ** 2)
    return normal_interval(float(terms.mean()), terms - terms.mean(), implied)


def _snips(logged: LoggedDecisions, seen: Weighed) -> tuple[Interval, Interval]:
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
        normal_interval(mean, influence, moment * scatter),
        normal_interval(mean - observed, paired, seen.apart * scatter),
    )


def _held(found: Interval, lowest: float, highest: float) -> Interval:
    """The interval within what is possible at all."""
    mean, low, high = (min(max(value, lowest), highest) for value in (found.mean, found.low, found.high))
    return Interval(mean, low, high)


def _held_change(found: Interval, observed: Interval, logged: LoggedDecisions) -> Interval:
    """A change within what is possible at all, whatever the logging policy's true mean is."""
    mean = min(max(found.mean, logged.lowest - observed.mean), logged.highest - observed.mean)
    held = _held(found, logged.lowest - observed.high, logged.highest - observed.low)
    return Interval(mean, min(held.low, mean), max(held.high, mean))


def _overlap(seen: Weighed, after: Aftermath, raw: Floats) -> Overlap:
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
