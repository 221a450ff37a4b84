"""The doubly robust estimate of what a target policy brings, anchored on what was observed (formulas: `offpolicy`)."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from pipelines.offpolicy_values import (
    Aftermath,
    DirectModel,
    Floats,
    Interval,
    LoggedDecisions,
    Weighed,
    normal_interval,
)


def doubly_robust(
    logged: LoggedDecisions, target: Floats, model: DirectModel, after: Aftermath, seen: Weighed
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
    apart = float(np.var(expected - foreseen.logging)) + seen.apart * scatter
    whole = max(float(np.var(logged.outcomes)), logged.least_scatter) + apart
    return (
        normal_interval(observed + mean, influence + logged.outcomes - observed, whole),
        normal_interval(mean, influence, apart),
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
        done_target=logged.of_taken(model.target),
        done_logging=logged.of_taken(model.logging),
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
