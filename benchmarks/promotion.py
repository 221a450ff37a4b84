"""Promotion and demotion: how often are they wrong, how long do they take, beside fixed and naive tests?

    python -m benchmarks.promotion [--runs 2000] [--part wrong|wait|tests|demotion|speed] [--json]

`wrong`: specialists that just miss one gate (its quantity is exactly at the bound) and pass all others with certainty;
the share of runs in which they are promoted within 2,000 calls. Ours looks at every call; so does the naive z-test; the
other two look once, at call 300. `turned away`: the gate is called failed, which at its bound it is not. `wait`: calls
until good specialists are promoted, all gates drawn. `tests`: our evidence beside other valid sequential tests on the
same streams. `demotion`: both formatting rules.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.demotion import DemotionPolicy, DemotionWatch, FormattingDemotion, LiveCall
from policies.promotion import GATES, PromotionPolicy, ShadowOutcome, TrialState, decide
from policies.promotion_trial import COST_CLIP, LATENCY_CLIP
from policies.sequential import (
    BETS,
    SCALE_SPREADS,
    Amounts,
    Ratio,
    Side,
    node_gaps,
    share_log_evidence,
)

ALPHA, FLOOR, CALLS, CHUNK = 0.05, 300, 2_000, 50
NEEDED = -math.log(ALPHA)
POLICY = PromotionPolicy()
Floats = NDArray[np.float64]
Table = list[dict[str, Any]]


def shares(rng: np.random.Generator, runs: int, calls: int, rate: float) -> tuple[Floats, Floats]:
    """Tops and bases of a share."""
    return (rng.random((runs, calls)) < rate).astype(float), np.ones((runs, calls))


def parity(
    rng: np.random.Generator, runs: int, calls: int, rate: float, reference: float = 0.9
) -> tuple[Floats, Floats]:
    """Rights of both on calls that are partly hard for both; the chain's rate is `rate` times the reference's."""
    reference = 0.9
    hard, own = rng.random((runs, calls)), rng.random((runs, calls))
    chain = np.where(rng.random((runs, calls)) < 0.7, hard, own) < rate * reference
    return chain.astype(float), (hard < reference).astype(float)


Kinds = tuple[float, float, float]


def amounts(rng: np.random.Generator, runs: int, calls: int, mean: float, kinds: Kinds) -> tuple[Floats, Floats]:
    """Tops and bases of cut amounts; a call's ratio is the lesser or the greater of the kinds, a little scattered."""
    low, high, clip = kinds
    p_high = (mean - low) / (high - low)
    times = np.where(rng.random((runs, calls)) < p_high, high, low) * rng.uniform(0.8, 1.2, (runs, calls))
    return cut(np.minimum(times, clip), rng.lognormal(0.0, 0.5, (runs, calls)), clip)


def cut(times: Floats, reference: Floats, clip: float) -> tuple[Floats, Floats]:
    """What `Amounts` makes of calls, all runs at once; the first call only sets the scale."""
    n = np.arange(1.0, reference.shape[1] + 1)
    mean = np.cumsum(reference, axis=1) / n
    spread = np.sqrt(np.maximum(np.cumsum(reference**2, axis=1) / n - mean**2, 0.0))
    limit = np.roll(mean + SCALE_SPREADS * spread, 1, axis=1)
    weight = np.minimum(reference / limit, 1.0)
    weight[:, 0] = 0.0
    return weight * np.minimum(times, clip) / clip, weight


def evidence(gate: str, top: Floats, base: Floats, bound: float, side: Side) -> Floats:
    """Log e-values after every call, shape (runs, calls)."""
    if gate in ("well_formed", "escalations", "accepted_wrong"):
        ones = np.cumsum(top, axis=1)
        return share_log_evidence(ones, np.cumsum(base, axis=1), np.array(bound), side)
    ratio = Ratio() if gate == "success_parity" else Amounts().ratio
    first = np.divide(top, base, out=np.zeros_like(top), where=base > 0) if ratio.weighted else top
    shape = (ratio.nodes, ratio.base_nodes)
    gaps, least = node_gaps(shape, np.array(bound), side, weighted=ratio.weighted)
    places, parts = corners(first, base, shape)
    paths = [np.cumsum((np.log1p(bet * gaps / least)[places] * parts).sum(axis=-1), axis=1) for bet in BETS]
    return _mixture(np.stack(paths))


