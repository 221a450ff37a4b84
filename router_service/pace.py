"""Holds the gateway to its spend ceiling: dollars a call, dollars an hour, or the lower of both. Owns the clock."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from policies.learning import SpendPolicy
from policies.pacer import Pacer
from policies.purse import Purse


class Menu(Struct, frozen=True, eq=False):
    """What a decision could choose from: predicted worth and expected dollars of each alternative."""

    values: NDArray[np.float64]
    costs: NDArray[np.float64]


class Pace:
    """The spend ceiling of planner.yaml: dollars a call, dollars an hour, or the lower of both."""

    def __init__(self, spend: SpendPolicy) -> None:
        self._spend = spend
        self.has_ceiling = spend.usd_per_call is not None or spend.usd_per_hour is not None
        self._rate = CallRate()
        per_call = spend.usd_per_call
        self._pacer = Pacer(per_call) if per_call is not None else None
        self._purse = Purse(per_call) if per_call is not None else None
        """Both from the start where the ceiling is known then; an hourly one needs a rate of calls."""

    @property
    def lam(self) -> float:
        """Quality that a US dollar must buy; 0 while no ceiling binds."""
        return self._pacer.lam if self._pacer is not None else 0.0

    @property
    def trial_usd(self) -> float:
        """What a trial may be expected to cost beyond the best choice; no bound while there is no ceiling."""
        return self._purse.usd if self._purse is not None else math.inf

    def tried(self, extra_usd: float) -> None:
        """A choice was taken that is expected to cost so much more than the best one."""
        if self._purse is not None:
            self._purse.pay(extra_usd)

    @property
    def ceiling_usd_per_call(self) -> float | None:
        """What a call may cost on average, at the present rate of calls."""
        hourly = self._spend.usd_per_hour
        limits = [self._spend.usd_per_call, None if hourly is None else hourly / self._rate.calls_per_hour()]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def balance_usd(self) -> float:
        """What the ceiling has allowed since the start, less what was spent."""
        return self._pacer.balance_usd if self._pacer is not None else 0.0

    def paid(self, menu: Menu, cost_usd: float) -> None:
        """Count a call's menu and its bill."""
        self._rate.count()
        ceiling = self.ceiling_usd_per_call
        if ceiling is None:
            return
        if self._pacer is None or self._purse is None:
            self._pacer, self._purse = Pacer(ceiling), Purse(ceiling)
        self._purse.fill(ceiling)
        self._pacer.retarget(ceiling)
        self._pacer.observe(menu.values, menu.costs, cost_usd)


class CallRate:
    """Calls an hour, as a moving average over a quarter of an hour; at least one."""

    MEMORY_S: Final = 900.0

    def __init__(self) -> None:
        self._started_s = self._at_s = time.monotonic()
        self._calls = 0.0

    def count(self) -> None:
        """One call."""
        now_s = time.monotonic()
        # A silence counts as no more than one memory: after a night, calls are likely to come as they did before, and a
        # rate that starts from nothing would let the first of them spend what the night has saved.
        silence_s = min(now_s - self._at_s, self.MEMORY_S)
        self._calls = self._calls * math.exp(-silence_s / self.MEMORY_S) + 1.0
        self._at_s = now_s

    def calls_per_hour(self) -> float:
        """The rate; early on, over the time there was."""
        seen_s = min(self.MEMORY_S, max(60.0, time.monotonic() - self._started_s))
        return max(1.0, self._calls / seen_s * 3600.0)
