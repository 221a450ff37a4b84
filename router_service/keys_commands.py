"""`journeyman keys add | ls | revoke`: the API keys of a gateway. A running one takes each change within a second."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.state import DEFAULT_ROOT

from . import key_file
from .key_file import KeyEntry, Role

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_state = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_ROOT,
    envvar="JOURNEYMAN_STATE",
    show_default=True,
    show_envvar=True,
    help="The state folder; the keys are in its keys.json.",
)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. Only their digests are stored."""


@keys.command("add")
@click.option("--tenant", default="default", show_default=True, help="Whose calls these will be.")
@click.option(
    "--role", type=click.Choice(["caller", "operator"]), default="caller", show_default=True, help="What it may do."
)
@_state
@_as_json
def add(tenant: str, role: Role, state: Path, as_json: bool) -> None:
    """Make a key. It is shown once, on stdout, and cannot be shown again."""
    made = key_file.add(state / key_file.NAME, tenant, role)
    if as_json:
        _print_json({"key": made.secret, **shown(made.entry)})
        return
    click.echo(made.secret)
    click.echo(f"{made.entry.id}: {role} of tenant {tenant}. Keep the key: it is stored nowhere.", err=True)


@keys.command("ls")
@_state
@_as_json
def list_keys(state: Path, as_json: bool) -> None:
    """List the keys, revoked ones too, without their digests."""
    entries = key_file.read(state / key_file.NAME).keys
    if as_json:
        _print_json([shown(entry) for entry in entries])
        return
    table = Table("id", "tenant", "role", "created", "state")
    for entry in entries:
        table.add_row(entry.id, entry.tenant, entry.role, entry.created_at, "revoked" if entry.revoked else "in force")
    Console().print(table if entries else "No keys: only a loopback listener will serve. Mend: journeyman keys add")


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@_state
@_as_json
def revoke(key_id: str, state: Path, as_json: bool) -> None:
    """Revoke a key, for good. Doing it twice does no harm."""
    entry = key_file.revoke(state / key_file.NAME, key_id)
    if as_json:
        _print_json(shown(entry))
    else:
        click.echo(f"{entry.id} of tenant {entry.tenant} is revoked.")


def shown(entry: KeyEntry) -> dict[str, object]:
    """What may be seen of a key."""
    fields = ("id", "tenant", "role", "created_at", "revoked")
    return {name: getattr(entry, name) for name in fields}


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
