"""The command `journeyman flywheel bench`: options in, the figures of a whole turn of the loop out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from observations.state import DEFAULT_ROOT
from pipelines.quick_trial import QUICK_PROMOTION
from pipelines.training_config import PRESETS
from registry.errors import BadInputError, EnvironmentFaultError

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("bench", short_help="Measure a whole turn of the loop on a workload.")
@click.option("--data", required=True, help="A workload folder with splits train and dev or hold, `env`, or `own`.")
@click.option("--families", required=True, help="Comma-separated.")
@click.option("--calls", default=3_000, show_default=True, type=click.IntRange(200), help="Most train rows a family.")
@click.option("--judged-calls", type=click.IntRange(1), help="Most dev or hold rows a family.  [default: all]")
@click.option(
    "--reports", default=0.3, show_default=True, type=click.FloatRange(0, 1),
    help="Share of callers who report how their call went, and what would have been right.",
)  # fmt: skip
@click.option(
    "--teacher-error-rate", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Of the large model."
)
@click.option("--teacher-p50-ms", default=600.0, show_default=True, help="Its median time to the first token.")
@click.option("--teacher-p95-ms", default=1_500.0, show_default=True, help="The 95th percentile.")
@click.option(
    "--rate", "rate_per_s", default=4.0, show_default=True, type=click.FloatRange(0.1, 10_000),
    help="Of calls that specialists may answer, a second.",
)  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), default="balanced", show_default=True)
@click.option("--max-examples", type=click.IntRange(100), help="Most examples that one training looks at.")
@click.option("--threads", type=click.IntRange(1), help="Of training and evaluation.")
@click.option("--state", type=_FOLDER, help="A new folder.  [default: one below .journeyman/bench]")
@click.option("--registry", default=Path("registry.yaml"), show_default=True, type=_FILE, help="Models and prices.")
@click.option("--promotion", type=_FILE, help="Gates.  [default: the shipped promotion.quick.yaml]")
@click.option("--seed", default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def bench(data: str, families: str, state: Path | None, promotion: Path | None, as_json: bool, **given: Any) -> None:
    """Send train rows as traffic through a gateway, make a turn of the loop, then send rows it has never seen.

    Starts the gateway, its engine and a stand-in for the large model on this machine. Reports, for each family, who
    answered, how well beside the large model, what was believed and wrong, cost and latency.
    """
    try:
        from pipelines.flywheel_bench import BenchOptions, run_bench  # noqa: PLC0415  numpy and DuckDB
    except ImportError as error:
        raise EnvironmentFaultError(
            f"The loop needs packages that are not here ({error}): pip install 'journeyman[engine,pipelines,training]'."
        ) from error
    from pipelines.bench_figures import as_table  # noqa: PLC0415
    from pipelines.workload import Workload  # noqa: PLC0415

    workload = Workload.parse(data)
    options = BenchOptions(
        workload=workload,
        data=data,
        families=tuple(dict.fromkeys(name.strip() for name in families.split(",") if name.strip())),
        state=_new_folder(state),
        promotion=promotion or QUICK_PROMOTION,
        **given,
    )
    signal.signal(signal.SIGTERM, _interrupt)  # so that the processes it started end with it
    found = run_bench(options, _say)
    if as_json:
        click.echo(msgspec.json.encode(found.as_json()))
        return
    Console(width=None if sys.stdout.isatty() else 160).print(as_table(found))
    for name, family in found.families.items():
        if family.why_not:
            click.echo(f"{name}: {family.why_not}")
    click.echo(f"Everything it left is in {options.state}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _new_folder(state: Path | None) -> Path:
    from pipelines.run import new_run_id  # noqa: PLC0415

    folder = state or DEFAULT_ROOT / "bench" / new_run_id()
    if folder.exists() and any(folder.iterdir()):
        raise BadInputError(f"{folder} is not empty: a measurement begins with an empty record.", param="state")
    return folder


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
