"""The engine's process: loads, listens on loopback, says that it is ready, and ends with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys

import structlog
from aiohttp import web

from registry.errors import EnvironmentFaultError
from specialists.engine.settings import EngineSettings

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 16 << 20
PARENT_CHECK_S = 0.5


def serve(settings: EngineSettings) -> None:
    """Loads the model and serves it until SIGTERM, SIGINT or the parent's end. Prints one JSON line on stdout when
    ready.

    Progress goes to stderr. Raises EnvironmentFaultError when the port is taken or the weights cannot be had.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    listener = _listen(settings.port)
    from specialists.engine.assembly import load_engine  # noqa: PLC0415 - torch: a taken port is told before
    from specialists.engine.routes import create_app  # noqa: PLC0415 - as above

    engine = load_engine(settings, report=_report)
    app = create_app(engine, MAX_BODY_BYTES)
    sys.setswitchinterval(0.001)  # the HTTP thread must not hold up the compute thread for longer
    asyncio.run(_serve(app, listener, settings, engine.served.base))


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot listen on {LOOPBACK}:{port} ({error.strerror}); give another --port, or 0"
        ) from error
    return listener


async def _serve(app: web.Application, listener: socket.socket, settings: EngineSettings, model: str) -> None:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, shutdown_timeout=2.0).start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    print(json.dumps({"event": "ready", "url": url, "model": model}), flush=True)
    watch = asyncio.create_task(_watch_parent(settings.parent_pid, ended))
    await ended.wait()
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    await runner.cleanup()


async def _watch_parent(parent_pid: int | None, ended: asyncio.Event) -> None:
    """Sets `ended` when the parent is gone. Polls: Linux's death signal would also fire when only the parent's
    thread ends.
    """
    is_child = parent_pid == os.getppid()
    while parent_pid is not None and _alive(parent_pid, is_child):  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(PARENT_CHECK_S)
    if parent_pid is not None:
        ended.set()


def _alive(parent_pid: int, is_child: bool) -> bool:
    if is_child:
        return os.getppid() == parent_pid
    try:
        os.kill(parent_pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
