"""`journeyman registry promote | demote | rollback | ledger | verify | keys`: made specialists and their stages.

Each move is a signed entry in the ledger; running gateways follow within two seconds. Asks no running server.
"""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.state import DEFAULT_ROOT
from registry.errors import GateFailedError
from registry.ledger import SignedEntry
from registry.made_paths import MadePaths
from registry.registrar import Note, Registrar, find
from registry.stages import STAGES, Stage
from registry.verification import Check, verify_state

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_ROOT,
    envvar="JOURNEYMAN_STATE",
    show_default=True,
    show_envvar=True,
    help="The state folder; the ledger, the adapters and the signing keys are in it.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_actor = click.option("--actor", default=None, help="Who does it.  [default: your user name]")
_reason = click.option("--reason", default="", help="Why; it stays in the ledger.")
_evidence = click.option("--evidence", default="", help="What speaks for it: the digest or the name of a report.")
_to = click.option(
    "--to", type=click.Choice(STAGES), default=None, help="The stage to move to.  [default: the next one]"
)
_share = click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True), default=None, help="For a canary: its share of calls."
)


@click.command("promote")
@click.argument("specialist")
@_to
@_share
@_reason
@_evidence
@_actor
@state_option
@_as_json
def promote(specialist: str, to: str | None, share: float | None, **given: Any) -> None:
    """Move SPECIALIST up: candidate, shadow, canary (1, 10, 50, 100 % of calls), active."""
    made = Registrar(given["state"]).promote(specialist, _note(given), cast("Stage | None", to), share)
    _tell(made, given["as_json"])


@click.command("demote")
@click.argument("specialist")
@_to
@_share
@_reason
@_evidence
@_actor
@state_option
@_as_json
def demote(specialist: str, to: str | None, share: float | None, **given: Any) -> None:
    """Move SPECIALIST down: out of service into shadow, unless --to or --share says otherwise."""
    made = Registrar(given["state"]).demote(specialist, _note(given), cast("Stage | None", to), share)
    _tell(made, given["as_json"])


@click.command("rollback")
@click.argument("target")
@_reason
@_evidence
@_actor
@state_option
@_as_json
def rollback(target: str, **given: Any) -> None:
    """Return TARGET, a cluster or a specialist, to what answered before its last promotion."""
    made = Registrar(given["state"]).rollback(target, _note(given))
    _tell(made, given["as_json"])


@click.command("ledger")
@click.argument("specialist", required=False)
@state_option
@_as_json
def ledger(specialist: str | None, state: Path, as_json: bool) -> None:
    """List the moves of every made specialist, or of one: who, when, why."""
    history = Registrar(state).history()
    only = None if specialist is None else find(history, specialist)
    shown = [s for s in history.entries if only is None or any(m.specialist == only for m in s.entry.moves)]
    if as_json:
        _print_json([_entry_row(signed) for signed in shown])
        return
    table = Table("nr", "when (UTC)", "specialist", "from", "to", "who", "why")
    for signed in shown:
        entry = signed.entry
        for move in entry.moves:
            after = f"canary {100 * move.share:.3g} %" if move.after == "canary" else move.after
            why = entry.reason + (f" (takes back {entry.undoes})" if entry.undoes else "")
            table.add_row(str(entry.seq), _time(entry.at_ms), move.specialist, move.before, after, entry.actor, why)
    _console().print(table)


@click.command("verify")
@click.argument("specialist", required=False)
@state_option
@_as_json
def verify(specialist: str | None, state: Path, as_json: bool) -> None:
    """Check every signature, digest and byte of the made specialists, or of one; exit with 1 when something fails."""
    checks = verify_state(state, specialist)
    failed = [check for check in checks if check.verdict == "failed"]
    if as_json:
        _print_json({"ok": not failed, "checks": checks})
        raise click.exceptions.Exit(1 if failed else 0)
    _print_checks(checks)
    if failed:
        raise GateFailedError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(c.subject for c in failed)}.")


@click.command("keys")
@state_option
@_as_json
def trusted_keys(state: Path, as_json: bool) -> None:
    """List the public keys whose signatures are believed, and which of them signs here."""
    rows = [{"key": key_id, "file": str(path)} for key_id, path in MadePaths(state).verifier().keys().items()]
    if as_json:
        _print_json(rows)
        return
    table = Table("key", "file")
    for row in rows:
        table.add_row(row["key"], row["file"])
    _console().print(table)


COMMANDS = (promote, demote, rollback, ledger, verify, trusted_keys)


def _note(given: dict[str, Any]) -> Note:
    return Note(given["actor"] or _user(), given["reason"], given["evidence"])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in many containers
        return f"uid {os.getuid()}"


def _tell(signed: SignedEntry, as_json: bool) -> None:
    if as_json:
        _print_json(_entry_row(signed))
        return
    for move in signed.entry.moves:
        after = f"canary at {100 * move.share:.3g} % of calls" if move.after == "canary" else move.after
        click.echo(f"{move.specialist}: {move.before} -> {after}")
    click.echo(f"Entry {signed.entry.seq} of the ledger. Running gateways follow within two seconds.", err=True)


def _entry_row(signed: SignedEntry) -> dict[str, Any]:
    return {"id": signed.digest, "key": signed.key_id, **msgspec.to_builtins(signed.entry)}


def _print_checks(checks: list[Check]) -> None:
    table = Table("what", "verdict", "detail")
    for check in checks:
        table.add_row(check.subject, check.verdict, check.detail)
    _console().print(table)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _console() -> Console:
    """A console that prints brackets as they are, and cuts no table short in a pipe."""
    return Console(width=None if os.isatty(1) else 160, markup=False, highlight=False, emoji=False)