def corners(first: Floats, second: Floats, shape: tuple[int, int]) -> tuple[NDArray[np.int64], Floats]:
    """Where `Ratio` lays calls down: the four nodes around each and the part of it that each gets (last axis)."""
    rows, columns = (np.minimum((x * (n - 1)).astype(int), n - 2) for x, n in ((first, shape[0]), (second, shape[1])))
    right, up = first * (shape[0] - 1) - rows, second * (shape[1] - 1) - columns
    place = rows * shape[1] + columns
    places = np.stack([place, place + 1, place + shape[1], place + shape[1] + 1], axis=-1)
    return places, np.stack([(1 - right) * (1 - up), (1 - right) * up, right * (1 - up), right * up], axis=-1)


def _mixture(paths: Floats) -> Floats:
    """Log of the mean capital over the bets (first axis)."""
    most = paths.max(axis=0)
    mean: Floats = most + np.log(np.exp(paths - most).mean(axis=0))
    return mean


class Gate:
    """A gate with a world to draw from: `draw(rng, runs, calls, quantity)` gives tops and bases."""

    def __init__(self, name: str, draw: Callable[..., tuple[Floats, Floats]], clip: float = 1.0) -> None:
        self.name, self.draw, self.clip = name, draw, clip
        self.kind = GATES[name]  # type: ignore[index]
        self.bound = self.kind.tested(float(getattr(POLICY.gates, name)))

    def evidence(self, top: Floats, base: Floats) -> Floats:
        """Log e-values that the gate holds."""
        return evidence(self.name, top, base, self.bound / self.clip, self.kind.proof)

    def z(self, top: Floats, base: Floats) -> Floats:
        """z-statistics after every call for top - bound base, towards the proof."""
        gap = (top - self.bound / self.clip * base) * (1.0 if self.kind.proof == "above" else -1.0)
        n = np.arange(1.0, gap.shape[1] + 1)
        mean = np.cumsum(gap, axis=1) / n
        spread = np.sqrt(np.maximum(np.cumsum(gap**2, axis=1) / n - mean**2, 1e-12))
        return mean / spread * np.sqrt(n)

    def estimate(self, top: Floats, base: Floats) -> NDArray[np.bool_]:
        """Whether the figures seen meet the bound, after every call."""
        ratio = np.cumsum(top, axis=1) / np.maximum(np.cumsum(base, axis=1), 1e-12)
        bound = self.bound / self.clip
        return ratio >= bound - 1e-12 if self.kind.proof == "above" else ratio <= bound + 1e-12


def slow(rng: np.random.Generator, runs: int, calls: int, quantity: float) -> tuple[Floats, Floats]:
    """Half the calls are half as long as the frontier's; the others, slow ones and escalations, make the mean."""
    return amounts(rng, runs, calls, quantity, (0.5 * quantity, 1.5 * quantity, LATENCY_CLIP))


def dear(rng: np.random.Generator, runs: int, calls: int, quantity: float) -> tuple[Floats, Floats]:
    """A tenth of the frontier's cost, and a tenth more than it where a call escalates."""
    return amounts(rng, runs, calls, quantity, (0.1, 1.1, COST_CLIP))


WORLDS = [
    Gate("well_formed", shares),
    Gate("success_parity", parity),
    Gate("latency_increase", slow, LATENCY_CLIP),
    Gate("cost_saving", dear, COST_CLIP),
    Gate("escalations", shares),
    Gate("accepted_wrong", shares),
]


def chunks(runs: int, seed: list[int]) -> Iterator[tuple[np.random.Generator, int]]:
    """Few runs at a time, so that a look at every call fits into memory."""
    for start in range(0, runs, CHUNK):
        yield np.random.default_rng([*seed, start]), min(CHUNK, runs - start)


LOOKS = ("ours, every call", "ours, from 300", "turned away", "z, every call", "z, at 300", "figures at 300")


