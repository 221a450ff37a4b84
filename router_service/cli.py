"""The `journeyman` command: every subcommand in one table, one way to fail, `--json` everywhere.

Exit codes: 0 done, 1 a gate failed, 2 bad input, 3 the environment. Heavy parts are imported by the command that
needs them.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from registry.errors import BadInputError, GateFailedError, JourneymanError

EXIT_DONE, EXIT_GATE, EXIT_INPUT, EXIT_ENVIRONMENT = 0, 1, 2, 3

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("router_service.serve_command:serve", "Run the gateway."),
    "demo": ("pipelines.demo_command:demo", "Show a routed answer, then a few hundred, on this machine."),
    "ask": ("router_service.ask_command:ask", "Ask a running gateway and see its plan."),
    "doctor": ("router_service.doctor_command:doctor", "Check this machine, the files and the servers."),
    "engine": ("router_service.engine_command:engine", "Run the embedded engine alone, or prepare its weights."),
    "registry": ("router_service.registry_commands:registry", "Look at registry.yaml and check it."),
    "keys": ("router_service.keys_commands:keys", "Make, list and revoke API keys."),
    "flywheel": ("pipelines.flywheel_command:flywheel", "Learn from the record, off line."),
    "export": ("router_service.export_command:export", "Write recorded calls to Parquet or JSONL."),
    "erase": ("pipelines.erase_command:erase", "Erase what was said in recorded calls, for good."),
    "replay": ("pipelines.replay_command:replay", "Judge the router on known outcomes, or on the record."),
    "teacher": ("pipelines.cli:teacher", "Serve a workload's gold answers over the OpenAI API."),
    "traffic": ("pipelines.cli:traffic", "Send a workload through a gateway and grade the answers."),
    "workload": ("pipelines.cli:workload", "Generate or list workloads."),
}


class Commands(click.Group):
    """The table above as a click group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="journeyman")
def cli() -> None:
    """Journeyman: an OpenAI-compatible gateway that plans, checks, escalates, explains and records every call."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        result: Any = cli.main(args=arguments, prog_name="journeyman", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_INPUT
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except JourneymanError as error:
        _tell(error, as_json="--json" in arguments)
        return exit_code(error)
    return result if isinstance(result, int) else EXIT_DONE


def exit_code(error: JourneymanError) -> int:
    """The exit code of an error."""
    if isinstance(error, GateFailedError):
        return EXIT_GATE
    if isinstance(error, BadInputError):
        return EXIT_INPUT
    return EXIT_ENVIRONMENT


def _tell(error: JourneymanError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": {"code": error.code, "message": error.message}}))
    click.secho(f"journeyman: {error.message}", err=True, fg="red")


if __name__ == "__main__":
    main()
