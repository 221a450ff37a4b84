"""Keeps the learned classifier in force that lies in its folder: taken up at the start, exchanged when it changes.

A folder that is not there means no learned stage; one that is damaged leaves the last good model in force.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from policies.two_stage import TwoStageClassifier
from registry.errors import JourneymanError
from specialists.classifier import LearnedClassifier, digest_at

from .log import get

_log = get("classifier")


class ClassifierKeeper:
    """One for each process."""

    def __init__(self, folder: Path, classifier: TwoStageClassifier) -> None:
        self._folder = folder
        self._classifier = classifier
        self._digest = ""
        self.trouble = ""
        """Why what lies in the folder is not in force; empty when it is."""

    def look(self) -> None:
        """Take up what lies in the folder, if it is not in force already."""
        try:
            self._take_up()
        except JourneymanError as error:
            if error.message != self.trouble:
                _log.error("classifier refused; the last good one stays in force", reason=error.message)
            self.trouble = error.message
        else:
            self.trouble = ""

    async def run(self, interval_s: float) -> None:
        """Look again and again; reading happens in a thread."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.to_thread(self.look)

    def _take_up(self) -> None:
        if not self._folder.is_dir():
            if self._digest:
                self._digest = ""
                self._classifier.exchange(None)
                _log.info("classifier gone", folder=str(self._folder))
            return
        digest = digest_at(self._folder)
        if digest == self._digest:
            return
        learned = LearnedClassifier.load(self._folder)
        self._classifier.exchange(learned)
        self._digest = digest
        _log.info("classifier in force", name=learned.name, clusters=len(learned.clusters))
