"""Which ASGI server, and how much of Litestar? Speed of each pair, side by side in one run.

The same small application (see stub/asgi_apps.py) on granian, uvicorn and hypercorn; then, on each, the forms of it
that Litestar allows. One worker each, wrk on the same machine, repeats interleaved, medians shown.
`asgi_behaviours.py` asks how they behave.

    python benchmarks/asgi_servers.py --seconds 3 --repeats 3

Needs wrk on the PATH. uvicorn and hypercorn are installed into a git-ignored folder on the first run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loopback import (
    ROOT,
    SCRATCH,
    Children,
    Load,
    chat_body,
    children,
    free_port,
    median_load,
    run_wrk,
    wait_for_answer,
    write_wrk_script,
)

OTHERS = SCRATCH / "asgi"
APPS = ("raw_app", "litestar_mounted", "litestar_lean", "litestar_middleware", "litestar_plain")
_GRANIAN = [
    *["-m", "granian", "--interface", "asgi", "--factory", "--http", "1"],
    *["--loop", "uvloop", "--no-log", "--no-ws"],
]
COMMANDS: dict[str, list[str]] = {
    "granian st": [*_GRANIAN, "--runtime-mode", "st", "--port", "{port}", "{app}"],
    "granian mt": [*_GRANIAN, "--runtime-mode", "mt", "--port", "{port}", "{app}"],
    "granian st rust-task": [*_GRANIAN, "--runtime-mode", "st", "--task-impl", "rust", "--port", "{port}", "{app}"],
    "granian embedded": ["-m", "benchmarks.stub.embedded", "granian", "{port}", "{app}"],
    "uvicorn httptools": [
        *["-m", "uvicorn", "--factory", "--loop", "uvloop", "--http", "httptools", "--ws", "none"],
        *["--log-level", "warning", "--no-access-log", "--port", "{port}", "{app}"],
    ],
    "uvicorn embedded": ["-m", "benchmarks.stub.embedded", "uvicorn", "{port}", "{app}"],
    "hypercorn": ["-m", "hypercorn", "-k", "uvloop", "--bind", "127.0.0.1:{port}", "{app}()"],
}


@dataclass(frozen=True)
class Pair:
    """A server and the form of the application it runs."""

    server: str
    app: str


def command(server: str, app: str, port: int) -> list[str]:
    """The command line that starts `server` with `app` on `port`."""
    target = f"benchmarks.stub.asgi_apps:{app}"
    return [sys.executable, *(part.format(port=port, app=target) for part in COMMANDS[server])]


def install_others() -> None:
    """Install the servers that are no dependency of ours beside the project, once."""
    if (OTHERS / "uvicorn").exists() and (OTHERS / "hypercorn").exists():
        return
    print(f"installing uvicorn and hypercorn into {OTHERS.relative_to(ROOT)}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", OTHERS]
    subprocess.run([*pip, "uvicorn==0.54.0", "hypercorn==0.18.0", "httptools==0.9.0"], check=True)


def start(group: Children, pair: Pair) -> int:
    """Start one pair and return its port."""
    port = free_port()
    env = {"PYTHONPATH": f"{ROOT}:{OTHERS}"}
    name = f"{pair.server} {pair.app}".replace(" ", "-")
    child = group.start(name, command(pair.server, pair.app, port), port, env=env)
    wait_for_answer(f"http://127.0.0.1:{port}/v1/chat/completions", child)
    return port


def pairs_to_measure() -> list[Pair]:
    """Every server with the bare and the lean application; every form on the two fastest kinds."""
    both = [Pair(server, app) for app in ("raw_app", "litestar_lean") for server in COMMANDS]
    forms = [Pair(server, app) for app in APPS for server in ("granian st", "uvicorn httptools")]
    return list(dict.fromkeys([*both, *forms]))


def measure(pairs: list[Pair], seconds: int, repeats: int) -> dict[tuple[Pair, str], Load]:
    """Medians for each pair and load (`c1`, `c8`, `sse`)."""
    runs: dict[tuple[Pair, str], list[Load]] = {}
    with children() as group:
        plain = write_wrk_script(group.folder, "plain", chat_body("auto"))
        stream = write_wrk_script(group.folder, "stream", chat_body("auto", stream=True))
        ports = {pair: start(group, pair) for pair in pairs}
        for repeat in range(repeats):
            print(f"repeat {repeat + 1} of {repeats}", flush=True)
            for pair, port in ports.items():
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                for name, script, connections in (("c1", plain, 1), ("c8", plain, 8), ("sse", stream, 8)):
                    load = run_wrk(url, script, connections=connections, seconds=seconds)
                    runs.setdefault((pair, name), []).append(load)
    return {key: median_load(loads) for key, loads in runs.items()}


def show(pairs: list[Pair], medians: dict[tuple[Pair, str], Load]) -> None:
    """Print the table; `x` is the throughput at eight connections over that of the first row."""
    head = f"{'server':<22}{'application':<22}{'1 conn req/s':>13}{'p50 ms':>8}{'p99 ms':>8}"
    print(f"\n{head}{'8 conn req/s':>14}{'p50 ms':>8}{'p99 ms':>8}{'x':>6}{'SSE req/s':>11}{'errors':>8}")
    first = medians[pairs[0], "c8"].requests_per_s
    for pair in pairs:
        one, eight, sse = (medians[pair, name] for name in ("c1", "c8", "sse"))
        print(
            f"{pair.server:<22}{pair.app:<22}{one.requests_per_s:>13.0f}{one.p50_ms:>8.2f}{one.p99_ms:>8.2f}"
            f"{eight.requests_per_s:>14.0f}{eight.p50_ms:>8.2f}{eight.p99_ms:>8.2f}{eight.requests_per_s / first:>6.2f}"
            f"{sse.requests_per_s:>11.0f}{one.errors + eight.errors + sse.errors:>8}"
        )


def main() -> None:
    """Parse the options, measure, show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=3, help="length of one wrk run")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    install_others()
    pairs = pairs_to_measure()
    show(pairs, measure(pairs, chosen.seconds, chosen.repeats))


if __name__ == "__main__":
    main()
