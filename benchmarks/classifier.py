"""The learned classifier on public families: accuracy on the known ones, and whether the others are found `unknown`.

    python benchmarks/classifier.py --data DIR [--rotations 11] [--max-calls 1000] [--json]

Fits on `train` rows alone, judges on `dev` rows. Each rotation leaves one family out of the fit and asks for it to be
called unknown; families without train rows are always left out. `hidden` is the user's text alone, `shown` adds system
prompt, tool names and answer keys. FPR95: known calls called unknown where 95 % of the unknown ones are found; `missed`
and `lost` are the rates at the artifact's own threshold: unknown taken for known, known taken for unknown.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from pipelines.classifier_calibration import MODES, calibration_error, fpr_at
from pipelines.classifier_models import FitOptions
from pipelines.classifier_rows import LabelledCall, fixed_of_body, workload_calls
from pipelines.fit_classifier import fit_classifier
from pipelines.workload import Workload
from registry.identifiers import UNKNOWN_CLUSTER
from specialists.classifier import LearnedClassifier, Posterior

LEARNED = (
    *(f"intent_{domain}" for domain in ("auto_and_commute", "banking", "home", "kitchen_and_dining")),
    *(f"intent_{domain}" for domain in ("meta", "small_talk", "travel", "utility")),
    "labels_banking",
    "ticket_triage",
    "voice_tools",
)
ALWAYS_OUT = ("open_tools", "open_tail")


class Judged:
    """Dev rows and what a classifier says of them."""

    def __init__(self, workload: Workload) -> None:
        present = [family for family in (*LEARNED, *ALWAYS_OUT) if family in workload.families]
        rows = list(workload.rows(present, ["dev"]))
        self.calls = [LabelledCall(row.family, row.text, fixed_of_body(workload.request(row))) for row in rows]
        self.family = np.array([row.family for row in rows])
        intents = [row.expected.get("intent") if isinstance(row.expected, dict) else None for row in rows]
        self.is_oos = np.array([intent == "oos" for intent in intents])

    def ask(self, classifier: LearnedClassifier, mode: str) -> list[Posterior]:
        """One answer for each row."""
        if mode == "hidden":
            return [classifier.posterior(call.text) for call in self.calls]
        return [
            classifier.posterior(call.text, call.fixed.system, call.fixed.tool_names, call.fixed.json_keys)
            for call in self.calls
        ]


def figures(judged: Judged, answers: list[Posterior], known: set[str]) -> dict[str, Any]:
    """One rotation in one mode."""
    score = np.array([answer.unknown_probability for answer in answers])
    nearest = np.array([answer.nearest for answer in answers])
    said_unknown = np.array([answer.cluster == UNKNOWN_CLUSTER for answer in answers])
    is_known = np.array([family in known for family in judged.family])
    clean = is_known & ~judged.is_oos
    left_out = ~is_known & ~np.isin(judged.family, ALWAYS_OUT)
    sure = np.array([answer.probability for answer in answers])
    answered = clean & ~said_unknown
    row: dict[str, Any] = {
        "accuracy": float(np.mean(nearest[clean] == judged.family[clean])),
        "accuracy_answered": float(np.mean(nearest[answered] == judged.family[answered])),
        "ece_answered": calibration_error(
            sure[answered], nearest[answered] == judged.family[answered], np.ones(int(answered.sum()))
        ),
        "lost": float(np.mean(said_unknown[clean])),
    }
    groups = {"left_out": left_out, "oos": judged.is_oos & is_known}
    groups |= {family: judged.family == family for family in ALWAYS_OUT}
    for name, unknown in groups.items():
        if unknown.any():
            both = clean | unknown
            row[f"{name}_auroc"] = float(roc_auc_score(unknown[both], score[both]))
            row[f"{name}_fpr95"] = fpr_at(score[both], unknown[both], 0.95)
            row[f"{name}_missed"] = float(np.mean(~said_unknown[unknown]))
    return row


def times_us(classifier: LearnedClassifier, judged: Judged, mode: str, rounds: int = 3_000) -> dict[str, float]:
    """p50 and p99 of one call in microseconds of thread time: dev texts as they are, and texts of 8 kB."""
    long = " ".join(call.text for call in judged.calls)
    texts = {
        "dev": [call.text for call in judged.calls],
        "8kB": [long[at : at + 8_192] for at in range(0, 400_000, 8_192)],
    }
    result = {}
    gc.collect()
    gc.freeze()
    for name, some in texts.items():
        took = []
        for n in range(rounds):
            fixed = judged.calls[n % len(judged.calls)].fixed if mode == "shown" else None
            given = (fixed.system, fixed.tool_names, fixed.json_keys) if fixed else ()
            started = time.thread_time_ns()
            classifier.posterior(some[n % len(some)], *given)
            took.append((time.thread_time_ns() - started) / 1e3)
        result |= {f"{name}_p50_us": float(np.median(took)), f"{name}_p99_us": float(np.quantile(took, 0.99))}
    return result


def main() -> None:
    """Run the rotations and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rotations", type=int, default=len(LEARNED))
    parser.add_argument("--max-calls", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    workload = Workload.load(given.data)
    options = FitOptions(max_calls=given.max_calls)
    judged = Judged(workload)
    families = [family for family in LEARNED if family in workload.families]
    calls = {family: list(workload_calls(workload, [family])) for family in families}
    outs = [None, *families[: given.rotations]]
    rows = []
    for out in outs:
        known = [family for family in families if family != out]
        started = time.perf_counter()
        classifier = fit_classifier((call for family in known for call in calls[family]), options)
        took_s = time.perf_counter() - started
        print(f"without {out}: fitted in {took_s:.0f} s", file=sys.stderr, flush=True)
        for mode in MODES:
            row = {"out": out, "mode": mode, "fit_s": took_s, "own": classifier.facts[mode]}
            row |= figures(judged, judged.ask(classifier, mode), set(known))
            if out is None:
                row |= times_us(classifier, judged, mode)
            rows.append(row)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line a rotation and mode, and the means."""
    names = (
        "accuracy",
        "accuracy_answered",
        "ece_answered",
        "lost",
        "left_out_auroc",
        "left_out_fpr95",
        "left_out_missed",
    )
    more = ("oos_auroc", "open_tools_auroc", "open_tail_auroc", "open_tools_missed", "open_tail_missed")
    for mode in MODES:
        of_mode = [row for row in rows if row["mode"] == mode]
        print(f"\n{mode:<24}" + "".join(f"{name.replace('_', ' '):>18}" for name in (*names, *more)))
        for row in of_mode:
            cells = "".join(f"{row[name]:>18.3f}" if name in row else f"{'-':>18}" for name in (*names, *more))
            print(f"{row['out'] or 'all families':<24}{cells}")
        rotated = [row for row in of_mode if row["out"]]
        if rotated:
            means = (f"{np.mean([row[name] for row in rotated if name in row]):>18.3f}" for name in (*names, *more))
            print(f"{'mean of rotations':<24}" + "".join(means))
        whole = of_mode[0]
        own = {name: round(value, 3) for name, value in whole["own"].items()}
        print(f"its own report: {own}")
        print(f"us a call: { ({name: round(v) for name, v in whole.items() if name.endswith('_us')}) }")


if __name__ == "__main__":
    main()
