"""What strictness costs: loading a registry with places and all errors, against PyYAML plus msgspec.

Run from the repository's root: `python -m benchmarks.registry_loading`. Prints a table; times are the best of
five. The alternative stops at the first error and knows no lines.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from registry.entries import RegistryFile
from registry.findings import ConfigFileError
from registry.strict_yaml import load_strict

# PyYAML's composers recurse: deep nesting overflows the C stack (a segmentation fault) or Python's (RecursionError).
CRASHES_THE_ALTERNATIVE = {"4 MB of ["}


def registry_text(models: int) -> str:
    """A registry with so many models."""
    entries = "".join(f"  - {{model_name: m{i}, backend: b, context_len: 4096, license: MIT}}\n" for i in range(models))
    return f"defaults: {{frontier: m0}}\nbackends: [{{name: b, kind: echo}}]\nmodels:\n{entries}"


def strict(text: str) -> None:
    """Our loader; refusing is as good as loading here."""
    with contextlib.suppress(ConfigFileError):
        load_strict(text, RegistryFile, "registry.yaml")


def plain(loader: type[yaml.SafeLoader]) -> Callable[[str], None]:
    """PyYAML with the loader, then msgspec."""

    def load(text: str) -> None:
        with contextlib.suppress(msgspec.ValidationError, yaml.YAMLError):
            msgspec.convert(yaml.load(text, Loader=loader), RegistryFile)

    return load


def best_ms(load: Callable[[str], None], text: str) -> float:
    """Best of five, in milliseconds; of one where it takes seconds."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 2:
        started = time.perf_counter()
        load(text)
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def main() -> None:
    """Print the table."""
    texts = {
        "10 models": registry_text(10),
        "100 models": registry_text(100),
        "1,000 models": registry_text(1000),
        "4 MB, 60,000 models": registry_text(60_000),
        "2 MB of unknown keys": "".join(f"key{i}: 1\n" for i in range(165_000)),
        "4 MB of [": "[" * 4_000_000,
    }
    table = Table("file", "strict ms", "PyYAML C ms", "PyYAML ms", "strict / C")
    for name, text in texts.items():
        ours = best_ms(strict, text)
        if name in CRASHES_THE_ALTERNATIVE:
            table.add_row(name, f"{ours:,.1f}", "crashes", "crashes", "-")
            continue
        fast = best_ms(plain(yaml.CSafeLoader), text)
        slow = f"{best_ms(plain(yaml.SafeLoader), text):,.1f}" if len(text) < 200_000 else "-"
        table.add_row(name, f"{ours:,.1f}", f"{fast:,.1f}", slow, f"{ours / fast:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
