"""What off-policy estimates are made of, and what they are: decisions, models, weights, intervals. Not the formulas."""

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
    lowest: float = -np.inf
    highest: float = np.inf
    """What outcomes can be: estimates are held to this, and n equal outcomes do not pass for certainty."""

    def of_taken(self, values: Floats) -> Floats:
        """Return what belongs to the action that was taken, from values of shape (n, k). Shape (n,)."""
        chosen: Floats = values[np.arange(len(self.taken)), self.taken]
        return chosen

    @property
    def least_scatter(self) -> float:
        """The variance that n equal outcomes leave possible (Laplace's rule); 0 where the range is open."""
        span = self.highest - self.lowest
        return span**2 / (len(self.outcomes) + 2) if np.isfinite(span) else 0.0


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
    """For outcomes in 0..1: SNIPS of the supported share (its interval's ends), with 0 and 1 for the rest. No model."""
    overlap: Overlap


class Weighed(Struct, frozen=True):
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


def nothing_differs(count: int) -> Aftermath:
    """Return the aftermath of plain choices: the outcome depends on the action alone."""
    return Aftermath(np.zeros(count, dtype=bool), np.ones(count, dtype=bool), np.zeros(count), np.zeros(count))


def normal_interval(mean: float, influence: Floats, implied_variance: float = 0.0) -> Interval:
    """The normal interval; `implied_variance` is one decision's, as the propensities imply it."""
    count = len(influence)
    sampled = float(influence @ influence) / max(1, count - 1)
    half = Z95 * float(np.sqrt(max(sampled, implied_variance, 0.0) / count))
    return Interval(mean, mean - half, mean + half)
