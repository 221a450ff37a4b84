"""Runs the loader, a process of its own that moves records from spool to DuckDB; starts it again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from .log import get

_log = get("loader")
_RESTART_S = 2.0
_DRAIN_S = 10.0


class RecordLoader:
    """One child process; the gateway itself never opens the store for writing."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the child and keep it running."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let the child load what is left, then end it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        child = self._child
        if child is None or child.returncode is not None:
            return
        child.terminate()
        try:
            await asyncio.wait_for(child.wait(), _DRAIN_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _keep(self) -> None:
        while True:
            self._child = await asyncio.create_subprocess_exec(*self._command())
            code = await self._child.wait()
            _log.warning("the loader ended; starting it again", exit_code=code)
            await asyncio.sleep(_RESTART_S)

    def _command(self) -> list[str]:
        module = ["-m", "observations.loader"]
        return [sys.executable, *module, "--state", str(self._state), "--parent-pid", str(os.getpid())]
