"""Replays an outcome matrix as live traffic: one pass, and the router learns only what its own picks earned and cost.

It knows the loop, the seeds and the processes. What a router is made of comes from a recipe; what the passes amount to
is `replay_outcomes_report`'s business.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from time import perf_counter_ns, thread_time_ns
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.outcomes import Outcomes
from registry.errors import EnvironmentFaultError

_SWEEP_POINTS: Final = 7
_FEW_STEPS: Final = 5_000
"""Fewer decisions in all than this are made sooner than another process has started."""

OnProgress = Callable[[int, int], None]


class OnlineDecision(Protocol):
    """What the loop needs of a decision: the pick, and the chance that every arm had of being it."""

    @property
    def arm(self) -> str:
        """The arm that answers."""

    @property
    def propensities(self) -> Mapping[str, float]:
        """P(picked) of each arm at the moment of the decision; an arm that is left out had none."""


class OnlineRouter(Protocol):
    """A router under bandit feedback."""

    def decide(self, prompt: str) -> Any:
        """Pick an arm for a prompt: an `OnlineDecision`."""

    def learn(self, decision: Any, reward: float, cost_usd: float) -> None:
        """Be told what the pick earned and cost; nothing is ever said of the other arms."""


class RouterRecipe(Protocol):
    """Builds a fresh router; must survive pickling, since passes run in processes of their own."""

    def __call__(self, arms: tuple[str, ...], budget_usd: float, seed: int) -> OnlineRouter:
        """A router over these arms that may spend `budget_usd` a prompt on average."""


class Pass(Struct, frozen=True):
    """One pass over the rows. Arrays are in the order of the stream; `rows[t]` is the matrix row at step t."""

    budget_usd: float
    seed: int
    rows: NDArray[np.int64]
    picks: NDArray[np.int64]
    propensities: NDArray[np.float64]
    """Shape (steps, arms)."""
    decision_ms: NDArray[np.float64]
    """Wall time of each decision."""
    decision_cpu_ms: NDArray[np.float64]
    """Processor time of each, which a busy machine stretches less."""


class Task(Struct, frozen=True):
    """A pass to be run. `shuffle` False keeps the rows' order, for streams that change on the way."""

    budget_usd: float
    seed: int
    shuffle: bool = True


def default_budgets(outcomes: Outcomes) -> tuple[float, ...]:
    """Seven mean costs in US dollars from the cheapest to the dearest model's.

    Geometric, since prices differ by orders of magnitude. With two models, or a free one, evenly spaced instead and
    without the ends, where a router has no choice.
    """
    cost = outcomes.costs_usd.mean(axis=0)
    low, high = float(cost.min()), float(cost.max())
    if low == high:
        return (high,) if high > 0 else (1.0,)
    if len(cost) == 2 or low <= 0:
        return tuple(np.linspace(low, high, _SWEEP_POINTS + 2)[1:-1].tolist())
    return tuple(np.geomspace(low, high, _SWEEP_POINTS).tolist())


def replay_once(recipe: RouterRecipe, outcomes: Outcomes, task: Task, limit: int | None = None) -> Pass:
    """One pass, in this process; `limit` ends it after so many rows."""
    count = len(outcomes.prompts)
    rows = np.random.default_rng([task.seed, count]).permutation(count) if task.shuffle else np.arange(count)
    rows = rows[:limit].astype(np.int64)
    index = {arm: number for number, arm in enumerate(outcomes.arms)}
    picks = np.zeros(len(rows), dtype=np.int64)
    propensities = np.zeros((len(rows), len(index)))
    took_ns = np.zeros((2, len(rows)))
    router = recipe(outcomes.arms, task.budget_usd, task.seed)
    for step, row in enumerate(rows):
        prompt = outcomes.prompts[row]
        started, cpu_started = perf_counter_ns(), thread_time_ns()
        decision: OnlineDecision = router.decide(prompt)
        took_ns[:, step] = perf_counter_ns() - started, thread_time_ns() - cpu_started
        pick = picks[step] = index[decision.arm]
        for arm, chance in decision.propensities.items():
            propensities[step, index[arm]] = chance
        router.learn(decision, float(outcomes.rewards[row, pick]), float(outcomes.costs_usd[row, pick]))
    return Pass(task.budget_usd, task.seed, rows, picks, propensities, *(took_ns / 1e6))


def run_passes(
    recipe: RouterRecipe,
    outcomes: Outcomes,
    tasks: Sequence[Task],
    on_progress: OnProgress = lambda done, total: None,
    jobs: int | None = None,
) -> list[Pass]:
    """All passes, in the order of the tasks.

    Several at once in processes of their own: `jobs` at most, None for as many as there are cores if it pays.

    Raises:
        EnvironmentFaultError: a process died.
    """
    workers = min(len(tasks), jobs or (_cores() if len(tasks) * len(outcomes.prompts) > _FEW_STEPS else 1))
    if workers <= 1:
        done = []
        for task in tasks:
            done.append(replay_once(recipe, outcomes, task))
            on_progress(len(done), len(tasks))
        return done
    # spawn: a fork would copy the locks of this process's threads in whatever state they are.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (recipe, outcomes))
    try:
        futures = [pool.submit(_work, task) for task in tasks]
        _watch(futures, on_progress)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise EnvironmentFaultError(
            "A replay process died (out of memory?). Try --jobs 1, fewer --seeds or fewer budgets."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def time_decisions(recipe: RouterRecipe, outcomes: Outcomes, task: Task, rows: int = 1_000) -> Pass:
    """A pass over the first rows for its decision times alone, in this process with no other pass beside it.

    The passes proper share the cores, so their times would measure the machine's load.
    """
    return replay_once(recipe, outcomes, task, limit=rows)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watch(futures: Sequence[Future[Pass]], on_progress: OnProgress) -> None:
    pending: set[Future[Pass]] = set(futures)
    while pending:
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        on_progress(len(futures) - len(pending), len(futures))


_shared: dict[str, Any] = {}
"""What a worker process was started with; sent once instead of with every task."""


def _start_worker(recipe: RouterRecipe, outcomes: Outcomes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent hears Ctrl-C and ends its workers.
    _shared.update(recipe=recipe, outcomes=outcomes)


def _work(task: Task) -> Pass:
    return replay_once(_shared["recipe"], _shared["outcomes"], task)
