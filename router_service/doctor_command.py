"""`journeyman doctor`: are this machine, folder and registry fit to serve? Each finding says how to mend it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from registry.errors import ConfigError, EnvironmentFaultError
from registry.loading import load_catalog

from .keys import KeyRing
from .policy_files import load_policies
from .settings import Settings

_MIN_FREE_BYTES = 2 * 1024**3
_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


Check = Callable[[Settings], Iterator[Finding]]


@click.command()
@click.option("--registry", type=click.Path(path_type=Path), help="The registry file.")
@click.option("--state", type=click.Path(path_type=Path), help="The state folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(registry: Path | None, state: Path | None, as_json: bool) -> None:
    """Check this machine, the files and the servers."""
    settings = Settings.from_env(os.environ, registry=registry, state=state)
    findings = [finding for check in CHECKS for finding in check(settings)]
    if as_json:
        click.echo(json.dumps({"findings": msgspec.to_builtins(findings)}))
    else:
        _print(findings)
    if any(finding.status == "fail" for finding in findings):
        failed = ", ".join(finding.name for finding in findings if finding.status == "fail")
        raise EnvironmentFaultError(f"Not fit to serve: {failed}.")


def _print(findings: list[Finding]) -> None:
    table = Table("", "what", "found", "mend", box=None, header_style="dim")
    for finding in findings:
        table.add_row(_MARKS[finding.status], finding.name, finding.detail, finding.mend)
    Console().print(table)


def _python(_: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "fail", version, "" if good else "Use Python 3.11 or later.")


def _state(settings: Settings) -> Iterator[Finding]:
    folder = settings.state if settings.state.exists() else settings.state.absolute().parent
    if not os.access(folder, os.W_OK):
        yield Finding("state folder", "fail", f"{settings.state} cannot be written", "Name another with --state.")
        return
    free = shutil.disk_usage(folder).free
    status: Literal["ok", "warn"] = "ok" if free >= _MIN_FREE_BYTES else "warn"
    yield Finding("state folder", status, f"{settings.state}, {free / 1024**3:.1f} GiB free")


def _policies(settings: Settings) -> Iterator[Finding]:
    try:
        load_policies(settings.policies)
    except ConfigError as error:
        yield Finding("policies", "fail", error.message, "Mend the file named.")
    else:
        yield Finding("policies", "ok", str(settings.policies))


def _keys(settings: Settings) -> Iterator[Finding]:
    try:
        keys = KeyRing.load(settings.state / "keys.json", loopback=settings.is_loopback)
    except ConfigError as error:
        yield Finding("keys", "fail", error.message)
        return
    if keys.has_keys() or settings.is_loopback:
        yield Finding("keys", "ok", "there are keys" if keys.has_keys() else f"none needed on {settings.host}")
    else:
        yield Finding("keys", "fail", f"none, and {settings.host} is reachable from outside", "journeyman keys add")


def _registry(settings: Settings) -> Iterator[Finding]:
    try:
        loaded = load_catalog(settings.registry)
    except ConfigError as error:
        yield Finding("registry", "fail", error.message, "journeyman registry check")
        return
    status: Literal["ok", "warn"] = "warn" if loaded.warnings else "ok"
    yield Finding("registry", status, f"{settings.registry}, {len(loaded.catalog.models)} models")
    for entry in loaded.catalog.backends.values():
        if entry.kind == "embedded":
            yield _engine_finding()
        elif entry.url is not None:
            yield _reach(f"backend {entry.name}", entry.url)
        for replica in entry.replicas:
            yield _reach(f"backend {entry.name}, replica", replica.url)


def _engine_finding() -> Finding:
    if importlib.util.find_spec("torch") is None:
        mend = "pip install torch==2.13.0 'journeyman[engine]'"
        return Finding("embedded engine", "fail", "torch is not installed", mend)
    return Finding("embedded engine", "ok", "torch is installed")


def _reach(what: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return Finding(what, "ok", f"{parts.hostname}:{port} answers")
    except OSError as error:
        return Finding(what, "warn", f"{parts.hostname}:{port}: {error}", "Start it, or mend its url.")


CHECKS: tuple[Check, ...] = (_python, _state, _policies, _keys, _registry)
