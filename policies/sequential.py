"""Evidence that may be looked at after every call: e-values and confidence sequences for shares and ratios.

A fixed-size test that is looked at after every call finds what is not there far more often than its level says. Here
the evidence for "the quantity lies above m" is the capital of a bettor who starts with 1 and plays a game that is fair
or worse if it does not: a nonnegative supermartingale under the null. By Ville's inequality (1939) the capital ever
reaches 1 / alpha with probability at most alpha, whenever and however often somebody looks (Ramdas, Gruenwald, Vovk,
Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"). The values of m that the capital against
them has not refuted form a confidence sequence: with probability 1 - alpha its limit is right at all times at once.

The game: stake a share lam of the capital on each call, capital prod(1 + lam xi), xi the call's gap to m divided by the
most that can be lost (the betting martingale of Waudby-Smith and Ramdas 2024, JRSS B 86(1), arXiv:2010.09686), mixed
over lam (Robbins 1970).
`Share` (yes or no): gap x - m. Two counts are all it needs.
`Ratio` (theta = E top / E base of two amounts from 0 to 1 in the same call): gap top - theta base, which has mean 0 at
the true theta, so a ratio of means is tested as one bounded mean; a paired difference in [-1, 1] with theta = 1. Each
call is laid down on the corners of a grid cell, in the parts of a linear interpolation. The log capital is concave in
each coordinate, so what the corners earn is no more than what the call would: still valid, exact for yes/no, a per cent
slower otherwise. The masses on the grid are all that is kept, and any theta can be asked for afterwards.
`Amounts` (positive, without a bound: money, time): a `Ratio` of amounts cut by limits that are fixed before the call.

The stakes are fixed, so nothing is tuned to the data and the order of the calls does not matter. What is refuted is "at
every call, given the calls before, the mean lies on the wrong side". Knows nothing of what is promoted.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, Protocol

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from registry.errors import BadInputError

Floats = NDArray[np.float64]
Side = Literal["above", "below"]
Count = Annotated[int, Meta(ge=0)]
Sum = Annotated[float, Meta(ge=0)]

_ODDS: Final = np.geomspace(0.05, 50.0, 14)
BETS: Final[Floats] = _ODDS / (1.0 + _ODDS)
"""Shares of the capital that are staked, in (0, 1); the capital starts in equal parts on each."""
_GRID: Final = np.linspace(0.0, 1.0, 9)
_REFINEMENTS: Final = 7
_BISECTIONS: Final = 16
_MOST_TIMES: Final = 4096.0
RATIO_TOP: Final = 2.0
"""Limits of a ratio that can exceed 1 are looked for up to here."""
SCALE_SPREADS: Final = 3.0
"""An amount is cut this many standard deviations above the mean of those before it."""


class Evidence(Protocol):
    """What a stream of calls says about one quantity."""

    @property
    def n(self) -> int:
        """Calls that bear on it."""

    @property
    def value(self) -> float | None:
        """The quantity in the calls seen; None when nothing bears on it."""

    @property
    def top(self) -> float:
        """The largest value that is looked at."""

    def log_evidence(self, bounds: Floats, side: Side, times: float = 1.0) -> Floats:
        """Return the log of the e-value that the quantity lies on that side of each bound.

        `times`: as if every call had been seen so many times (for forecasts, not for proofs).
        """


class Share(Struct, forbid_unknown_fields=True):
    """How often something is so."""

    n: Count = 0
    ones: Count = 0

    def observe(self, so: bool) -> None:
        """Take in one call."""
        self.n += 1
        self.ones += so

    @property
    def value(self) -> float | None:
        """The share seen."""
        return self.ones / self.n if self.n else None

    @property
    def top(self) -> float:
        """A share is at most 1."""
        return 1.0

    def log_evidence(self, bounds: Floats, side: Side, times: float = 1.0) -> Floats:
        """Return the log of the e-value that the share lies on that side of each bound."""
        return share_log_evidence(np.float64(self.ones * times), np.float64(self.n * times), bounds, side)


class Ratio(Struct, forbid_unknown_fields=True):
    """E top / E base of two amounts from 0 to 1."""

    weighted: bool = False
    """A call is given as a ratio from 0 to 1 and its weight: top = ratio * weight, base = weight."""
    nodes: Annotated[int, Meta(ge=2, le=64)] = 2
    """Of the grid, along the first amount; 2 is exact for yes/no."""
    base_nodes: Annotated[int, Meta(ge=2, le=64)] = 2
    n: Count = 0
    tops: Sum = 0.0
    bases: Sum = 0.0
    masses: list[Sum] = field(default_factory=list)
    """Calls on each node of the grid, the second amount's index running fastest."""

    def __post_init__(self) -> None:
        """Lay out the grid. Raises ValueError for masses that do not fit it."""
        self.masses = self.masses or [0.0] * (self.nodes * self.base_nodes)
        if len(self.masses) != self.nodes * self.base_nodes:
            raise ValueError(f"a grid of {self.nodes} x {self.base_nodes} does not hold {len(self.masses)} masses")

    def observe(self, first: float, second: float = 1.0) -> None:
        """Take in a call: top and base, or ratio and weight. Raises BadInputError for amounts outside 0 to 1."""
        if not (0.0 <= first <= 1.0 and 0.0 <= second <= 1.0):
            raise BadInputError(f"Both amounts must lie in 0 to 1, and are {first} and {second}.")
        self.n += 1
        self.tops += first * second if self.weighted else first
        self.bases += second
        row, right = _cell(first, self.nodes)
        column, up = _cell(second, self.base_nodes)
        place = row * self.base_nodes + column
        self.masses[place] += (1.0 - right) * (1.0 - up)
        self.masses[place + 1] += (1.0 - right) * up
        self.masses[place + self.base_nodes] += right * (1.0 - up)
        self.masses[place + self.base_nodes + 1] += right * up

    @property
    def value(self) -> float | None:
        """The ratio of the sums seen."""
        return self.tops / self.bases if self.bases else None

    @property
    def top(self) -> float:
        """The largest ratio that is looked at."""
        return 1.0 if self.weighted else RATIO_TOP

    def log_evidence(self, bounds: Floats, side: Side, times: float = 1.0) -> Floats:
        """Return the log of the e-value that the ratio lies on that side of each bound."""
        masses = np.array(self.masses) * times
        held = masses > 0.0
        gaps, least = node_gaps((self.nodes, self.base_nodes), bounds, side, weighted=self.weighted)
        with np.errstate(divide="ignore", invalid="ignore"):
            earned = np.log1p(BETS * (gaps[..., held] / least[..., None])[..., None])
        log_e = _mixed(np.einsum("...nb,n->...b", np.nan_to_num(earned, nan=0.0), masses[held]))
        return np.where(least > 0.0, log_e, np.where((gaps[..., held] > 0.0).any(axis=-1), np.inf, -np.inf))


