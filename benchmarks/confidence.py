"""Confidence thresholds: is the bound kept, and what does it cost in coverage, beside the alternatives?

    python benchmarks/confidence.py [--runs 2000] [--part sample|time|drift|selection|speed] [--json]

Simulated specialists whose true risk at every threshold is known. `broken` is the share of runs whose threshold's TRUE
risk exceeds alpha: it may be at most delta, give or take the Monte Carlo error (printed). `coverage` is the true share
of calls accepted, nothing accepted counting as 0; `oracle` is the most that any threshold with risk <= alpha accepts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from policies.confidence import allowed_wrong, binomial_cdf, calibrate, sample_of
from policies.confidence_book import ConfidenceBook, JudgedAnswer
from policies.learning import ConfidencePolicy

ALPHA, DELTA = 0.05, 0.1
GRID = np.linspace(-4.0, 6.0, 50)
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class World(Struct, frozen=True):
    """A specialist: wrong answers score N(0, 1), right ones N(shift, 1), rounded down to `step` if there are ties."""

    name: str
    shift: float
    error: float
    step: float = 0.0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Floats, Bools]:
        """Scores of n answers, and which are right."""
        right = rng.random(n) >= self.error
        scores = rng.standard_normal(n) + self.shift * right
        return (np.floor(scores / self.step) * self.step if self.step else scores), right

    def risk(self, threshold: float | None) -> float:
        """True P(accepted and wrong)."""
        return 0.0 if threshold is None else self.error * _tail(self._effective(threshold))

    def coverage(self, threshold: float | None) -> float:
        """True P(accepted)."""
        if threshold is None:
            return 0.0
        at = self._effective(threshold)
        return self.error * _tail(at) + (1.0 - self.error) * _tail(at - self.shift)

    def oracle(self) -> float:
        """The most coverage that keeps the bound."""
        return max(self.coverage(t) for t in np.linspace(-8.0, 8.0, 3201).tolist() if self.risk(t) <= ALPHA)

    def _effective(self, threshold: float) -> float:
        return math.ceil(threshold / self.step - 1e-9) * self.step if self.step else threshold


def _tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2.0))


# shift = sqrt(2) * the normal quantile of the AUROC: 0.9, 0.6
KINDS = (("AUROC 0.9", 1.8124, 0.0), ("AUROC 0.6", 0.3583, 0.0), ("AUROC 0.9, ties", 1.8124, 1.0))
ERRORS = (0.02, 0.1, 0.3, 0.6)
SIZES = (50, 300, 2000)


def _loosest(scores: Floats, right: Bools, allowed: int) -> float | None:
    """The least of the sample's scores with at most so many accepted and wrong."""
    wrong = np.sort(scores[~right])[::-1]
    if allowed < 0:
        return None
    passing = scores if len(wrong) <= allowed else scores[scores > wrong[allowed]]
    return float(passing.min()) if len(passing) else None


def ours(scores: Floats, right: Bools) -> float | None:
    """Learn then Test, fixed sequence over every real number, exact binomial."""
    return calibrate(sample_of(scores.tolist(), right.tolist()), ALPHA, DELTA).threshold


def on_grid(scores: Floats, right: Bools) -> float | None:
    """The same over 50 thresholds fixed beforehand."""
    return _on_grid(scores, right, allowed_wrong(len(scores), ALPHA, DELTA))


def bonferroni(scores: Floats, right: Bools) -> float | None:
    """Each of 50 thresholds at delta / 50; the loosest that passes."""
    return _on_grid(scores, right, allowed_wrong(len(scores), ALPHA, DELTA / len(GRID)))


def _on_grid(scores: Floats, right: Bools, allowed: int) -> float | None:
    wrong = scores[~right]
    passing = [t for t in GRID.tolist() if (wrong >= t).sum() <= allowed]
    return min(passing) if passing else None


def hoeffding_bentkus(scores: Floats, right: Bools) -> float | None:
    """The fixed sequence with the Hoeffding-Bentkus p-value of the paper's section 2."""
    n, allowed = len(scores), -1
    while _hb(allowed + 1, n) <= DELTA:
        allowed += 1
    return _loosest(scores, right, allowed)