def measure_wrong(runs: int) -> Table:
    """Exactly at the bound: how often is each gate proven?"""
    rows = []
    for place, gate in enumerate(WORLDS):
        counts = dict.fromkeys(LOOKS, 0)
        for rng, part in chunks(runs, [1, place]):
            top, base = gate.draw(rng, part, CALLS, gate.bound)
            proven = gate.evidence(top, base) >= NEEDED
            against: Side = "below" if gate.kind.proof == "above" else "above"
            failed = evidence(gate.name, top, base, gate.bound / gate.clip, against) >= NEEDED + math.log(len(WORLDS))
            counts["turned away"] += int(failed.any(axis=1).sum())
            z = gate.z(top, base) > 1.645
            counts["ours, every call"] += int(proven.any(axis=1).sum())
            counts["ours, from 300"] += int(proven[:, FLOOR - 1 :].any(axis=1).sum())
            counts["z, every call"] += int(z[:, 29:].any(axis=1).sum())
            counts["z, at 300"] += int(z[:, FLOOR - 1].sum())
            counts["figures at 300"] += int(gate.estimate(top, base)[:, FLOOR - 1].sum())
        rows.append({"gate": gate.name} | {name: _percent(count / runs) for name, count in counts.items()})
        _progress(rows[-1])
    return rows


GOOD = {"well_formed": 1.0, "success_parity": 1.03, "latency_increase": 0.5, "cost_saving": 0.15, "escalations": 0.01}
SPECIALISTS: list[tuple[str, dict[str, float]]] = [
    ("excellent", {"accepted_wrong": 0.01}),
    ("99.7 % well-formed", {"well_formed": 0.997, "accepted_wrong": 0.01}),
    ("99.5 % well-formed", {"well_formed": 0.995, "accepted_wrong": 0.01}),
    ("99 % well-formed", {"well_formed": 0.99, "accepted_wrong": 0.01}),
    ("2.5 % escalated, 2.5 % wrong", {"escalations": 0.025, "accepted_wrong": 0.025}),
    ("as right as the frontier", {"success_parity": 1.0, "accepted_wrong": 0.02}),
]


def measure_wait(runs: int) -> Table:
    """All six gates at once: calls until every one is proven at the same look, and what a single look would give."""
    rows, calls = [], 4_000
    for place, (name, rates) in enumerate(SPECIALISTS):
        first: list[float] = []
        bare: list[float] = []
        at_300 = figures = 0
        for rng, part in chunks(runs, [2, place]):
            proven = np.ones((part, calls), dtype=bool)
            tested = seen = np.ones(part, dtype=bool)
            for gate in WORLDS:
                top, base = gate.draw(rng, part, calls, (GOOD | rates)[gate.name])
                proven &= gate.evidence(top, base) >= NEEDED
                tested = tested & _fixed_test(gate, top[:, :FLOOR], base[:, :FLOOR])
                seen = seen & gate.estimate(top, base)[:, FLOOR - 1]
            bare += _first(proven)
            proven[:, : FLOOR - 1] = False
            first += _first(proven)
            at_300, figures = at_300 + int(tested.sum()), figures + int(seen.sum())
        row = {"specialist": name, "median calls": _middle(first, 50, calls), "90 %": _middle(first, 90, calls)}
        row |= {"median without floor": _middle(bare, 50, calls)}
        row |= {"ours at 300": _percent(np.mean(np.array(first) <= FLOOR))}
        row |= {"one test at 300": _percent(at_300 / runs), "figures at 300": _percent(figures / runs)}
        rows.append(row)
        _progress(row)
    return rows


def _fixed_test(gate: Gate, top: Floats, base: Floats) -> NDArray[np.bool_]:
    """One look at the end: exact binomial for shares, z for the others."""
    if gate.name not in ("well_formed", "escalations", "accepted_wrong"):
        return gate.z(top, base)[:, -1] > 1.645
    p_bad = 1.0 - gate.bound if gate.kind.proof == "above" else gate.bound
    bad = (base - top if gate.kind.proof == "above" else top).sum(axis=1)
    n, k, tail = top.shape[1], -1, 0.0
    while tail <= ALPHA:
        k += 1
        tail += math.comb(n, k) * p_bad**k * (1 - p_bad) ** (n - k)
    return bad < k


