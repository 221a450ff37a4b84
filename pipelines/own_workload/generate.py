"""The generator of the project's own workload: the same seed and size give the same bytes.

Every sixth row is dev's and uses wording that train never shows. It knows the families and the folder layout, not who
will answer the calls.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipelines.own_workload import actions, comments, ledger_lines, open_questions, orders, triage
from registry.errors import BadInputError

_DEV_EVERY: Final = 6


class Family(msgspec.Struct, frozen=True):
    """A family of calls: its agent (an entry of apps.json) and the maker of its rows (split, rng)."""

    app: dict[str, Any]
    row: Callable[[str, random.Random], dict[str, Any]]


FAMILIES: Final[Mapping[str, Family]] = {
    "desk_triage": Family(triage.app(), triage.row),
    "office_actions": Family(actions.app(), actions.row),
    "order_forms": Family(orders.app(), orders.row),
    "ledger_lines": Family(ledger_lines.app(), ledger_lines.row),
    "comment_checks": Family(comments.app(), comments.row),
    "open_questions": Family(open_questions.app(), open_questions.row),
}


def family_rows(family: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` rows of a family, in the layout of FAMILY.jsonl."""
    rng = random.Random(f"{family}:{seed}")  # noqa: S311 (texts, not secrets)
    for number in range(count):
        split = "dev" if number % _DEV_EVERY == _DEV_EVERY - 1 else "train"
        head = {"id": f"{family}-{seed}-{number:05d}", "family": family, "split": split}
        yield head | FAMILIES[family].row(split, rng)


def generate(seed: int, rows_per_family: int, out: Path) -> list[dict[str, Any]]:
    """Write the workload folder `out`: apps.json, FAMILY.jsonl, manifest.json; the manifest's entries.

    Raises:
        BadInputError: fewer than one row, or `out` is a file or holds other things.
    """
    if rows_per_family < 1:
        raise BadInputError(f"rows per family must be at least 1, not {rows_per_family}")
    names = {"apps.json", "manifest.json", *(f"{family}.jsonl" for family in FAMILIES)}
    if out.exists() and (not out.is_dir() or any(path.name not in names for path in out.iterdir())):
        raise BadInputError(f"{out}: not an empty folder nor a workload generated before; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    apps = {name: family.app for name, family in FAMILIES.items()}
    _write(out / "apps.json", _pretty(apps))
    manifest = [_write_family(out, name, seed, rows_per_family) for name in FAMILIES]
    _write(out / "manifest.json", _pretty(manifest))
    return manifest


def _write_family(out: Path, family: str, seed: int, count: int) -> dict[str, Any]:
    lines = [msgspec.json.encode(row) + b"\n" for row in family_rows(family, seed, count)]
    content = b"".join(lines)
    _write(out / f"{family}.jsonl", content)
    return {
        "file": f"{family}.jsonl",
        "rows": len(lines),
        "bytes": len(content),
        "source": f"journeyman workload generate --seed {seed} --rows {count}",
        "licence": "MIT",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