def _hb(k: int, n: int) -> float:
    share = min(k / n, ALPHA)
    h = (share * math.log(share / ALPHA) if share else 0.0) + (1 - share) * math.log((1 - share) / (1 - ALPHA))
    return min(math.exp(-n * h), math.e * binomial_cdf(k, n, ALPHA))


def naive(scores: Floats, right: Bools) -> float | None:
    """The least threshold whose share in the sample is at most alpha: no allowance for chance."""
    return _loosest(scores, right, math.floor(ALPHA * len(scores) + 1e-9))


def conformal(scores: Floats, right: Bools) -> float | None:
    """Conformal risk control (arXiv:2208.02814): E[risk] <= alpha over samples, and no more than that."""
    return _loosest(scores, right, math.floor(ALPHA * (len(scores) + 1) - 1 + 1e-9))


METHODS: dict[str, Callable[[Floats, Bools], float | None]] = {
    "ours": ours,
    "fixed grid": on_grid,
    "H-Bentkus": hoeffding_bentkus,
    "Bonferroni": bonferroni,
    "conformal": conformal,
    "naive": naive,
}


def measure_samples(runs: int) -> list[dict[str, Any]]:
    """One calibration of one sample."""
    rows = []
    for name, shift, step in KINDS:
        for error in ERRORS:
            world = World(name, shift, error, step)
            for n in SIZES:
                rng = np.random.default_rng([int(1000 * error), n, int(10 * step), int(1000 * shift)])
                found: dict[str, list[float | None]] = {method: [] for method in METHODS}
                for _ in range(runs):
                    scores, right = world.draw(n, rng)
                    for method, choose in METHODS.items():
                        found[method].append(choose(scores, right))
                row: dict[str, Any] = {"world": name, "error": error, "n": n, "oracle": world.oracle()}
                for method, thresholds in found.items():
                    risks = np.array([world.risk(t) for t in thresholds])
                    row[method] = {
                        "broken": float((risks > ALPHA + 1e-12).mean()),
                        "risk": float(risks.mean()),
                        "coverage": float(np.mean([world.coverage(t) for t in thresholds])),
                    }
                rows.append(row)
                print(f"{len(rows)} of {len(KINDS) * len(ERRORS) * len(SIZES)}", file=sys.stderr)
    return rows


def print_samples(rows: list[dict[str, Any]], runs: int) -> None:
    """The table, and the worst of each method."""
    error = math.sqrt(DELTA * (1 - DELTA) / runs)
    print(f"One sample: alpha {ALPHA}, delta {DELTA}, {runs} runs; broken % / coverage %; one sd of broken {error:.2%}")
    print(f"{'world':16} {'wrong':>5} {'n':>5} {'oracle':>6} " + " ".join(f"{m:>13}" for m in METHODS))
    for row in rows:
        cells = (f"{100 * row[m]['broken']:5.1f} / {100 * row[m]['coverage']:5.1f}" for m in METHODS)
        print(
            f"{row['world']:16} {row['error']:5.0%} {row['n']:5} {row['oracle']:6.1%} "
            + " ".join(f"{c:>13}" for c in cells)
        )
    for method in METHODS:
        worst = max(row[method]["broken"] for row in rows)
        risk = max(row[method]["risk"] for row in rows)
        kept = "kept" if worst <= DELTA + 3 * error else "BROKEN"
        print(f"{method:>12}: at worst {worst:.1%} broken ({kept}), mean risk at most {risk:.2%}")


