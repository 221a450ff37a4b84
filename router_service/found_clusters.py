"""Keeps the tasks in force that were found in the traffic: read at the start, and again whenever their file changes.

No file means none were found; one that cannot be read leaves the last good ones in force.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from policies.found_clusters import decode_found
from policies.two_stage import TwoStageClassifier
from registry.errors import JourneymanError
from registry.watching import Signature, signature_of

from .log import get

_log = get("clusters")


class FoundClustersKeeper:
    """One for each process."""

    def __init__(self, file: Path, classifier: TwoStageClassifier) -> None:
        self._file = file
        self._classifier = classifier
        self._seen: Signature | None = None
        self.trouble = ""
        """Why what the file says is not in force; empty when it is."""

    def look(self) -> None:
        """Take up what the file says, if it changed."""
        now = signature_of(self._file)
        if now == self._seen:
            return
        self._seen = now
        try:
            found = decode_found(self._file.read_bytes(), str(self._file)).by_signature() if now is not None else {}
        except (JourneymanError, OSError) as error:
            self.trouble = error.message if isinstance(error, JourneymanError) else f"{self._file}: {error.strerror}"
            _log.error("found clusters refused; the last good ones stay in force", reason=self.trouble)
            return
        self.trouble = ""
        self._classifier.find(found)
        _log.info("found clusters in force", signatures=len(found))

    async def run(self, interval_s: float) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.to_thread(self.look)
