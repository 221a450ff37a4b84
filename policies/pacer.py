"""Paces spending against a ceiling on the mean cost of a call: which price must a dollar have just now?

A knapsack that is filled call by call (bandits with knapsacks: Badanidiyuru, Kleinberg, Slivkins 2013; Agrawal, Devanur
2016). Instead of moving the price by gradient steps it is solved for, again and again, on the menus of the last calls
(re-solving: Jasin, Kumar 2012): the price lam at which the best values of those menus would have cost just what may be
spent a call from here on. What may be spent is the ceiling, corrected for what was spent too much or too little so far,
over a horizon; so it works for endless traffic and for prices that change.

Of each menu only its upper concave hull matters: from the cheapest alternative up, steps of falling gain per dollar.
All hulls' steps sorted by gain per dollar are the fractional multiple-choice knapsack (Sinha, Zoltners 1979), so one
sort solves it. Calls that are all alike have one gain per dollar, and a price could only take all or none of them; so
the price trembles by a few per cent from call to call, and any share of them can be taken.

Knows nothing of what the alternatives are. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import BadInputError

Array = NDArray[np.float64]

MOST_STEPS: Final = 8
"""Steps kept of a menu's hull, those of the most gain per dollar: enough for any choice that is not absurd."""
_GOLDEN: Final = 0.6180339887498949
HIGHEST_LAM: Final = 1e12
"""Quality per US dollar at which only the cheapest alternative is ever taken."""
_EARLY_CALLS: Final = 64
_FIRST_GAIN: Final = 0.1
"""Before any menu was seen, one ceiling's worth of money must buy so much quality: no first call ruins the rest."""


class PacerOptions(Struct, frozen=True):
    """How the pacer plans. The defaults hold for ceilings from the cheapest to the dearest of models."""

    window: int = 512
    """Menus that the price is solved on."""
    horizon: float = 200.0
    """Calls over which money left over is spent."""
    short_horizon: float = 50.0
    """Calls over which overspending is made good."""
    resolve_every: int = 8
    reserve: float = 1.0
    """What is kept back, in standard deviations of the balance that the calls' own scatter causes."""
    most_reserve: float = 0.015
    """The most that is kept back, as a share of all that the ceiling has allowed."""
    tremble: float = 0.05
    """How far, as a share of itself, the price of one call may be off the price that was solved for."""
    most: float = 2.0
    """A call's share of the plan is never above this many ceilings."""
    most_saved: float = 2_000.0
    """Calls' worth of ceilings that may be saved up; cheap months do not pay for a dear one."""