def measure_tests(runs: int) -> Table:
    """Median calls to the proof (of 4,000) by other valid tests on the same streams."""
    cases: list[tuple[str, Gate, float]] = [
        ("well-formed 100 %", WORLDS[0], 1.0),
        ("well-formed 99.5 %", WORLDS[0], 0.995),
        ("parity 1.00", WORLDS[1], 1.0),
        ("latency -20 %", WORLDS[2], 0.8),
        ("latency 0 %", WORLDS[2], 1.0),
        ("saving 50 %", WORLDS[3], 0.5),
        ("escalations 2.5 %", WORLDS[4], 0.025),
    ]
    rows, calls = [], 4_000
    for place, (name, gate, quantity) in enumerate(cases):
        waits: dict[str, list[float]] = {"ours": [], "true bets, same mixture": [], "aGRAPA": [], "Hoeffding": []}
        for rng, part in chunks(min(runs, 200), [3, place]):
            top, base = gate.draw(rng, part, calls, quantity)
            waits["ours"] += _first(gate.evidence(top, base) >= NEEDED)
            gap, least, span = _game(gate, top, base)
            waits["true bets, same mixture"] += _first(_true_bets(gap / least) >= NEEDED)
            waits["aGRAPA"] += _first(_agrapa(gap / least) >= NEEDED)
            waits["Hoeffding"] += _first(_hoeffding(gap / span) >= NEEDED)
        rows.append({"stream": name} | {test: _middle(found, 50, calls) for test, found in waits.items()})
        _progress(rows[-1])
    return rows


def _game(gate: Gate, top: Floats, base: Floats) -> tuple[Floats, float, float]:
    bound = gate.bound / gate.clip
    capped = gate.name != "success_parity"
    span = 1.0 if capped else 1.0 + bound
    if gate.kind.proof == "above":
        return top - bound * base, bound, span
    return bound * base - top, span - bound, span


def _true_bets(xi: Floats) -> Floats:
    """Capital of the mixture of true bets (needs a path of every bet, and of every theta that may be asked for)."""
    return _mixture(np.stack([np.cumsum(np.log1p(bet * xi), axis=1) for bet in BETS]))


def _agrapa(xi: Floats) -> Floats:
    """Waudby-Smith and Ramdas 2024, section B.3: bets from the mean and variance so far, at most half the stake."""
    n = np.arange(1.0, xi.shape[1] + 1)
    mean = np.cumsum(xi, axis=1) / (n + 1)
    square = (0.25 + np.cumsum(xi**2, axis=1)) / (n + 1)
    bet = np.clip(np.roll(mean / square, 1, axis=1), 0.0, 0.5)
    bet[:, 0] = 0.0
    return np.cumsum(np.log1p(bet * xi), axis=1)


def _hoeffding(gap: Floats) -> Floats:
    """Normal mixture for variables of range 1 (1/4-sub-Gaussian), tuned for 500 calls."""
    n = np.arange(1.0, gap.shape[1] + 1)
    sums, variance, rho = np.maximum(np.cumsum(gap, axis=1), 0.0), n / 4.0, 500 / 4.0 / 8.0
    return 0.5 * np.log(rho / (variance + rho)) + sums**2 / (2 * (variance + rho))


def measure_demotion(runs: int) -> Table:
    """Calls until each rule demotes, by the share of malformed answers."""
    rows: Table = []
    for rate in (0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.50, 1.0):
        row: dict[str, Any] = {"malformed": f"{rate:.1%}"}
        for rule in ("rolling", "evidence"):
            policy = DemotionPolicy(formatting=FormattingDemotion(rule=rule))  # type: ignore[arg-type]
            count = min(runs, 100 if rate < 0.03 else 1_000)
            waits = np.array([_demoted_after(rate, policy, seed) for seed in range(count)])
            row |= {f"{rule}: median": f"{np.median(waits):,.0f}", f"{rule}: in 100": _percent(np.mean(waits <= 100))}
            row |= {f"{rule}: per 10,000": f"{count * 10_000 / waits.sum():.1f}" if rate < 0.03 else "-"}
        rows.append(row)
        _progress(row)
    return rows


