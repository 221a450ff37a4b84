"""What an outcome says about how right an answer was: a value from 0 to 1 and how surely it is known.

`Silence` bounds what answers may teach that nobody judged. Cost and latency are no part of it: the planner weighs them
by themselves, against the quality that is promised.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
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


SilenceRow = tuple[str, str, float, float, float]
"""Arm, cluster, judged, silent, hour: how a `Silence` is kept."""


class _Taught(Struct):
    """Outcomes that taught a pair, as faded as they were in that hour."""

    judged: float = 0.0
    silent: float = 0.0
    at_h: float = 0.0

    def fade(self, now_h: float, half_life_h: float) -> None:
        """Bring it to this hour; of a clock that goes back nothing comes back."""
        share = _faded(now_h - self.at_h, half_life_h)
        self.judged, self.silent, self.at_h = self.judged * share, self.silent * share, now_h


class Silence:
    """What confident answers that nobody judged have taught, kept from drowning what was judged.

    Together they count no more, for an arm in a cluster, than its judged outcomes and `allowance` outcomes (the weight
    of the prior). On a call of no known cluster all of the arm's count. Fades by half-life as the bandit does.
    """

    def __init__(self, half_life_h: float, allowance: float) -> None:
        self._half_life_h = half_life_h
        self._allowance = allowance
        self._own: dict[tuple[str, str], _Taught] = {}
        self._heard: dict[tuple[str, str], _Taught] = {}

    def judged(self, arm: str, cluster: str, weight: float, now_h: float) -> None:
        """Count a judged outcome."""
        for taught in self._counted(arm, cluster, now_h):
            taught.judged += weight

    def admitted(self, arm: str, cluster: str, reward: Reward | None, now_h: float) -> Reward | None:
        """Count what an unjudged answer may still teach, and return it; None: no more until more is judged."""
        if reward is None:
            return None
        pair, *arms = self._counted(arm, cluster, now_h)
        weight = min(reward.weight, pair.judged + self._allowance - pair.silent)
        if weight <= 0.0:
            return None
        for taught in (pair, *arms):
            taught.silent += weight
        return Reward(reward.value, weight)

    def silent(self, arm: str, cluster: str, now_h: float) -> float:
        """Return how many of a pair's outcomes nobody judged, here and on other routers; no cluster: all of the arm."""
        total, pair = 0.0, (arm, cluster)
        for book in (self._own, self._heard):
            taught = book.get(pair)
            if taught is not None and taught.silent > 0.0:
                total += taught.silent * _faded(now_h - taught.at_h, self._half_life_h)
        return total

    def state(self) -> tuple[SilenceRow, ...]:
        """Return what this router was taught, to be kept."""
        return tuple((*pair, one.judged, one.silent, one.at_h) for pair, one in self._own.items())

    def restore(self, rows: Iterable[SilenceRow]) -> None:
        """Take over what was kept; rows that no router wrote are left out."""
        self._own = self._read(rows)

    def absorb(self, others: Sequence[Iterable[SilenceRow]]) -> None:
        """Know what other routers were taught, instead of what was heard of them before; it takes no allowance here."""
        heard: dict[tuple[str, str], _Taught] = {}
        for rows in others:
            for pair, one in self._read(rows).items():
                known = heard.setdefault(pair, _Taught(at_h=one.at_h))
                latest_h = max(known.at_h, one.at_h)
                known.fade(latest_h, self._half_life_h)
                one.fade(latest_h, self._half_life_h)
                known.silent += one.silent
        self._heard = heard

    def keep_only(self, arms: Collection[str]) -> None:
        """Forget the other arms."""
        self._own = {pair: one for pair, one in self._own.items() if pair[0] in arms}

    def _counted(self, arm: str, cluster: str, now_h: float) -> list[_Taught]:
        """The pair, and behind it the arm as a whole."""
        keys = [(arm, cluster), (arm, "")] if cluster else [(arm, "")]
        found = [self._own.setdefault(key, _Taught(at_h=now_h)) for key in keys]
        for taught in found:
            taught.fade(now_h, self._half_life_h)
        return found

    @staticmethod
    def _read(rows: Iterable[SilenceRow]) -> dict[tuple[str, str], _Taught]:
        return {
            (arm, cluster): _Taught(*figures)
            for arm, cluster, *figures in rows
            if all(math.isfinite(figure) and figure >= 0.0 for figure in figures)
        }


def _faded(hours: float, half_life_h: float) -> float:
    return math.exp2(-max(0.0, hours) / half_life_h)
