"""The commands `classifier fit`, `classifier report` and `classifier show`. Errors are raised for the main command.

It knows options and output; the work is done by `fit_classifier`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.state import DEFAULT_ROOT, StatePaths
from pipelines.classifier_models import FitOptions
from pipelines.classifier_rows import LabelledCall, recorded_calls, workload_calls
from pipelines.fit_classifier import fit_classifier
from pipelines.workload import Workload
from registry.errors import BadInputError, EnvironmentFaultError
from specialists.classifier import LearnedClassifier

_FOLDER = click.Path(file_okay=False, path_type=Path)
_DEFAULTS = FitOptions()


@click.group()
def classifier() -> None:
    """Fit, judge and look at the learned classifier: the stage behind signatures and the table."""


def _sources(command: Any) -> Any:
    """Add the options that say what to learn from and how."""
    for option in reversed(
        (
            click.option(
                "--state", type=_FOLDER, default=None, help=f"The record to learn from. Default {DEFAULT_ROOT}."
            ),
            click.option(
                "--workload", "workloads", multiple=True, help="Learn from the train rows of a workload instead."
            ),
            click.option("--family", "families", multiple=True, help="Of the workloads, these families. Default all."),
            click.option("--dimension", default=_DEFAULTS.dimension, show_default=True, help="Of the embedding."),
            click.option(
                "--min-calls", default=_DEFAULTS.min_calls, show_default=True, help="Least texts of a cluster."
            ),
            click.option(
                "--max-calls", default=_DEFAULTS.max_calls, show_default=True, help="Newest texts of a cluster."
            ),
            click.option(
                "--false-known",
                "false_known_rate",
                default=_DEFAULTS.false_known_rate,
                show_default=True,
                help="Share of unknown calls that may be taken for known ones.",
            ),
            click.option(
                "--unknown-share",
                default=_DEFAULTS.unknown_share,
                show_default=True,
                help="Share of unknown calls expected among those that reach this stage.",
            ),
        )
    ):
        command = option(command)
    return command


@classifier.command("fit")
@_sources
@click.option("--out", required=True, type=_FOLDER, help="The artifact; an older one in it is replaced at once.")
@click.option("--json", "as_json", is_flag=True)
def fit_command(out: Path, as_json: bool, **given: Any) -> None:
    """Fit a classifier on calls whose cluster is known, and write it."""
    fitted = _fitted(given)
    fitted.save(out)
    _show(fitted, str(out), as_json)


@classifier.command("report")
@_sources
@click.option("--json", "as_json", is_flag=True)
def report_command(as_json: bool, **given: Any) -> None:
    """Fit as `fit` does and print the report; write nothing."""
    _show(_fitted(given), "", as_json)


@classifier.command("show")
@click.argument("folder", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True)
def show_command(folder: Path, as_json: bool) -> None:
    """Check an artifact and show what it was fitted on and how well it did."""
    _show(LearnedClassifier.load(folder), str(folder), as_json)


def _fitted(given: dict[str, Any]) -> LearnedClassifier:
    state, workloads, families = given.pop("state"), given.pop("workloads"), given.pop("families")
    if state and workloads:
        raise BadInputError("Give --state or --workload, not both.", param="workload")
    options = FitOptions(**given)
    console = Console(stderr=True)
    calls = _of_workloads(workloads, families) if workloads else _of_state(state, options, families)
    try:
        return fit_classifier(calls, options, lambda line: console.print(line, highlight=False))
    except ImportError as error:
        raise EnvironmentFaultError(
            f"Fitting needs scikit-learn ({error}): pip install 'journeyman[pipelines]'."
        ) from None


def _of_state(state: Path | None, options: FitOptions, families: tuple[str, ...]) -> Iterator[LabelledCall]:
    if families:
        raise BadInputError("--family chooses among a workload's families; give --workload.", param="family")
    return recorded_calls(StatePaths(state or DEFAULT_ROOT), options.max_calls)


def _of_workloads(workloads: tuple[str, ...], families: tuple[str, ...]) -> Iterator[LabelledCall]:
    loaded = [Workload.parse(text) for text in workloads]
    return chain.from_iterable(workload_calls(one, families or None) for one in loaded)


def _show(fitted: LearnedClassifier, folder: str, as_json: bool) -> None:
    facts = {"name": fitted.name, "folder": folder, "embedder": fitted.embedder.name, **fitted.facts}
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    console = Console()
    calls = facts["calls"]
    console.print(f"{fitted.name}{f' in {folder}' if folder else ''}", highlight=False)
    console.print(
        f"{sum(calls.values())} calls of {len(calls)} clusters, embedder {facts['embedder']}", highlight=False
    )
    if "words_left_out" in facts:  # an artifact of an older fit does not say
        said = f"{facts['words_left_out']} words, {facts['pairs_left_out']} pairs"
        by = f"fewer than {facts['min_callers']} {facts['counted_by']}s"
        console.print(f"kept out of the vocabulary, said by {by}: {said}", highlight=False)
        if facts["counted_by"] == "text":
            console.print("the calls tell no callers apart: what one person said in several texts is not kept out")
    if facts["too_small"]:
        left = ", ".join(f"{name} ({count})" for name, count in facts["too_small"].items())
        console.print(f"left out, too few different texts: {left}", highlight=False)
    console.print(_table(facts))


def _table(facts: dict[str, Any]) -> Table:
    table = Table(
        "signature", "accuracy", "ECE", "unknown AUROC", "FPR95", "ECE unknown", "false known", "false unknown"
    )
    names = ("accuracy", "ece", "unknown_auroc", "unknown_fpr95", "unknown_ece", "false_known", "false_unknown")
    for mode in ("hidden", "shown"):
        table.add_row(mode, *(f"{facts[mode][name]:.3f}" if name in facts[mode] else "-" for name in names))
    return table
