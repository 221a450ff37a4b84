"""The command `promote` of the loop: looks at every specialist on its way up. Knows options and output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.state import DEFAULT_ROOT, StatePaths
from pipelines.promote import Look, look_at_all, policy_of
from pipelines.promotion_archive import PAGE
from policies.promotion import GateResult, PromotionPolicy
from registry.errors import BadInputError


@click.command("promote")
@click.argument("specialist", required=False)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help=f"[default: {DEFAULT_ROOT}]")
@click.option("--policy", type=click.Path(path_type=Path), help="A promotion.yaml.  [default: the shipped one]")
@click.option("--dry-run", is_flag=True, help="Judge, and move nobody.")
@click.option(
    "--report",
    "reports",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the reports.  [default: reports, in the state folder]",
)
@click.option("--no-report", is_flag=True, help="Write no report.")
@click.option("--json", "as_json", is_flag=True, help="Print the looks as JSON.")
def promote(specialist: str | None, state: Path | None, policy: Path | None, as_json: bool, **given: Any) -> None:
    """Judge specialists in shadow and canary by the record, and make the moves that are proven.

    Looking often makes no wrong promotion likelier. Moves whose mode is `ask` are told, and wait for
    `journeyman registry promote`. Each look leaves promotion.html, .md and .json in the folder of its specialist; those
    of a move are kept in a folder of their own, named by the evidence that the ledger names.
    """
    if given["no_report"] and given["reports"]:
        raise BadInputError("Name either --report or --no-report, not both.", param="report")
    looks = look_at_all(
        StatePaths(state or DEFAULT_ROOT),
        read_policy(policy),
        move=not given["dry_run"],
        only=specialist,
        report=not given["no_report"],
        reports=given["reports"],
    )
    if as_json:
        click.echo(msgspec.json.encode([look.as_json() for look in looks]))
        return
    console = Console()
    if not looks:
        console.print("No specialist is in shadow or canary.")
    for look in looks:
        _show(console, look)


def read_policy(path: Path | None) -> PromotionPolicy:
    """Read a promotion.yaml; the built-in policy for None. Raises BadInputError, ConfigError with all findings."""
    if path is None:
        return PromotionPolicy()
    try:
        return policy_of(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: {error}", param="policy") from None


def _show(console: Console, look: Look) -> None:
    place = look.stage if look.stage == "shadow" else f"{look.stage} {look.share:.0%}"
    console.print(f"[bold]{look.specialist}[/] in {place}: {look.decision.verdict}, {look.trial.calls} calls")
    for reason in look.decision.reasons:
        console.print(f"  {reason}", highlight=False)
    table = Table("gate", "value", "interval", "bound", "n", "verdict", box=None, header_style="dim")
    for gate in look.decision.gates:
        table.add_row(*_row(gate))
    console.print(table)
    if look.moved_to:
        console.print(f"  moved to {look.moved_to}")
    if look.waits_for:
        console.print(f"  waits for a person: {look.waits_for}")
    if look.report:
        console.print(f"  report: {Path(look.report) / PAGE}", highlight=False, soft_wrap=True)


def _row(gate: GateResult) -> tuple[str, ...]:
    sign = "at least" if gate.at_least else "at most"
    value = "-" if gate.value is None else f"{gate.value:.1%}"
    interval = f"{gate.lower:.1%} to {gate.upper:.1%}"
    return gate.name, value, interval, f"{sign} {gate.bound:.0%}", str(gate.n), gate.verdict
