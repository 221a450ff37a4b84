"""`journeyman registry ls | show | check`: what the router would serve, and what is wrong with the file.

Tables and JSON go to stdout, findings to stderr. Reads files only; asks no backend and no running server. The commands
that move made specialists are in `router_service.stage_commands`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from registry.catalog import AUTO
from registry.entries import ModelEntry, RegistryFile, SpecialistEntry
from registry.errors import UnknownModelError
from registry.findings import ConfigFileError, Finding, did_you_mean
from registry.loading import Loaded, load_catalog
from registry.managed import MadeSpecialists

from .stage_commands import COMMANDS, state_option

BAD_INPUT = 2
DEFAULT_FILE = Path("registry.yaml")

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_registry = click.option(
    "--registry",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    envvar="JOURNEYMAN_REGISTRY",
    show_default=True,
    show_envvar=True,
    help="The registry file.",
)


@click.group()
def registry() -> None:
    """List, show and check what may answer; move made specialists from stage to stage."""


for _command in COMMANDS:
    registry.add_command(_command)


@registry.command("ls")
@_registry
@state_option
@_as_json
def list_entries(path: Path, state: Path, as_json: bool) -> None:
    """List models and specialists with their prices, clusters and stages."""
    loaded = _load_or_exit(path, state)
    rows = [*_model_rows(loaded), *_specialist_rows(loaded)]
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows)
        _print_findings(list(loaded.warnings), loaded.source_name)
    for line in loaded.left_out:
        click.echo(line, err=True)


@registry.command("show")
@click.argument("name")
@_registry
@state_option
@_as_json
def show(name: str, path: Path, state: Path, as_json: bool) -> None:
    """Show one backend, model, specialist or alias with everything resolved, and its line in the file."""
    loaded = _load_or_exit(path, state)
    try:
        entry = resolved_entry(loaded, name)
    except UnknownModelError as error:
        click.echo(error.message, err=True)
        sys.exit(BAD_INPUT)
    if as_json:
        _print_json(entry)
        return
    table = Table(title=f"{entry['kind']} {entry['name']}", show_header=False, title_justify="left")
    for key, value in _flattened(entry):
        table.add_row(key, value)
    _console().print(table)


@registry.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_registry
@_as_json
def check(file: Path | None, path: Path, as_json: bool) -> None:
    """Print every finding with its line and column; exit with 2 when one of them is an error."""
    path = file or path
    try:
        loaded = load_catalog(path)
        findings, source_name = list(loaded.warnings), loaded.source_name
    except ConfigFileError as error:
        findings, source_name = list(error.findings), error.source_name
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        _print_json({"file": str(path), "ok": errors == 0, "findings": findings})
    else:
        _print_findings(findings, source_name)
        verdict = "not usable" if errors else "good"
        click.echo(f"{path}: {verdict} ({errors} errors, {len(findings) - errors} warnings)", err=bool(errors))
    sys.exit(BAD_INPUT if errors else 0)


def resolved_entry(loaded: Loaded, name: str) -> dict[str, Any]:
    """Return an entry as builtins: its kind, its line, and what it inherits from base, backend and alias.

    Raises UnknownModelError with the nearest name.
    """
    catalog = loaded.catalog
    if name == AUTO:
        return {"kind": "router", "name": AUTO, "means": "the planner picks", "frontier": catalog.frontier.model_name}
    if name in catalog.backends and name not in catalog.models:
        index = list(catalog.backends).index(name)
        served = [model.model_name for model in catalog.models.values() if model.backend == name]
        entry = msgspec.to_builtins(catalog.backends[name])
        return {**entry, "kind": f"{entry['kind']} backend", "name": name, "models": served} | _place(
            loaded, "backends", index
        )
    try:
        target = catalog.resolve(name)
    except UnknownModelError:
        stages = [f"{s.id} ({s.stage})" for s in catalog.specialists.values() if s.name == name]
        hint = f"its versions: {', '.join(stages)}" if stages else _nearest_hint(loaded, name)
        raise UnknownModelError(f"nothing in {loaded.source_name} is called {name}; {hint}", param="name") from None
    alias = {"alias": name} if name in catalog.file.defaults.aliases else {}
    if target == AUTO:
        return resolved_entry(loaded, AUTO) | alias
    if target in catalog.models:
        return _shown_model(loaded, catalog.models[target]) | alias
    return _shown_specialist(loaded, catalog.specialists[target]) | alias


def _nearest_hint(loaded: Loaded, name: str) -> str:
    return did_you_mean(name, [*loaded.catalog.names(), *loaded.catalog.backends])


def _shown_model(loaded: Loaded, model: ModelEntry) -> dict[str, Any]:
    catalog = loaded.catalog
    return {
        "kind": "model",
        "name": model.model_name,
        **_place(loaded, "models", list(catalog.models).index(model.model_name)),
        **msgspec.to_builtins(model),
        "upstream_name": model.upstream_name or model.model_name,
        "backend": msgspec.to_builtins(catalog.backends[model.backend]),
        "specialists": [s.id for s in catalog.specialists.values() if s.base == model.model_name],
        "is_frontier": model.model_name == catalog.file.defaults.frontier,
    }


def _shown_specialist(loaded: Loaded, specialist: SpecialistEntry) -> dict[str, Any]:
    base = loaded.catalog.base_of(specialist)
    return {
        "kind": "specialist",
        "name": specialist.id,
        **_place(loaded, "specialists", list(loaded.catalog.specialists).index(specialist.id)),
        **{key: value for key, value in msgspec.to_builtins(specialist).items() if key != "name"},
        "safety_grade": specialist.safety_grade or base.safety_grade,
        "prices": msgspec.to_builtins(specialist.prices or base.prices),
        "context_len": base.context_len,
        "license": base.license,
        "backend": msgspec.to_builtins(loaded.catalog.backends[base.backend]),
    }


def _place(loaded: Loaded, section: str, index: int) -> dict[str, Any]:
    spot = loaded.spots.get(f"$.{section}[{index}]")
    return {"file": loaded.source_name, "line": spot.line} if spot else {"file": "the ledger of made specialists"}


def _model_rows(loaded: Loaded) -> list[dict[str, Any]]:
    file: RegistryFile = loaded.catalog.file
    return [
        {
            "name": model.model_name,
            "kind": "frontier" if model.model_name == file.defaults.frontier else "model",
            "backend": model.backend,
            "params": model.params,
            "context_len": model.context_len,
            "input_usd_per_mtok": model.prices.input_usd_per_mtok,
            "output_usd_per_mtok": model.prices.output_usd_per_mtok,
            "safety_grade": model.safety_grade,
            "clusters": model.supported_clusters,
            "stage": None,
        }
        for model in file.models
    ]


def _specialist_rows(loaded: Loaded) -> list[dict[str, Any]]:
    rows = []
    for specialist in loaded.catalog.file.specialists:
        base = loaded.catalog.base_of(specialist)
        prices = specialist.prices or base.prices
        rows.append(
            {
                "name": specialist.id,
                "kind": "specialist",
                "backend": base.backend,
                "params": base.params,
                "context_len": base.context_len,
                "input_usd_per_mtok": prices.input_usd_per_mtok,
                "output_usd_per_mtok": prices.output_usd_per_mtok,
                "safety_grade": specialist.safety_grade or base.safety_grade,
                "clusters": specialist.clusters,
                "stage": specialist.stage,
                "share": specialist.share if specialist.stage == "canary" else None,
            }
        )
    return rows


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(title="prices in US dollars per million tokens", title_justify="left")
    for heading in ("name", "kind", "backend"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "kind")
    for heading in ("params", "context", "in", "out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("grade", justify="center")
    table.add_column("clusters", overflow="fold")
    table.add_column("stage", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            row["backend"],
            _short_count(row["params"]),
            f"{row['context_len']:,}",
            f"{row['input_usd_per_mtok']:g}",
            f"{row['output_usd_per_mtok']:g}",
            row["safety_grade"],
            ", ".join(row["clusters"]) or "by name only",
            f"canary {100 * row['share']:.3g} %" if row.get("share") is not None else row["stage"] or "",
        )
    _console().print(table)


def _short_count(params: int | None) -> str:
    if params is None:
        return "?"
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if params >= size:
            return f"{params / size:.3g} {unit}"
    return str(params)


def _flattened(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in entry.items():
        if isinstance(value, dict) and value:
            rows += _flattened(value, f"{prefix}{key}.")
        elif value is not None and value != {}:
            shown = ", ".join(map(_in_a_list, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((prefix + key, repr(shown)[1:-1] if "\n" in shown else shown))
    return rows


def _in_a_list(value: Any) -> str:
    """An item as text; a replica with its mark: `http://10.0.0.8:8000/v1 (drain)`."""
    if not isinstance(value, dict):
        return str(value)
    marks = [key for key, flag in value.items() if flag is True]
    return " ".join([*(str(one) for one in value.values() if isinstance(one, str)), *(f"({mark})" for mark in marks)])


def _load_or_exit(path: Path, state: Path) -> Loaded:
    try:
        return load_catalog(path, made=MadeSpecialists(state).look())
    except ConfigFileError as error:
        _print_findings(list(error.findings), error.source_name)
        sys.exit(BAD_INPUT)


def _print_findings(findings: list[Finding], source_name: str) -> None:
    for finding in findings:
        place = f"{source_name}:{finding.line}:{finding.column}"
        click.echo(f"{place}: {finding.severity}: {finding.text()}", err=True)


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _console() -> Console:
    """A console that prints brackets as they are, and cuts no table short in a pipe."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False, emoji=False)
