"""Notices that registry.yaml or the made specialists changed, and waits until whoever writes it has finished.

Polls, so it works with editors that rename, with mounted config maps and on every file system. Knows nothing
of what a catalog is for; the caller's `report` logs and counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from .loading import Attempt, CatalogHolder, ReloadStatus

Signature = tuple[int, ...]
Signatures = dict[Path, Signature | None]

_NEVER_READ: Signatures = {}

_SETTLE_S = 0.1
_STAT_S = 0.25
"""Times and sizes alone are looked at this often, because a rollback should not wait: some stat calls, no reading."""
_CLOCK_GRAIN_NS = 2_000_000_000
"""Two writes within it may leave the same times on a coarse file system."""


async def watch(
    holder: CatalogHolder, interval_s: float = 1.0, report: Callable[[ReloadStatus], None] | None = None
) -> None:
    """Reload the holder whenever a file of its changes, until cancelled.

    `report` is called once for each change that was taken over or refused. While something is refused, it is
    tried again every `interval_s`, because the mend may lie elsewhere (an adapter's folder, say). Reading and
    checking run in a thread; the swap and the listeners run in the event loop.
    """
    seen = _NEVER_READ
    read_at_s = 0.0
    while True:
        before = await asyncio.to_thread(_signatures, holder)
        is_due = time.monotonic() - read_at_s >= interval_s
        troubled = not holder.status.ok or holder.status.left_out or _is_recent(before)
        if before != seen or (is_due and troubled):
            read_at_s = time.monotonic()
            attempt = await asyncio.to_thread(holder.attempt)
            if not holder.is_news(attempt):
                seen = before
            elif await _has_settled(holder, attempt):
                seen = before
                status = holder.take(attempt)
                if report is not None:
                    report(status)
            else:
                continue  # still being written: look again at once
        await asyncio.sleep(min(interval_s, _STAT_S))


def signature_of(path: Path) -> Signature | None:
    """Return what changes when a file is written or replaced; None when it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _signatures(holder: CatalogHolder) -> Signatures:
    return {path: signature_of(path) for path in holder.watched()}


def _is_recent(signatures: Signatures) -> bool:
    now_ns = time.time_ns()
    return any(s is not None and now_ns - s[2] < _CLOCK_GRAIN_NS for s in signatures.values())


async def _has_settled(holder: CatalogHolder, attempt: Attempt) -> bool:
    """Say whether a second reading, a moment later, finds the same content."""
    await asyncio.sleep(_SETTLE_S)
    again = await asyncio.to_thread(holder.attempt)
    return again.content_digest == attempt.content_digest and again.error == attempt.error
