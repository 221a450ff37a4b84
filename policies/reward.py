"""What an outcome says about how right an answer was: a value from 0 to 1 and how surely it is known.

Cost and latency are no part of it: the planner weighs them by themselves, against the quality that is promised.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

CALIBRATED_WEIGHT: Final = 0.1
"""A verified answer's calibrated P(right) counts as a tenth of a judgement: it is a belief, not an outcome."""


class Reward(Struct, frozen=True):
    """How right, and how many outcomes that is worth."""

    value: float
    weight: float = 1.0


def reward_of_feedback(outcome: Literal["success", "failure"] | None, score: float | None) -> Reward | None:
    """Return what somebody who judged the answer said; the score is the finer word. None: nothing about rightness."""
    if score is not None:
        return Reward(score)
    return None if outcome is None else Reward(1.0 if outcome == "success" else 0.0)


def reward_of_confidence(p_right: float | None) -> Reward | None:
    """Return what a believed answer's calibrated confidence says; None without a calibration."""
    return None if p_right is None else Reward(p_right, CALIBRATED_WEIGHT)
