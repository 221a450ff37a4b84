"""`journeyman engine`: the embedded engine by itself. The engine's own process loads torch, this module never does."""

from __future__ import annotations

import subprocess
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def engine(arguments: tuple[str, ...]) -> int:
    """Run the embedded engine alone, or prepare its weights (`journeyman engine prepare`)."""
    command = [sys.executable, "-m", "specialists.engine", *arguments]
    return subprocess.run(command, check=False).returncode  # noqa: S603  our own module, the caller's own arguments
