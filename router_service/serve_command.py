"""`journeyman serve`: the gateway as one process, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click
import msgspec

from registry.errors import EnvironmentFaultError

from .settings import Settings


@click.command()
@click.option("--registry", type=click.Path(path_type=Path), help="The registry file.")
@click.option("--policies", type=click.Path(path_type=Path), help="Folder of policy files.")
@click.option("--state", type=click.Path(path_type=Path), help="The state folder.")
@click.option("--host", help="Address to listen on; anything but loopback needs API keys.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level logged.")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="How log lines look.")
@click.option("--json", "as_json", is_flag=True, help="Log and report in JSON only.")
def serve(as_json: bool, **options: Any) -> None:
    """Run the gateway. Prints one JSON line with its URL when it is ready."""
    if as_json:
        options["log_format"] = "json"
    settings = Settings.from_env(os.environ, **options)
    run(settings)


def run(settings: Settings) -> None:
    """Serve until a signal comes."""
    import uvloop  # noqa: PLC0415  only here

    from .log import configure  # noqa: PLC0415

    configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(msgspec.structs.replace(settings, port=settings.port or free_port(settings.host))))


async def _serve(settings: Settings) -> None:
    from granian.constants import HTTPModes, Interfaces  # noqa: PLC0415
    from granian.http import HTTP1Settings  # noqa: PLC0415
    from granian.server.embed import Server  # noqa: PLC0415

    from .app import create_app  # noqa: PLC0415

    check_port(settings.host, settings.port)
    server = Server(
        create_app(settings),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, keep_alive=True),
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    announcer = asyncio.create_task(_announce(settings))
    try:
        await server.serve()
    finally:
        announcer.cancel()


async def _announce(settings: Settings) -> None:
    """Print the ready line once the port answers."""
    while True:
        try:
            _, writer = await asyncio.open_connection(settings.host, settings.port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        url = f"http://{settings.host}:{settings.port}"
        click.echo(msgspec.json.encode({"event": "ready", "url": url}).decode())
        return


def free_port(host: str) -> int:
    """A port that is free at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(host: str, port: int) -> None:
    """Raise EnvironmentFaultError when somebody listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentFaultError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another with --port; 0 takes a free one."
            ) from None
