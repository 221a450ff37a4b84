"""Which adapters are loaded where not all fit: those that calls could use most, with a liking for those that are there.

Demand is counted in calls: of the last `WINDOW_CALLS` that any adapter here could have answered, how many each could
have, times its weight. An adapter that is not loaded takes a free place; once it is asked for, also that of one that
nobody asked for in a while, or of one that is asked for clearly less. Pure: time is passed in, loading is not its work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from msgspec import Struct

WINDOW_CALLS: Final = 200
"""Calls after which a count has faded to a third."""
MARGIN: Final = 1.5
"""A newcomer's demand must be so many times that of the one it replaces ..."""
NOISE_CALLS: Final = 2.0
"""... and so many calls more."""
MIN_STAY_S: Final = 30.0
"""Nobody leaves sooner: so there are at most so many loads as places, and as many again every `MIN_STAY_S`."""
IDLE_S: Final = 60.0
"""What nobody asked for in this time makes room for what is asked for, however much it once was."""
BARRED_S: Final = 300.0
"""How long what could not be loaded takes nobody's place."""
_LARGE: Final = 1e100


class _Adapter(Struct):
    weight: float
    calls: float = 0.0
    """In units of `_grown`, so that fading is one multiplication for all."""
    asked_at_s: float = float("-inf")
    since_s: float | None = None
    """When it was given its place; None: it has none."""
    barred_until_s: float = float("-inf")


class Placement:
    """The places of one server, or of each of several alike. `limit` None: there is room for all."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._adapters: dict[str, _Adapter] = {}
        self._grown = 1.0

    def want(self, weights: Mapping[str, float]) -> None:
        """Say which adapters compete, and how much a call for each counts. Who competes no more loses its place."""
        kept = self._adapters
        self._adapters = {name: kept.get(name) or _Adapter(weight) for name, weight in weights.items()}
        for name, weight in weights.items():
            self._adapters[name].weight = weight

    def asked(self, names: Iterable[str], now_s: float) -> None:
        """Count one call that these could answer, loaded or not."""
        self._grown *= WINDOW_CALLS / (WINDOW_CALLS - 1.0)
        for name in names:
            adapter = self._adapters.get(name)
            if adapter is not None:
                adapter.calls += self._grown
                adapter.asked_at_s = now_s
        if self._grown > _LARGE:
            for adapter in self._adapters.values():
                adapter.calls /= self._grown
            self._grown = 1.0

    def competes(self, name: str) -> bool:
        """Whether this is an adapter that is placed here, or could be."""
        return name in self._adapters

    def competing(self) -> frozenset[str]:
        """Every adapter that is placed here, or could be."""
        return frozenset(self._adapters)

    @property
    def all_fit(self) -> bool:
        """Whether nobody has to give way."""
        return self.limit is None or len(self._adapters) <= self.limit

    def has_place(self, name: str) -> bool:
        """Whether it should be loaded."""
        adapter = self._adapters.get(name)
        return adapter is not None and adapter.since_s is not None

    def bar(self, name: str, now_s: float) -> bool:
        """Take the place from one that cannot be loaded, if anybody else may have it. Returns whether that was so."""
        adapter = self._adapters.get(name)
        if adapter is None or not any(self._may_come(other, now_s) for other in self._adapters):
            return False
        adapter.since_s, adapter.barred_until_s = None, now_s + BARRED_S
        return True

    def is_barred(self, name: str, now_s: float) -> bool:
        """Whether it could not be loaded a while ago, and there are others who need the place."""
        adapter = self._adapters.get(name)
        return adapter is not None and now_s < adapter.barred_until_s and not self.all_fit

    def resident(self) -> frozenset[str]:
        """The adapters that should be loaded; never more than `limit`."""
        return frozenset(name for name in self._adapters if self.has_place(name))

    def demand(self, name: str) -> float:
        """Calls of late that it could have answered, times its weight; 0 for one that does not compete."""
        adapter = self._adapters.get(name)
        return 0.0 if adapter is None else adapter.calls * adapter.weight / self._grown

    def settle(self, now_s: float, asked: Collection[str] | None = None) -> bool:
        """Give places to whom they are due. Returns whether anything changed.

        With `asked`, the names of one call, only they are considered: whose demand did not grow, gains no place by it.
        """
        changed = False
        while (newcomer := self._newcomer(now_s, self._adapters if asked is None else asked)) is not None:
            self._adapters[newcomer].since_s = now_s
            changed = True
        return changed

    def _newcomer(self, now_s: float, names: Iterable[str]) -> str | None:
        """The first, by demand, for whom there is a place; whoever had that has lost it then."""
        without = [name for name in names if self._may_come(name, now_s)]
        if not without:
            return None
        resident = [name for name in self._adapters if self.has_place(name)]
        is_full = self.limit is not None and len(resident) >= self.limit
        for newcomer in sorted(without, key=self._rank, reverse=True):
            if not is_full:
                return newcomer
            leaver = self._leaver(resident, newcomer, now_s)
            if leaver is not None:
                self._adapters[leaver].since_s = None
                return newcomer
        return None

    def _may_come(self, name: str, now_s: float) -> bool:
        return self.competes(name) and not self.has_place(name) and not self.is_barred(name, now_s)

    def _leaver(self, resident: Iterable[str], newcomer: str, now_s: float) -> str | None:
        """Whose place the newcomer may take, if it is asked for: an idle one's first."""
        if now_s - self._adapters[newcomer].asked_at_s >= IDLE_S:
            return None
        settled = [name for name in resident if now_s - self._since_s(name) >= MIN_STAY_S]
        idle = [name for name in settled if self._idles_beside(name, newcomer)]
        outdone = [name for name in settled if self.demand(newcomer) > MARGIN * self.demand(name) + NOISE_CALLS]
        return min(idle or outdone, key=self._rank, default=None)

    def _idles_beside(self, name: str, newcomer: str) -> bool:
        """Whether nobody asked for it in a while, and then somebody did for the newcomer, which counts as much."""
        one, other = self._adapters[name], self._adapters[newcomer]
        idle_since_s = max(one.asked_at_s, self._since_s(name))
        return other.weight >= one.weight and other.asked_at_s - idle_since_s >= IDLE_S

    def _rank(self, name: str) -> tuple[float, float, str]:
        return self.demand(name), self._adapters[name].weight, name

    def _since_s(self, name: str) -> float:
        since_s = self._adapters[name].since_s
        return float("inf") if since_s is None else since_s
