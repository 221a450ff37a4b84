"""Where the reports of trials lie: for each specialist the latest, and for ever one for each move that was made.

    reports/SPECIALIST/promotion.html, promotion.md, promotion.json, evidence.json    the latest look
    reports/SPECIALIST/20261121T200000Z-EVIDENCE/...                                  the look that a move was made on

EVIDENCE is what the ledger's entry names: the sha256 of evidence.json. Knows files; nothing of what was proven.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from observations.state import make_folder
from pipelines.promotion_report import PromotionReport
from pipelines.run import write_atomically
from registry.errors import StorageError

REPORTS: Final = "reports"
"""The folder of all reports in the state folder."""
STEM: Final = "promotion"
PAGE: Final = f"{STEM}.html"
EVIDENCE: Final = "evidence.json"


def evidence_of(look: dict[str, Any]) -> tuple[bytes, str]:
    """Return a look as the bytes that are kept of it, and their sha256: what the ledger names."""
    content = msgspec.json.encode(look, order="sorted")
    return content, hashlib.sha256(content).hexdigest()


def file_report(reports: Path, report: PromotionReport, look: dict[str, Any], *, for_ever: bool) -> Path:
    """Write a report as the latest of its specialist and, for a move, beside the earlier ones; return its folder.

    Raises StorageError, naming the place.
    """
    content, digest = evidence_of(look)
    report = structs.replace(report, evidence=digest)
    latest = reports / report.specialist
    _write(latest, report, content)
    if not for_ever:
        return latest
    kept = latest / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{digest}"
    _write(kept, report, content)
    return kept


def withdraw(folder: Path) -> None:
    """Remove the report of a move that was not made after all."""
    shutil.rmtree(folder, ignore_errors=True)


def find_report(reports: Path, evidence: str) -> Path | None:
    """Return the folder of the report whose evidence a ledger entry names; None when there is none."""
    return next(iter(sorted(reports.glob(f"*/*-{evidence}"))), None) if evidence.isalnum() else None


class Dropped(Struct, frozen=True):
    """What became of the reports that show calls which must not be shown."""

    changed: tuple[Path, ...] = ()
    """Folders of reports that showed any, and no longer do."""
    unreadable: tuple[str, ...] = ()
    """Of which nobody can say, and why."""


def drop_examples(reports: Path, call_ids: Collection[str]) -> Dropped:
    """Take calls out of every report that shows them; the figures stay. Raises StorageError for a full disk."""
    changed, unreadable = [], []
    for path in sorted(reports.glob(f"**/{STEM}.json")):
        try:
            report = _read(path)
        except StorageError as error:
            unreadable.append(error.message)
            continue
        fixed, broken = (
            tuple(one for one in examples if one.call_id not in call_ids)
            for examples in (report.fixed_examples, report.broken_examples)
        )
        if (fixed, broken) != (report.fixed_examples, report.broken_examples):
            _write(path.parent, structs.replace(report, fixed_examples=fixed, broken_examples=broken))
            changed.append(path.parent)
    return Dropped(tuple(changed), tuple(unreadable))


def _read(path: Path) -> PromotionReport:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PromotionReport)
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(f"Cannot read {path}: {error}. Delete its folder, or restore it.") from error


def _write(folder: Path, report: PromotionReport, evidence: bytes | None = None) -> None:
    files = {
        f"{STEM}.json": msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
        f"{STEM}.md": report.as_markdown().encode(),
        PAGE: report.as_html().encode(),
    }
    if evidence is not None:
        files[EVIDENCE] = evidence
    make_folder(folder)
    try:
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise StorageError(f"Cannot write {error.filename or folder}: {error.strerror or error}.") from error