def measure_time(runs: int) -> list[dict[str, Any]]:
    """A book over 10,000 answers of unchanging traffic: share of runs in which ANY calibration broke the bound."""
    rows = []
    for world in (World("AUROC 0.9", 1.8124, 0.3), World("AUROC 0.6", 0.3583, 0.1)):
        rng = np.random.default_rng(7)
        broken = {"delta spent over time": 0, "delta each time": 0}
        coverage, early, each, rounds = [], [], [], 0
        for run in range(runs):
            book, bad, bad_each, last = ConfidenceBook(ConfidencePolicy()), False, False, None
            for n, (score, right) in enumerate(_pairs(world, 10_000, rng)):
                made = book.observe("s", JudgedAnswer(id=f"{run}:{n}", at_ms=n, score=score, right=right))
                if n == 300:
                    early.append(world.coverage(_calibrated(book)))
                if made is None:
                    continue
                rounds += 1
                last = calibrate(book.sample("s"), ALPHA, DELTA).threshold
                bad |= world.risk(made.threshold) > ALPHA
                bad_each |= world.risk(last) > ALPHA
            broken["delta spent over time"] += bad
            broken["delta each time"] += bad_each
            coverage.append(world.coverage(_calibrated(book)))
            each.append(world.coverage(last))
        for method, final in (("delta spent over time", coverage), ("delta each time", each)):
            share = broken[method] / runs
            rows.append({"world": world.name, "error": world.error, "method": method, "ever broken": share})
            rows[-1] |= {"coverage after 300": float(np.mean(early)) if method.startswith("delta spent") else "-"}
            rows[-1] |= {"coverage": float(np.mean(final)), "oracle": world.oracle(), "rounds": rounds / runs}
    return rows


class _Deaf(ConfidenceBook):
    """A book whose alarm never rings."""

    def _rings(self, shelf: Any, threshold: float) -> bool:
        return False


def measure_drift(runs: int) -> list[dict[str, Any]]:
    """The share of wrong answers jumps from 5 % to 25 % after 3,000 answers, each judged: mean true risk afterwards."""
    after = (0, 50, 100, 200, 400, 800, 1500, 3000)
    rows = []
    for name, kind in (("with the alarm", ConfidenceBook), ("without", _Deaf)):
        risks: dict[int, list[float]] = {k: [] for k in after}
        coverage = []
        before, now = World("AUROC 0.9", 1.8124, 0.05), World("AUROC 0.9", 1.8124, 0.25)
        rng = np.random.default_rng(11)
        for run in range(runs):
            book = kind(ConfidencePolicy())
            pairs = _pairs(before, 3000, rng) + _pairs(now, max(after) + 1, rng)
            for n, (score, right) in enumerate(pairs):
                if n - 3000 in risks:
                    risks[n - 3000].append(now.risk(_calibrated(book)))
                book.observe("s", JudgedAnswer(id=f"{run}:{n}", at_ms=n, score=score, right=right))
            coverage.append(now.coverage(_calibrated(book)))
        row: dict[str, Any] = {"method": name, "coverage at the end": float(np.mean(coverage)), "oracle": now.oracle()}
        rows.append(row | {f"+{k}": float(np.mean(values)) for k, values in risks.items()})
    return rows


FEEDS = ("all judged", "escalated compared", "escalated unjudged", "feedback alone", "pooled")
"""Believed answers are judged with chance 0.1, but for the first. `pooled`: as the second, all taken as even."""


def measure_selection(runs: int) -> list[dict[str, Any]]:
    """300 shadow answers, then 6,000 live ones that are judged by what the threshold in force did with them."""
    rows = []
    for world in (World("AUROC 0.9", 1.8124, 0.3), World("AUROC 0.6", 0.3583, 0.1)):
        for feed in FEEDS:
            rng = np.random.default_rng(13)
            broken, risks, coverage = 0, [], []
            for run in range(runs):
                book, bad = ConfidenceBook(ConfidencePolicy()), False
                for n, (score, right) in enumerate(_pairs(world, 6300, rng)):
                    threshold = book.threshold("s", None) if n >= 300 else None
                    answer = _selected(feed, f"{run}:{n}", score, right, threshold, rng.random())
                    if answer is not None and book.observe("s", answer) is not None:
                        bad |= world.risk(_calibrated(book)) > ALPHA
                broken += bad
                risks.append(world.risk(_calibrated(book)))
                coverage.append(world.coverage(_calibrated(book)))
            row = {"world": world.name, "error": world.error, "feed": feed, "ever broken": broken / runs}
            row |= {"risk": float(np.mean(risks)), "coverage": float(np.mean(coverage)), "oracle": world.oracle()}
            rows.append(row)
            print(f"{world.name}, {feed}: done", file=sys.stderr)
    return rows


