"""What a belief, a lesson and a choice cost at 50 candidates x 10,000 clusters, beside solving each arm on each call.

    python benchmarks/bandit.py [--arms 50] [--clusters 10000] [--dimension 45] [--calls 4000]

Times are this thread's own, so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.bandit import Bandit, Context
from policies.bandit_drift import MEMORIES
from policies.bandit_state import BanditState
from policies.learning import LearningPolicy
from policies.pacer import Pacer

T = TypeVar("T")


class NaiveArms:
    """The same regression kept plainly: sums an arm, and a solve an arm whenever somebody asks."""

    def __init__(self, arms: int, dimension: int) -> None:
        self.design = np.stack([20.0 * np.eye(dimension)] * arms)
        self.moment = np.zeros((arms, dimension))

    def beliefs(self, x: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Mean and variance of each arm."""
        found = []
        for design, moment in zip(self.design, self.moment, strict=True):
            covariance = np.linalg.inv(design)
            found.append((float(x @ covariance @ moment), float(x @ covariance @ x)))
        return found

    def learn(self, arm: int, x: NDArray[np.float64], y: float) -> None:
        """Count an outcome."""
        self.design[arm] += np.outer(x, x)
        self.moment[arm] += y * x


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("arms", 50), ("clusters", 10_000), ("dimension", 45), ("calls", 4_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    arms = [f"arm-{index}" for index in range(given.arms)]
    bandit = filled(arms, given.clusters, given.dimension, rng)
    calls = [context(rng, given.dimension, given.clusters) for _ in range(given.calls)]
    ours = timed_bandit(bandit, arms, calls)
    naive = timed_naive(given.arms, calls[: max(50, given.calls // 20)])
    print(f"{given.arms} arms x {given.clusters:,} clusters, {given.dimension} numbers a call, microseconds of CPU")
    print(f"{'':28}{'p50':>10}{'p99':>10}{'most':>10}")
    for label, taken in {**ours, "naive: a solve an arm": naive}.items():
        p50, p99, most = np.percentile(taken, (50, 99, 100))
        print(f"{label:28}{p50:10.0f}{p99:10.0f}{most:10.0f}")
    ratio = np.percentile(naive, 50) / np.percentile(ours["all of it"], 50)
    print(f"all of it against naive beliefs and learning: {ratio:.1f} times as fast")
    state = bandit.state(1.0)
    started = time.thread_time()
    content = state.to_bytes()
    written = time.thread_time()
    BanditState.from_bytes(content)
    read = time.thread_time()
    print(
        f"state: {len(content) / 1e6:.1f} MB, {len(state.pairs):,} pairs, {1e3 * (written - started):.0f} ms to write,"
    )
    print(f"{1e3 * (read - written):.0f} ms to read; in memory {bandit.nbytes / 1e6:.1f} MB")


def filled(arms: list[str], clusters: int, dimension: int, rng: np.random.Generator) -> Bandit:
    """A bandit that has seen every pair of arm and cluster, through a state made of chance."""
    index = np.array([(c, a) for c in range(clusters) for a in range(len(arms))], dtype=np.int32)
    rewards = rng.random((len(index), 2))
    pairs = np.stack([np.full_like(rewards, 3.0), 3.0 * rewards, 3.0 * rewards * rewards + 0.3], axis=2)
    vectors = rng.normal(size=(len(arms), 2, 200, dimension)) / math.sqrt(dimension)
    vectors[..., 0] = 1.0
    answers = rng.random((len(arms), 2, 200))
    state = BanditState(
        features="bench",
        now_h=0.0,
        arms=tuple(arms),
        clusters=tuple(f"cluster-{number}" for number in range(clusters)),
        design=np.einsum("ahni,ahnj->ahij", vectors, vectors),
        moment=np.einsum("ahni,ahn->ahi", vectors, answers),
        square=(answers**2).sum(axis=2),
        late=_late(vectors, answers),
        centre=np.concatenate((np.ones((clusters, 1)), 0.1 * rng.normal(size=(clusters, dimension - 1))), axis=1),
        pair_index=index,
        pairs=pairs,
    )
    bandit = Bandit(LearningPolicy(half_life_h=168.0), "bench", dimension)
    bandit.restore(state)
    return bandit


def _late(vectors: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The memories of the same outcomes, as if each had counted alike."""
    late = np.concatenate((vectors.sum(axis=2), answers.sum(axis=2)[..., None]), axis=2)
    return np.repeat(late[:, :, None], len(MEMORIES), axis=2)


def context(rng: np.random.Generator, dimension: int, clusters: int) -> Context:
    """A call of some cluster."""
    vector = rng.normal(size=dimension) / math.sqrt(dimension)
    vector[0] = 1.0
    return Context(vector, f"cluster-{rng.integers(clusters)}")


def timed_bandit(bandit: Bandit, arms: list[str], calls: list[Context]) -> dict[str, NDArray[np.float64]]:
    """Microseconds of each part, by call."""
    pacer = Pacer(1e-3)
    rng = np.random.default_rng(1)
    prices = np.geomspace(1e-5, 1e-2, len(arms))
    parts: dict[str, list[float]] = {name: [] for name in ("beliefs", "use expected", "choice and pacing", "learning")}
    unmeasured = [None] * len(arms)
    for number, call in enumerate(calls):
        now_h = number / 10_000.0
        beliefs = stopwatch(parts["beliefs"], partial(bandit.beliefs, arms, call, unmeasured, now_h))
        stopwatch(parts["use expected"], partial(bandit.usage, arms, call, now_h))
        values = np.array([belief.mean for belief in beliefs])
        chosen = stopwatch(parts["choice and pacing"], partial(choose, pacer, values, prices))
        outcome = (float(rng.random()), float(rng.random()) + 0.1, now_h)
        stopwatch(parts["learning"], partial(teach, bandit, arms[chosen], call, outcome))
    taken = {name: np.array(times) for name, times in parts.items()}
    return {**taken, "all of it": np.sum(list(taken.values()), axis=0)}


def choose(pacer: Pacer, values: NDArray[np.float64], prices: NDArray[np.float64]) -> int:
    """The best value for the money; its bill is counted."""
    chosen = int(np.argmax(values - pacer.lam * prices))
    pacer.observe(values, prices, float(prices[chosen]))
    return chosen


def teach(bandit: Bandit, arm: str, call: Context, outcome: tuple[float, float, float]) -> None:
    """What a call brings."""
    reward, amount, now_h = outcome
    bandit.learn(arm, call, reward, now_h)
    bandit.learn_usage(arm, call, amount, now_h)


def timed_naive(arms: int, calls: list[Context]) -> NDArray[np.float64]:
    """Microseconds of beliefs and learning, by call."""
    naive = NaiveArms(arms, len(calls[0].vector))
    times: list[float] = []
    for number, call in enumerate(calls):
        x = np.asarray(call.vector, dtype=np.float64)
        stopwatch(times, partial(ask_and_teach, naive, number % arms, x))
    return np.array(times)


def ask_and_teach(naive: NaiveArms, arm: int, x: NDArray[np.float64]) -> None:
    """A call of the plain kind."""
    naive.beliefs(x)
    naive.learn(arm, x, 0.5)


def stopwatch(times: list[float], work: Callable[[], T]) -> T:
    """Do the work; note its microseconds."""
    started = time.thread_time_ns()
    result = work()
    times.append((time.thread_time_ns() - started) / 1e3)
    return result


if __name__ == "__main__":
    main()
