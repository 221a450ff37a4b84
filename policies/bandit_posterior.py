"""The regressions' posteriors, solved from the sums as outcomes come in: a few solves a call at the most.

Ridge regression an arm and head, with the ridge in units of outcomes. The solution of an arm is made anew after a
fiftieth more outcomes (32 at the most), and when a good part of a half-life has passed; what the arm's latest outcomes
say beyond it, after each. Knows nothing of clusters.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .bandit_drift import shift
from .bandit_state import HEADS
from .bandit_sums import Sums

Array = NDArray[np.float64]

INTERCEPT_CALLS: Final = (1.0, 1e-3)
"""What the prior of the intercept is worth, in outcomes, by head."""
SLOPE_CALLS: Final = (20.0, 1.0)
"""What the prior (zero) of every other coefficient is worth."""
PRIOR_INTERCEPT: Final = (0.5, 0.0)
_NOISE_PRIOR: Final = (0.25, 0.5)
_NOISE_CALLS: Final = 2.0
_NEWS_SHARE: Final = 0.02
_NEWS_MOST: Final = 32.0
_STALE_HALF_LIVES: Final = 0.05


class Posterior:
    """Coefficients, their covariance (reward only, in units of the noise) and the noise of every arm's row."""

    def __init__(self, sums: Sums, half_life_h: float, now_h: float) -> None:
        self._sums = sums
        self._stale_h = _STALE_HALF_LIVES * half_life_h
        self.solved = [0] * HEADS
        """How often a head's coefficients have changed, whichever arm's."""
        d = sums.dimension
        self._penalty = np.full((HEADS, d), np.array(SLOPE_CALLS)[:, None])
        self._penalty[:, 0] = INTERCEPT_CALLS
        self._pull = np.zeros((HEADS, d))
        self._pull[:, 0] = np.array(PRIOR_INTERCEPT) * INTERCEPT_CALLS
        self._allocate(len(sums.square))
        for row in sums.arms.values():
            for head in range(HEADS):
                self._solve(row, head, now_h)

    def _allocate(self, rows: int) -> None:
        """Every row starts as the prior."""
        d = self._sums.dimension
        self.coefficients: Array = np.repeat((self._pull / self._penalty)[None], rows, axis=0)
        self.covariance: Array = np.repeat(np.diag(1.0 / self._penalty[0])[None], rows, axis=0).reshape(rows, d, d)
        self.squares: Array = np.repeat(_by_squares(self.covariance[0])[None], rows, axis=0)
        """The covariance as `squares_of` a vector is multiplied by it."""
        self.noise: Array = np.repeat(np.array([_NOISE_PRIOR]), rows, axis=0)
        self.shift: Array = np.zeros((rows, HEADS))
        """How much higher the arm is of late."""
        self.shift_variance: Array = np.zeros((rows, HEADS))
        self._news: Array = np.zeros((rows, HEADS))
        self._solved_h: Array = np.full((rows, HEADS), np.inf)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.coefficients, self.covariance, self.squares, self.noise)
        return sum(array.nbytes for array in arrays)

    def learned(self, row: int, head: int, now_h: float) -> None:
        """An outcome was counted: solve again when enough have come."""
        if row >= len(self.noise):
            self._grow(len(self._sums.square))
        self._news[row, head] += 1.0
        seen = self._sums.design[row, head, 0, 0] / self._sums.scale(now_h)
        if self._news[row, head] >= min(_NEWS_MOST, _NEWS_SHARE * seen):
            self._solve(row, head, now_h)
        else:
            self._follow(row, head)

    def keep_fresh(self, rows: NDArray[np.intp], now_h: float) -> None:
        """Solve again the one of these rows that waits longest, if it has faded much since."""
        solved = self._solved_h[rows]
        if now_h - solved.min() > self._stale_h:
            place, head = divmod(int(np.argmin(solved)), HEADS)
            self._solve(int(rows[place]), head, now_h)

    def keep_rows(self, rows: list[int]) -> None:
        """Follow sums that have dropped all other rows."""
        self.coefficients, self.covariance = self.coefficients[rows], self.covariance[rows]
        self.squares = self.squares[rows]
        self.shift, self.shift_variance = self.shift[rows], self.shift_variance[rows]
        self.noise, self._news, self._solved_h = self.noise[rows], self._news[rows], self._solved_h[rows]

    def shift_of(self, rows: NDArray[np.intp], head: int) -> tuple[Array, Array]:
        """Return how much higher each row is of late, and the variance of that."""
        return self.shift[rows, head], self.shift_variance[rows, head]

    def _solve(self, row: int, head: int, now_h: float) -> None:
        scale = self._sums.scale(now_h)
        design = self._sums.design[row, head] / scale
        moment = self._sums.moment[row, head] / scale
        precision = design + np.diag(self._penalty[head])
        if head == 0:
            self.covariance[row] = np.linalg.inv(precision)
            self.squares[row] = _by_squares(self.covariance[row])
            b = self.covariance[row] @ (moment + self._pull[head])
        else:
            b = np.linalg.solve(precision, moment + self._pull[head])
        self.coefficients[row, head] = b
        unexplained = max(0.0, float(self._sums.square[row, head] / scale - 2.0 * b @ moment + b @ design @ b))
        calls = _NOISE_CALLS + design[0, 0]
        self.noise[row, head] = (_NOISE_CALLS * _NOISE_PRIOR[head] + unexplained) / calls
        self._news[row, head] = 0.0
        self._solved_h[row, head] = now_h
        self.solved[head] += 1
        self._follow(row, head)

    def _follow(self, row: int, head: int) -> None:
        seen = shift(self._sums.late[row, head], self.coefficients[row, head], float(self.noise[row, head]), head)
        self.shift[row, head], self.shift_variance[row, head] = seen.mean, seen.variance

    def _grow(self, rows: int) -> None:
        old, count = self._arrays(), len(self.noise)
        self._allocate(rows)
        for target, source in zip(self._arrays(), old, strict=True):
            target[:count] = source

    def _arrays(self) -> tuple[Array, ...]:
        state = (self.shift, self.shift_variance, self._news, self._solved_h)
        return (self.coefficients, self.covariance, self.squares, self.noise, *state)


def squares_of(x: Array) -> Array:
    """Return the products of a vector's entries with each other, each pair once, shape (d (d + 1) / 2,)."""
    rows, columns = _pairs(len(x))
    return np.asarray(x.take(rows) * x.take(columns))


def _by_squares(matrix: Array) -> Array:
    """What `squares_of` x is multiplied by for x . matrix x."""
    rows, columns = _pairs(len(matrix))
    return np.where(rows == columns, 1.0, 2.0) * matrix[rows, columns]


@cache
def _pairs(dimension: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(dimension)
