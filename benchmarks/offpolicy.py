"""Off-policy estimators against the truth: coverage of their 95 % intervals and error, over simulated worlds.

    python benchmarks/offpolicy.py [--worlds 1000] [--sizes 100,1000] [--json]

A world has six kinds of calls and four candidates whose success differs by kind. The logging policy takes what it
believes to be best and explores a share of the calls; the target takes what it believes, from other beliefs. `good`
models know each success within 0.05; `bad` ones are 0.25 too low and off by 0.25 more. `direct` is the naive method:
what the model says. `hit` is the share of worlds whose interval holds the truth, `half` the median half width.
The last rows are worlds without any exploration: only the model can judge what was never tried.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from msgspec import Struct

from pipelines.offpolicy import estimate
from pipelines.offpolicy_values import Calibration, DirectModel, Estimates, Floats, LoggedDecisions

KINDS, ACTIONS = 6, 4
SHOWN = ("ips", "snips", "dr", "direct", "snips_difference", "dr_difference")


class World(Struct, frozen=True):
    """Success, policies and model by kind and action; shapes (kinds, actions), frequencies (kinds,)."""

    frequencies: Floats
    success: Floats
    logging: Floats
    target: Floats
    model: Floats

    def truth(self, policy: Floats) -> float:
        """The policy's mean outcome."""
        return float(self.frequencies @ (policy * self.success).sum(axis=1))


def make_world(rng: np.random.Generator, explored: float, model: str) -> World:
    """Draw one."""
    success = rng.uniform(0.3, 0.98, (KINDS, ACTIONS))
    logging = np.full((KINDS, ACTIONS), explored / (ACTIONS - 1))
    rows = np.arange(KINDS)
    logging[rows, (success + rng.normal(0.0, 0.15, success.shape)).argmax(axis=1)] = 1.0 - explored
    target = np.zeros((KINDS, ACTIONS))
    target[rows, (success + rng.normal(0.0, 0.15, success.shape)).argmax(axis=1)] = 1.0
    off = rng.normal(0.0, 0.05, success.shape) if model == "good" else rng.normal(-0.25, 0.25, success.shape)
    return World(rng.dirichlet(np.full(KINDS, 3.0)), success, logging, target, np.clip(success + off, 0.0, 1.0))


def judge(world: World, rng: np.random.Generator, count: int, calibration: Calibration) -> Estimates:
    """Log so many decisions and estimate the target from them."""
    kinds = rng.choice(KINDS, count, p=world.frequencies)
    passed = rng.random(count)[:, None] >= np.cumsum(world.logging[kinds], axis=1)
    taken = np.minimum(passed.sum(axis=1), ACTIONS - 1)
    outcomes = (rng.random(count) < world.success[kinds, taken]).astype(np.float64)
    logged = LoggedDecisions(taken, world.logging[kinds], outcomes, lowest=0.0, highest=1.0)
    model = world.model[kinds]
    return estimate(logged, world.target[kinds], DirectModel(model, model, calibration))


def measure(worlds: int, explored: float, model: str, count: int, calibration: Calibration) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng(7)
    errors: dict[str, list[float]] = {name: [] for name in SHOWN}
    hits: dict[str, int] = dict.fromkeys(SHOWN, 0)
    widths: dict[str, list[float]] = {name: [] for name in SHOWN}
    effective = []
    for _ in range(worlds):
        world = make_world(rng, explored, model)
        made = judge(world, rng, count, calibration)
        effective.append(made.overlap.effective)
        truth, before = world.truth(world.target), world.truth(world.logging)
        for name in SHOWN:
            said = getattr(made, name)
            wanted = truth - before if name.endswith("difference") else truth
            if name == "direct":
                errors[name].append(said - wanted)
                continue
            errors[name].append(said.mean - wanted)
            hits[name] += said.low <= wanted <= said.high
            widths[name].append((said.high - said.low) / 2)
    figures = {
        name: {
            "rmse": round(float(np.sqrt(np.mean(np.square(errors[name])))), 4),
            "hit": None if name == "direct" else round(hits[name] / worlds, 3),
            "half": None if name == "direct" else round(float(np.median(widths[name])), 3),
        }
        for name in SHOWN
    }
    head = {"model": model, "explored": explored, "n": count, "calibration": calibration}
    return head | {"effective": round(float(np.median(effective)), 1)} | figures


def show(row: dict[str, object]) -> None:
    """Print one line."""
    cells = []
    for name in SHOWN:
        one = row[name]
        assert isinstance(one, dict)
        tail = "" if one["hit"] is None else f" {one['hit']:.3f} {one['half']:6.3f}"
        cells.append(f"{one['rmse']:.3f}{tail}")
    head = f"{row['model']:<5}{row['explored']:>6}{row['n']:>7} {row['calibration']:<6}{row['effective']:>8}"
    print(head + " | " + " | ".join(cells), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--sizes", default="100,300,1000,3000")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    plans: list[tuple[float, str, int, Calibration]] = [
        (explored, model, size, "shift") for model in ("good", "bad") for explored in (0.3, 0.05) for size in sizes
    ]
    plans += [(0.05, "bad", size, "none") for size in sizes]
    plans += [(0.0, model, sizes[-1], "shift") for model in ("good", "bad")]
    if not options.json:
        widths = {"ips": 18, "snips": 18, "dr": 18, "direct": 5, "snips_difference": 18, "dr_difference": 18}
        print("rmse, hit, half of:" + " " * 14 + " | ".join(f"{name:<{widths[name]}}" for name in SHOWN))
    started_s, rows = time.perf_counter(), []
    for explored, model, size, calibration in plans:
        rows.append(measure(options.worlds, explored, model, size, calibration))
        if not options.json:
            show(rows[-1])
    if options.json:
        print(json.dumps({"worlds": options.worlds, "rows": rows}))
    else:
        print(f"{options.worlds} worlds a row, {time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
