"""A server started from inside a program that owns the event loop.

    python -m benchmarks.stub.embedded granian|uvicorn PORT MODULE:FACTORY

SIGTERM and SIGINT are the program's own, as they would be in a gateway that has things to close.
"""

# ruff: noqa: PLC0415 - only the server that is measured is imported

import asyncio
import importlib
import signal
import sys
from typing import Any

import uvloop

HEAD_DEADLINE_S = 10.0


async def _granian(app: Any, port: int) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    server = Server(
        app, port=port, interface=Interfaces.ASGI, http=HTTPModes.http1, websockets=False, log_enabled=False
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


async def _uvicorn(app: Any, port: int) -> None:
    import contextlib

    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class HeadDeadline(HttpToolsProtocol):
        """Close a connection whose request head is not complete in `HEAD_DEADLINE_S`; uvicorn itself waits for ever."""

        late: asyncio.TimerHandle | None = None

        def _wait_for_head(self) -> None:
            self._head_came()
            self.late = self.loop.call_later(HEAD_DEADLINE_S, self.transport.close)

        def _head_came(self) -> None:
            if self.late is not None:
                self.late.cancel()

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait_for_head()

        def on_headers_complete(self) -> None:
            self._head_came()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

    class Server(uvicorn.Server):
        """Leaves the signals to the program."""

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    options: dict[str, Any] = {
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
        "timeout_graceful_shutdown": 3,
    }
    server = Server(uvicorn.Config(app, port=port, http=HeadDeadline, **options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    await server.serve()


def main() -> None:
    """Start the server named on the command line."""
    name, port, target = sys.argv[1:]
    module, factory = target.split(":")
    app = getattr(importlib.import_module(module), factory)()
    print("program started first", flush=True)
    uvloop.run({"granian": _granian, "uvicorn": _uvicorn}[name](app, int(port)))
    print("program ended in order", flush=True)


if __name__ == "__main__":
    main()
