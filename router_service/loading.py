"""Runs the loader, a process of its own that moves records from spool to DuckDB; starts it again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import msgspec
from msgspec import Struct

from observations.state import StatePaths

from .log import get

_log = get("loader")
_RESTART_S = 2.0
_DRAIN_S = 10.0


class _Status(Struct):
    """The part of the loader's own report that the gateway passes on."""

    last_error: str = ""


class RecordLoader:
    """One child process; the gateway itself never opens the store for writing."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
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

    def trouble(self) -> str:
        """What its last load stumbled over; empty when nothing."""
        try:
            return msgspec.json.decode(self._paths.loader_status.read_bytes(), type=_Status).last_error
        except (OSError, msgspec.DecodeError):
            return ""

    async def _keep(self) -> None:
        while True:
            self._child = await asyncio.create_subprocess_exec(*self._command())
            code = await self._child.wait()
            _log.warning("the loader ended; starting it again", exit_code=code)
            await asyncio.sleep(_RESTART_S)

    def _command(self) -> list[str]:
        module = ["-m", "observations.loader"]
        where = ["--state", str(self._paths.root), "--parent-pid", str(os.getpid())]
        return [sys.executable, *module, *where, "--drain"]
