"""uvicorn inside a program that owns the event loop, the socket and the signals.

Connections are those of http_protocol. Knows nothing of the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from registry.errors import EnvironmentFaultError

from .http_protocol import ConnectionLimits, guarded

_BACKLOG = 1024
_SHUTDOWN_S = 10
_KEEP_ALIVE_S = 75


class HttpServer(uvicorn.Server):
    """One server on one socket; ends on SIGINT or SIGTERM, at once on a second."""

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        on_ready: Callable[[], None],
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=guarded(limits),
                loop="none",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )
        self._listener = listener
        self._on_ready = on_ready

    async def run_until_signalled(self) -> None:
        """Serve. Raises EnvironmentFaultError when the application did not start; its log says why."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        await self.serve(sockets=[self._listener])
        if not self.started:
            raise EnvironmentFaultError("The gateway did not start; the log above says why.")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to this program."""
        yield

    def _on_signal(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises EnvironmentFaultError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentFaultError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port; 0 takes a free one."
        ) from None
    return listener