def _selected(
    feed: str, name: str, score: float, right: bool, threshold: float | None, luck: float
) -> JudgedAnswer | None:
    """What is known of one answer under a feed."""
    plain = JudgedAnswer(id=name, at_ms=int(name.split(":")[1]), score=score, right=right)
    if threshold is None:
        return plain
    believed = score >= threshold
    if feed == "all judged":
        return plain
    if (believed and luck >= 0.1) or (not believed and feed == "feedback alone"):
        return None
    if feed == "pooled":
        return plain
    if feed == "feedback alone":
        return structs.replace(plain, judged_from=threshold)
    chosen = structs.replace(plain, chance=0.1 if believed else 1.0, least_chance=0.1)
    if feed == "escalated compared":
        return chosen
    return structs.replace(chosen, right=right if believed else None, judged_from=threshold)


def measure_speed() -> list[dict[str, Any]]:
    """Microseconds of one call, best of five."""
    rng = np.random.default_rng(17)
    pairs = _pairs(World("", 1.8124, 0.1), 20_000, rng)
    answers = [JudgedAnswer(id=str(n), at_ms=n, score=s, right=r) for n, (s, r) in enumerate(pairs)]
    sample = sample_of([s for s, _ in pairs[:2000]], [r for _, r in pairs[:2000]])

    def observe() -> None:
        book = ConfidenceBook(ConfidencePolicy())
        for answer in answers:
            book.observe("s", answer)

    book = ConfidenceBook(ConfidencePolicy())
    for answer in answers:
        book.observe("s", answer)
    actions: dict[str, tuple[Callable[[], object], int]] = {
        "observe (calibrations shared out)": (observe, len(answers)),
        "threshold": (lambda: [book.threshold("s", None) for _ in range(1000)], 1000),
        "calibrate 2,000 answers": (lambda: calibrate(sample, ALPHA, DELTA), 1),
        "risk and coverage of 2,000": (lambda: (book.risk("s"), book.coverage("s")), 1),
        "state": (book.state, 1),
    }
    rows = []
    for name, (action, calls) in actions.items():
        took = []
        for _ in range(5):
            started = time.perf_counter()
            action()
            took.append(time.perf_counter() - started)
        rows.append({"what": name, "us": 1e6 * min(took) / calls})
    return rows


def _pairs(world: World, n: int, rng: np.random.Generator) -> list[tuple[float, bool]]:
    scores, right = world.draw(n, rng)
    return list(zip(scores.tolist(), right.tolist(), strict=True))


def _calibrated(book: ConfidenceBook) -> float | None:
    """The threshold in force; None: nothing is accepted (before the first calibration nothing is)."""
    threshold = book.threshold("s", math.inf)
    return None if threshold == math.inf else threshold


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A plain table."""
    print(f"\n{title}")
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))


TITLES = {
    "time": "10,000 answers of unchanging traffic: share of runs in which ANY calibration broke the bound",
    "drift": "The share of wrong answers jumps from 5 % to 25 %, all judged: mean true risk so many answers later",
    "selection": "300 shadow answers, then 6,000 live ones, judged by what the threshold in force did with them",
    "speed": "Microseconds of one call, best of five",
}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--part", choices=["sample", "time", "drift", "selection", "speed"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs, fewer = options.runs, max(1, options.runs // 4)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "sample": lambda: measure_samples(runs),
        "time": lambda: measure_time(fewer),
        "drift": lambda: measure_drift(max(1, runs // 20)),
        "selection": lambda: measure_selection(max(1, runs // 10)),
        "speed": measure_speed,
    }
    found = {name: part() for name, part in parts.items() if options.part in {None, name}}
    if options.json:
        print(json.dumps(found))
        return
    for name, rows in found.items():
        if name == "sample":
            print_samples(rows, runs)
        else:
            print_rows(TITLES[name], rows)


if __name__ == "__main__":
    main()