def _demoted_after(rate: float, policy: DemotionPolicy, seed: int, most: int = 60_000) -> int:
    rng, watch = np.random.default_rng([4, int(1e4 * rate), seed]), DemotionWatch()
    for call in range(1, most + 1):
        if watch.observe(LiveCall(call_id="", well_formed=bool(rng.random() >= rate)), policy):
            return call
    return most


def measure_speed(_runs: int) -> Table:
    """Microseconds a call and a decision take."""
    rng, state = np.random.default_rng(5), TrialState(specialist="s")
    outcomes = [
        ShadowOutcome(
            call_id=str(call), well_formed=True, success=True, reference_success=bool(rng.random() < 0.9),
            latency_ms=100 * rng.random(), reference_latency_ms=100.0, cost_usd=1e-5, reference_cost_usd=1e-4,
            escalated=False, accepted_wrong=False,
        )
        for call in range(5_000)
    ]  # fmt: skip
    started = time.perf_counter()
    for outcome in outcomes:
        state.observe(outcome)
    observed = time.perf_counter()
    for _ in range(50):
        decide(state, POLICY)
    decided = time.perf_counter()
    exported = len(json.dumps(state.exported()))
    _check_vectorised()
    return [
        {"what": "observe, us", "value": f"{(observed - started) / 5_000 * 1e6:.1f}"},
        {"what": "decide, us", "value": f"{(decided - observed) / 50 * 1e6:,.0f}"},
        {"what": "state, bytes of JSON", "value": f"{exported}"},
    ]


def _check_vectorised() -> None:
    """The benchmark's own cutting of amounts is the product's."""
    rng = np.random.default_rng(6)
    reference, times = rng.lognormal(0.0, 0.5, (1, 200)), rng.uniform(0.1, 1.9, (1, 200))
    stream = Amounts(clip=2.0)
    for one, other in zip(times[0], reference[0], strict=True):
        stream.observe(float(one * other), float(other))
    top, base = cut(times, reference, 2.0)
    shape = (stream.ratio.nodes, stream.ratio.base_nodes)
    places, parts = corners(np.divide(top, base, out=np.zeros_like(top), where=base > 0)[:, 1:], base[:, 1:], shape)
    assert np.allclose(np.bincount(places.ravel(), parts.ravel(), len(stream.ratio.masses)), stream.ratio.masses)
    assert math.isclose(stream.ratio.tops, top.sum(), rel_tol=1e-6)
    assert math.isclose(stream.ratio.bases, base.sum(), rel_tol=1e-6)


def _first(reached: NDArray[np.bool_]) -> list[float]:
    """Calls until the first look that reaches it, inf if none does."""
    found: list[float] = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf).tolist()
    return found


def _middle(waits: list[float], percent: float, most: int) -> str:
    value = float(np.percentile(np.array(waits), percent, method="higher"))
    return f"{value:,.0f}" if math.isfinite(value) else f"> {most:,}"


def _percent(value: float | np.floating[Any]) -> str:
    return f"{100 * float(value):.1f} %"


def _progress(row: dict[str, Any]) -> None:
    print(f"  {next(iter(row.values()))}", file=sys.stderr, flush=True)


PARTS: dict[str, Callable[[int], Table]] = {
    "wrong": measure_wrong,
    "wait": measure_wait,
    "tests": measure_tests,
    "demotion": measure_demotion,
    "speed": measure_speed,
}


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tables = {part: PARTS[part](args.runs) for part in PARTS if args.part in (None, part)}
    if args.json:
        print(json.dumps(tables, indent=2))
        return
    for part, rows in tables.items():
        print(f"\n{part}: {(PARTS[part].__doc__ or '').strip()}\n")
        head = list(rows[0])
        for cells in (head, ["---"] * len(head), *([str(row[key]) for key in head] for row in rows)):
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