class Amounts(Struct, forbid_unknown_fields=True):
    """The candidate's total over the reference's, both positive and without a bound, measured on the same calls.

    A nonparametric test cannot speak of the mean of what has no bound. What is tested is the ratio of totals after two
    cuts: a call on which the candidate takes more than `clip` times the reference counts as `clip` times; and a call's
    weight, its reference amount, is cut `SCALE_SPREADS` standard deviations above the mean of the calls before. `cut`
    counts both. The first call only sets the scale. Calls whose reference amount is 0 weigh nothing.
    """

    clip: Annotated[float, Meta(gt=1)] = 2.0
    ratio: Ratio = field(default_factory=lambda: Ratio(weighted=True, nodes=25, base_nodes=9))
    seen: Count = 0
    mean: Sum = 0.0
    """Of the reference amounts; with `squares` (Welford's sum of squared deviations) it sets the scale."""
    squares: Sum = 0.0
    total: Sum = 0.0
    """What the candidate took, uncut."""
    reference_total: Sum = 0.0
    cut: Count = 0

    def observe(self, amount: float, reference: float) -> None:
        """Take in one call. Raises BadInputError for what is negative or not finite."""
        if not (0.0 <= amount < math.inf and 0.0 <= reference < math.inf):
            raise BadInputError(f"Amounts must be finite and not negative: {amount} against {reference}.")
        limit = self.mean + SCALE_SPREADS * math.sqrt(self.squares / self.seen) if self.seen else 0.0
        if limit > 0.0:
            self._weigh(amount, reference, limit)
        self.seen += 1
        delta = reference - self.mean
        self.mean += delta / self.seen
        self.squares += delta * (reference - self.mean)
        self.total += amount
        self.reference_total += reference

    def _weigh(self, amount: float, reference: float, limit: float) -> None:
        weight = min(reference / limit, 1.0)
        times = min(amount / reference, self.clip) if reference else 0.0
        self.cut += reference > limit or amount > self.clip * reference
        self.ratio.observe(times / self.clip, weight)

    @property
    def n(self) -> int:
        """Calls that bear on it."""
        return self.ratio.n

    @property
    def value(self) -> float | None:
        """The ratio of the cut totals, which is what is tested."""
        share = self.ratio.value
        return None if share is None else share * self.clip

    @property
    def top(self) -> float:
        """No ratio exceeds the clip."""
        return self.clip

    def log_evidence(self, bounds: Floats, side: Side, times: float = 1.0) -> Floats:
        """Return the log of the e-value that the ratio lies on that side of each bound."""
        return self.ratio.log_evidence(np.asarray(bounds) / self.clip, side, times)


