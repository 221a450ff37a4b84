"""`journeyman serve`: the gateway as one process, until SIGINT or SIGTERM."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import click
import msgspec

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

    # numpy reads it when it is first imported: threads that wait for each other cost more than vectors of 45 numbers.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from .app import create_app  # noqa: PLC0415
    from .http_server import HttpServer, listen  # noqa: PLC0415

    app = create_app(settings)
    listener = listen(settings.host, settings.port)
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    ready = msgspec.json.encode({"event": "ready", "url": url}).decode()

    def on_ready() -> None:
        _spare_the_collector()
        click.echo(ready)

    await HttpServer(app, listener, on_ready).run_until_signalled()


def _spare_the_collector() -> None:
    """What lives as long as the process is not looked at again; calls leave few cycles, so it runs less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