class Pacer:
    """Price of money under a ceiling of `budget_usd_per_call` on average."""

    def __init__(self, budget_usd_per_call: float, options: PacerOptions | None = None) -> None:
        self._budget = _checked(budget_usd_per_call)
        self._options = options or PacerOptions()
        window = self._options.window
        self._gains: Array = np.zeros((window, MOST_STEPS))
        """Quality per dollar of each step, falling; 0: no step."""
        self._extra: Array = np.zeros((window, MOST_STEPS))
        self._base: Array = np.zeros(window)
        self._seen = 0
        self._calls = 0
        self._balance = 0.0
        self._expected = 0.0
        self._spent = 0.0
        self._scatter = 0.0
        self._lam = min(HIGHEST_LAM, _FIRST_GAIN / self._budget)

    @property
    def lam(self) -> float:
        """Quality that a US dollar must buy on the next call; 0 while the ceiling does not bind."""
        return self._lam * self._tremble()

    @property
    def balance_usd(self) -> float:
        """What the ceiling has allowed so far, less what was spent."""
        return self._balance

    def retarget(self, budget_usd_per_call: float) -> None:
        """Set another ceiling from here on; what was left over or overspent under the old one stays so."""
        self._budget = _checked(budget_usd_per_call)

    def prime(self, values: Array, costs: Array) -> None:
        """Plan on menus of earlier calls before the first one: rows of predicted values and costs, shape (n, K)."""
        for value, cost in zip(values, costs, strict=True):
            self._remember(value, cost)
        self._solve()

    def observe(self, values: Sequence[float] | Array, costs: Sequence[float] | Array, spent_usd: float) -> None:
        """Count a call: each alternative's predicted value and expected US dollars, and what was really spent.

        The value is that of the answer alone, without the price of its cost. Without alternatives, when a caller named
        a model, only the bill counts.
        """
        expected = self._remember(np.asarray(values, dtype=np.float64), np.asarray(costs, dtype=np.float64))
        if not len(costs):
            expected = spent_usd
        options = self._options
        fade = 1.0 - 1.0 / (4.0 * options.horizon)
        self._calls += 1
        self._balance = min(self._balance + self._budget - spent_usd, options.most_saved * self._budget)
        self._expected = self._expected * fade + expected
        self._spent = self._spent * fade + spent_usd
        self._scatter += (max(1.0 / self._calls, 1.0 - fade)) * ((spent_usd - self._budget) ** 2 - self._scatter)
        # The first prices rest on few menus: each call counts.
        if self._calls % options.resolve_every == 0 or self._calls < _EARLY_CALLS:
            self._solve()

    def _remember(self, values: Array, costs: Array) -> float:
        """Keep the menu's hull; return what the choice at the present price would be expected to cost."""
        if not len(costs):
            return 0.0
        slot, tremble = self._seen % len(self._base), self._tremble()
        self._seen += 1
        self._base[slot], gains, extra = hull(values, costs)
        steps = min(MOST_STEPS, len(gains))
        self._gains[slot] = self._extra[slot] = 0.0
        self._gains[slot, :steps] = [gain / tremble for gain in gains[:steps]]
        self._extra[slot, :steps] = extra[:steps]
        taken = sum(dollars for gain, dollars in zip(gains, extra, strict=True) if gain > self._lam * tremble)
        return float(self._base[slot]) + taken

    def _tremble(self) -> float:
        """Factor of the price for the call after those seen: evenly spread (multiples of the golden ratio)."""
        return 1.0 + self._options.tremble * (2.0 * (self._seen * _GOLDEN % 1.0) - 1.0)

    def _solve(self) -> None:
        count = min(self._seen, len(self._base))
        if count == 0:
            return
        allowed = self._planned() * count - float(self._base[:count].sum())
        gains, extra = self._gains[:count].ravel(), self._extra[:count].ravel()
        order = np.argsort(-gains, kind="stable")
        order = order[gains[order] > 0.0]
        spent = np.cumsum(extra[order])
        unaffordable = int(np.searchsorted(spent, allowed, side="right"))
        if allowed <= 0.0 and len(order):
            self._lam = HIGHEST_LAM
        else:
            self._lam = float(gains[order[unaffordable]]) if unaffordable < len(order) else 0.0

    def _planned(self) -> float:
        """US dollars, in units of the menus' expected costs, that a call may take from here on."""
        options = self._options
        reserve = options.reserve * math.sqrt(self._scatter * options.horizon / 2.0)
        free = self._balance - min(reserve, options.most_reserve * self._calls * self._budget)
        planned = self._budget + free / (options.horizon if free > 0.0 else options.short_horizon)
        planned = min(max(planned, 0.0), options.most * self._budget)
        # Bills differ from what was expected of them: by errors of prediction, by exploration, by a price that changed.
        known = options.horizon / 4.0 * self._budget
        return planned / min(2.0, max(0.5, (self._spent + known) / (self._expected + known)))


def _checked(budget_usd_per_call: float) -> float:
    if not 0.0 < budget_usd_per_call < math.inf:
        raise BadInputError(f"A ceiling of {budget_usd_per_call} dollars a call cannot be paced: it must be above 0.")
    return budget_usd_per_call


def hull(values: Array, costs: Array) -> tuple[float, list[float], list[float]]:
    """Return the cheapest cost, and the steps of the upper concave hull from there: gain per dollar, extra dollars."""
    menu = sorted(zip(costs.tolist(), (-values).tolist(), strict=True))
    base = menu[0][0]
    points = [(base, -menu[0][1])]
    for cost, negative in menu[1:]:
        value = -negative
        if value <= points[-1][1]:
            continue
        while len(points) > 1 and _gain(points[-1], (cost, value)) >= _gain(points[-2], points[-1]):
            points.pop()
        points.append((cost, value))
    steps = list(pairwise(points))
    return base, [_gain(low, high) for low, high in steps], [high[0] - low[0] for low, high in steps]


def _gain(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Value per dollar; two of one cost: no bound but the highest price."""
    return min(HIGHEST_LAM, (high[1] - low[1]) / max(high[0] - low[0], 1e-15))
