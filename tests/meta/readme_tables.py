"""The rows of README.md's tables of settings and metrics, written from the code."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import msgspec

from router_service.metrics import METRICS
from router_service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


def settings_rows() -> list[str]:
    """A row for each setting: variable, default, what the docstring under the field says."""
    texts = _field_docstrings(Settings)
    return [
        f"| `{PREFIX}{item.name.upper()}` | `{_shown(item.default)}` | {texts[item.name]} |"
        for item in msgspec.structs.fields(Settings)
    ]


def metrics_rows() -> list[str]:
    """A row for each metric: name, kind, labels, meaning."""
    return [
        f"| `{name}` | {kind.__name__.lower()} | {', '.join(f'`{label}`' for label in labels) or '-'} | {text} |"
        for name, (kind, text, labels) in METRICS.items()
    ]


def _field_docstrings(owner: type[Any]) -> dict[str, str]:
    (tree,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            texts[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


def _shown(default: Any) -> str:
    if isinstance(default, Path) and default.is_absolute():
        return default.relative_to(ROOT).as_posix()
    if default is None:
        return "beside the others"
    return str(default).lower() if isinstance(default, bool) else str(default)
