"""Starts the embedded engine as a child process and keeps it running: restart with backoff, a log, an orderly end.

Never imports torch: the engine does, in its own process. Knows nothing of calls; whoever owns it is told of each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from registry.entries import BackendEntry
from registry.errors import JourneymanError

READY_S = 900.0
"""How long a start may take: the first one may have to prepare the weights."""
GENTLE_S = 5.0
"""Between terminate and kill."""
STEADY_S = 60.0
"""A run of this length starts the backoff anew."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
MAX_LOG_BYTES = 10 * 1024 * 1024
SECRET_NAME = re.compile(r"(?i)^(?!HF_).*(key|token|secret|passw|credential)")
"""Variables that sound so are not handed down: the engine needs no provider's key, only the hub's own token."""

Ready = Callable[[str], Awaitable[None]]
Gone = Callable[[], Awaitable[None]]


class _Event(Struct):
    event: str = ""
    url: str = ""
    message: str = ""


class EngineProcess:
    """One supervised child. `trouble` says why it is not up; it is empty while it is."""

    def __init__(self, command: Sequence[str], log: Path, on_ready: Ready, on_gone: Gone) -> None:
        self._command = tuple(command)
        self._log = log
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._ready: asyncio.Future[str]
        self.trouble = "the engine was not started yet"
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    def start(self) -> None:
        """Begin to supervise; calling it again changes nothing."""
        if self._task is None:
            self.trouble = "the engine is starting"
            self._task = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """End the child: terminate, then kill what is left."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.trouble = "the engine was closed"

    async def _supervise(self) -> None:
        wait_s = FIRST_WAIT_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            cause = await self._run_once()
            if loop.time() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            self.trouble = f"the engine {cause}; restarted in {wait_s:.1f} s (log: {self._log})"
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    async def _run_once(self) -> str:
        """Run the child to its end and return what became of it."""
        try:
            process = await self._spawn()
        except OSError as error:
            return f"cannot be started ({error})"
        self._process = process
        self._ready = asyncio.get_running_loop().create_future()
        listening = asyncio.create_task(self._listen(process))
        try:
            return await self._attend(process, listening)
        except JourneymanError as error:
            return f"cannot be used ({error.message})"
        finally:
            # Shielded: the child must be gone even when this task is cancelled while it waits for it.
            await asyncio.shield(_end(process, listening))
            self.trouble = self.trouble or "the engine has ended"
            await self._on_gone()

    async def _attend(self, process: Process, listening: asyncio.Task[None]) -> str:
        try:
            async with asyncio.timeout(READY_S):
                url = await self._ready
                if url:
                    await self._on_ready(url)
                    self.trouble = ""
        except TimeoutError:
            return f"was not ready within {READY_S:.0f} s"
        await listening
        status = await process.wait()
        self.trouble = "the engine has ended"
        return f"ended with status {status}{_last_words(self._log)}"

    async def _listen(self, process: Process) -> None:
        """Read the child's output to its end, also when nobody cares: a full pipe would block the engine."""
        assert process.stdout is not None
        while (line := await _line(process.stdout)) is not None:
            try:
                event = msgspec.json.decode(line, type=_Event)
            except (msgspec.DecodeError, ValueError):
                continue
            if event.event == "ready" and not self._ready.done():
                self._ready.set_result(event.url)
            elif event.message and self.trouble:
                self.trouble = f"the engine is starting: {event.message[:200]}"
        if not self._ready.done():
            self._ready.set_result("")

    async def _spawn(self) -> Process:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        too_long = self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if too_long else os.O_APPEND)
        log = os.open(self._log, flags, 0o600)
        try:
            # A session of its own: Ctrl-C reaches the gateway alone, which ends the engine when its calls are done.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=DEVNULL, stdout=PIPE, stderr=log, env=_environment(), start_new_session=True
            )
        finally:
            os.close(log)
        self.starts += 1
        return process


def engine_command(entry: BackendEntry) -> list[str]:
    """Return the command line of the engine for an entry of kind `embedded`."""
    command = [sys.executable, "-m", "specialists.engine", "--port", "0", "--parent-pid", str(os.getpid())]
    command += ["--max-loras", str(entry.max_loras)]
    return [*command, "--model", entry.model] if entry.model else command


def _environment() -> dict[str, str]:
    """Return ours without its secrets, and with the folder of these packages on the path."""
    root = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}
    return {**kept, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}


async def _line(stdout: asyncio.StreamReader) -> bytes | None:
    """Return the next line, None at the end; a line beyond the reader's limit counts as empty."""
    try:
        return await stdout.readline() or None
    except ValueError:
        return b""


async def _end(process: Process, listening: asyncio.Task[None]) -> None:
    """Terminate, then kill; afterwards its output is read to the end, unless somebody else holds the pipe open."""
    if process.returncode is None:
        await _terminate(process)
    await asyncio.wait({listening}, timeout=1.0)
    listening.cancel()


async def _terminate(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(GENTLE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _last_words(log: Path) -> str:
    """Return the last line that the child wrote to its log, for the reason shown to operators."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {words[:200]}" if words else ""
