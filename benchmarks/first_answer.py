"""From `make demo` to the first routed answer: how long does a newcomer wait?

Runs `make demo` with an empty state folder and notes when each step shows. With `--fresh`, in a copy of the tracked
files without an environment, so that setting up counts too (downloads torch and everything else: minutes).

    python benchmarks/first_answer.py --repeats 3
    python benchmarks/first_answer.py --fresh --repeats 1
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loopback import ROOT, end_group

FIRST_ANSWER = "first answer"
STEP = re.compile(r"^(setup \d/\d|\$ journeyman \w+|\$ \S+ journeyman \w+|first answer)")


@contextmanager
def checkout(fresh: bool) -> Iterator[Path]:
    """This checkout, or a copy of its tracked files that is gone afterwards."""
    if not fresh:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="journeyman-fresh-") as folder:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def run_once(folder: Path, state: Path) -> dict[str, float]:
    """Seconds from the start to each step of one `make demo`, up to the first answer."""
    command = ["make", "--no-print-directory", "demo", f"ARGS=--exit --no-loop --calls 1 --port 0 --state {state}"]
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    started = time.monotonic()
    demo = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    seen: dict[str, float] = {}
    said: list[str] = []
    assert demo.stdout is not None
    for raw in demo.stdout:
        line = raw.decode(errors="replace").strip()
        said.append(line)
        if step := STEP.match(line):
            seen.setdefault(step.group(1), time.monotonic() - started)
    end_group(demo)
    if FIRST_ANSWER not in seen:
        raise SystemExit("no first answer came:\n" + "\n".join(said[-30:]))
    return seen


def main() -> None:
    """Run, and print when each step showed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fresh", action="store_true", help="count setting up, in a copy without an environment")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    runs: list[dict[str, float]] = []
    for repeat in range(chosen.repeats):
        with checkout(chosen.fresh) as folder, tempfile.TemporaryDirectory(prefix="journeyman-state-") as state:
            runs.append(run_once(folder, Path(state) / "demo"))
        print(f"run {repeat + 1}: first answer after {runs[-1][FIRST_ANSWER]:.1f} s", flush=True)
    print(f"\n{'seconds from the start':<40}{'median':>8}{'worst':>8}")
    for step in runs[0]:
        times = [run[step] for run in runs if step in run]
        print(f"{step:<40}{statistics.median(times):>8.1f}{max(times):>8.1f}")


if __name__ == "__main__":
    main()
