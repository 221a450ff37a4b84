"""The command `flywheel`: what is learned off line from the record, each step a subcommand of its own."""

from __future__ import annotations

import click

from pipelines.classifier_command import classifier


@click.group()
def flywheel() -> None:
    """Learn from the record, off line."""


flywheel.add_command(classifier)