def share_log_evidence(ones: Floats | np.float64, n: Floats | np.float64, bounds: Floats, side: Side) -> Floats:
    """Return log e-values for counts; the three broadcast against each other."""
    yes, m = (ones, bounds) if side == "above" else (n - ones, 1.0 - bounds)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log1p(BETS * ((1.0 - m) / m)[..., None])
        capital = np.asarray(yes)[..., None] * gain + np.asarray(n - yes)[..., None] * np.log1p(-BETS)
    return np.where(m <= 0.0, np.where(yes > 0, np.inf, -np.inf), _mixed(capital))


def _cell(amount: float, nodes: int) -> tuple[int, float]:
    """Return the node below an amount, and how far it is on the way to the next one, 0 to 1."""
    place = amount * (nodes - 1)
    node = min(int(place), nodes - 2)
    return node, place - node


def node_gaps(shape: tuple[int, int], bounds: Floats, side: Side, *, weighted: bool) -> tuple[Floats, Floats]:
    """Return each node's gap to each bound (last axis: nodes), positive on that side, and the most that can be lost."""
    first, second = np.meshgrid(np.linspace(0.0, 1.0, shape[0]), np.linspace(0.0, 1.0, shape[1]), indexing="ij")
    theta = np.asarray(bounds)[..., None]
    gaps = second.ravel() * (first.ravel() - theta) if weighted else first.ravel() - theta * second.ravel()
    if side == "above":
        return gaps, np.asarray(bounds)
    return -gaps, 1.0 - bounds if weighted else np.ones_like(bounds)


def _mixed(capital: Floats) -> Floats:
    """Log of the mean over the bets (last axis)."""
    capital = np.nan_to_num(capital, nan=-1e300, posinf=1e300, neginf=-1e300)
    most = capital.max(axis=-1)
    mean: Floats = most + np.log(np.exp(capital - most[..., None]).mean(axis=-1))
    return mean


def log_evidence(evidence: Evidence, bound: float, side: Side) -> float:
    """Return the log of the e-value that the quantity lies on that side of the bound; log(1 / alpha) proves it."""
    return float(evidence.log_evidence(np.array([bound]), side)[0])


def p_value(evidence: Evidence, bound: float, side: Side) -> float:
    """Return min(1, 1 / e): a p-value that may be looked at at any time."""
    return min(1.0, math.exp(-max(log_evidence(evidence, bound, side), 0.0)))


def lower_limit(evidence: Evidence, alpha: float) -> float:
    """Return the lower limit of the confidence sequence, right at all times with probability 1 - alpha."""
    return _limit(evidence, alpha, "above")


def upper_limit(evidence: Evidence, alpha: float) -> float:
    """Return the upper limit of the confidence sequence, right at all times with probability 1 - alpha."""
    return _limit(evidence, alpha, "below")


def _limit(evidence: Evidence, alpha: float, side: Side) -> float:
    """Walk from the end of the range inwards to the first value that is not refuted; then again, within that cell."""
    if not 0.0 < alpha < 1.0:
        raise BadInputError(f"`alpha` must lie between 0 and 1, and is {alpha}.")
    outer, inner = (0.0, evidence.top) if side == "above" else (evidence.top, 0.0)
    for _ in range(_REFINEMENTS):
        grid = outer + (inner - outer) * _GRID
        refuted = evidence.log_evidence(grid, side) >= -math.log(alpha)
        kept = len(grid) - 1 if refuted.all() else int(np.argmin(refuted))
        if kept == 0:
            return float(outer)
        outer, inner = float(grid[kept - 1]), float(grid[kept])
    return outer


def calls_until(evidence: Evidence, bound: float, side: Side, alpha: float) -> int | None:
    """Return how many more calls would prove it if all went on as so far: 0 if proven, None if they never would."""
    needed = -math.log(alpha)
    if log_evidence(evidence, bound, side) >= needed:
        return 0
    place = np.array([bound])
    low, high = 1.0, 2.0
    while evidence.log_evidence(place, side, high)[0] < needed:
        low, high = high, high * 2.0
        if high > _MOST_TIMES:
            return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if evidence.log_evidence(place, side, middle)[0] >= needed else (middle, high)
    return max(1, math.ceil(evidence.n * (high - 1.0)))
