"""The command `flywheel`: what is learned off line from the record, each step a subcommand of its own."""

from __future__ import annotations

import click

from pipelines.classifier_command import classifier
from pipelines.curate_command import curate
from pipelines.promote_command import promote


@click.group()
def flywheel() -> None:
    """Learn from the record, off line."""


for step in (curate, promote, classifier):
    flywheel.add_command(step)
