"""Is anything acknowledged ever lost? SIGKILL under load, again and again, then every acknowledged id is looked up.

    python benchmarks/kills.py --kills 200              a process that appends to the spool
    python benchmarks/kills.py --kills 200 --gateway    a whole `journeyman serve` with concurrent clients

The loader process is killed at random moments, too. After each kill the store must open for a reader. At the end all
segments are loaded, and each acknowledged id must be in the store exactly once. Ends with 1 when that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from msgspec import Struct  # noqa: E402

from observations.loading import LoadReport, load_once, prepare_store  # noqa: E402
from observations.state import StatePaths  # noqa: E402
from observations.store import open_reader  # noqa: E402
from registry.errors import StorageError  # noqa: E402

# Two threads, about 2,000 records a second; an id goes to the pipe only when `append` has returned.
_WRITER = """
import os, sys, threading, time
from pathlib import Path
from observations.records import AttemptRecord, CallRecord
from observations.spool import Spool, SpoolSettings
from registry.identifiers import new_call_id
spool = Spool.open(Path(sys.argv[1]), SpoolSettings(segment_bytes=200_000, segment_age_s=0.1, fsync_interval_ms=20))
def write():
    while True:
        for _ in range(2):
            call_id = new_call_id()
            spool.append(CallRecord(id=call_id, at_ms=int(time.time() * 1000), cluster="c", answer_text="y" * 500,
                messages=[{"role": "user", "content": "x" * 500}], attempts=(AttemptRecord("m", "b", "verified"),)))
            os.write(1, call_id.encode() + b"\\n")
        time.sleep(0.002)
threading.Thread(target=write, daemon=True).start()
write()
"""

_REGISTRY = """
version: 1
defaults: {frontier: echo}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: echo, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.95}}
"""


class Result(Struct):
    """What a run found."""

    kills: int = 0
    loader_kills: int = 0
    opened: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    damaged: int = 0
    torn_bytes: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing twice, nothing damaged, and the store opened every time."""
        return self.lost == self.doubled == self.damaged == self.quarantined == 0 and self.opened == self.kills


class Loader:
    """A loader process that is killed now and then."""

    def __init__(self, state: StatePaths, chance: random.Random) -> None:
        self._state = state
        self._chance = chance
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def ensure(self) -> None:
        """Start it if it is not there."""
        if self._process is None:
            command = [sys.executable, "-m", "observations.loader", "--state", str(self._state.root)]
            options = ["--parent-pid", str(os.getpid()), "--interval-s", "0.02"]
            self._process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL)

    def maybe_kill(self, probability: float = 0.7) -> None:
        """Kill it, with that probability."""
        if self._process is not None and self._chance.random() < probability:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


def kill_writer_rounds(state: StatePaths, kills: int, chance: random.Random, say: Callable[[str], None]) -> Result:
    """Kill a writer `kills` times while a loader, killed as well, works beside it."""
    prepare_store(state)
    result, acknowledged, loader = Result(), set[str](), Loader(state, chance)
    begun = time.monotonic()
    for number in range(1, kills + 1):
        loader.ensure()
        before = len(acknowledged)
        command = [sys.executable, "-c", _WRITER, str(state.spool)]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        collector = threading.Thread(target=_collect, args=(writer, acknowledged))
        collector.start()
        _wait_for_more(acknowledged, before)
        time.sleep(chance.uniform(0, 0.5))
        loader.maybe_kill(0.35)
        writer.kill()
        loader.maybe_kill(0.35)
        writer.wait()
        collector.join()
        _note_round(state, result, say, (number, kills, len(acknowledged)))
    loader.stop()
    return _judge(state, result, acknowledged, (loader.kills, begun))


def kill_gateway_rounds(state: StatePaths, kills: int, chance: random.Random, say: Callable[[str], None]) -> Result:
    """Kill `journeyman serve` `kills` times under concurrent clients. Acknowledged is what a client received whole."""
    prepare_store(state)
    registry = state.root / "kills-registry.yaml"
    registry.write_text(_REGISTRY)
    result, acknowledged = Result(), set[str]()
    begun = time.monotonic()
    for number in range(1, kills + 1):
        with _gateway(state, registry) as (process, url):
            stop, before = threading.Event(), len(acknowledged)
            clients = [threading.Thread(target=_call_on, args=(url, stop, acknowledged, n)) for n in range(8)]
            for client in clients:
                client.start()
            _wait_for_more(acknowledged, before)
            time.sleep(chance.uniform(0, 1.0))
            process.kill()
            process.wait()
            stop.set()
            for client in clients:
                client.join()
        _note_round(state, result, say, (number, kills, len(acknowledged)))
    return _judge(state, result, acknowledged, (0, begun))


def _collect(writer: subprocess.Popen[bytes], acknowledged: set[str]) -> None:
    assert writer.stdout is not None
    for line in writer.stdout:
        if line.endswith(b"\n"):
            acknowledged.add(line.decode().strip())


def _wait_for_more(acknowledged: set[str], before: int) -> None:
    """So that the kill comes under load, however long the start took."""
    deadline = time.monotonic() + 60
    while len(acknowledged) == before and time.monotonic() < deadline:
        time.sleep(0.005)


def _note_round(state: StatePaths, result: Result, say: Callable[[str], None], at: tuple[int, int, int]) -> None:
    """The store must open for a reader now, whatever was killed."""
    number, kills, acknowledged = at
    result.kills += 1
    try:
        store = open_reader(state, wait_s=20)
        store.execute("SELECT count(*), max(latency_ms) FROM slm_observation_raw").fetchone()
        store.close()
        result.opened += 1
    except StorageError as error:
        say(f"kill {number}: the store does not open: {error}")
    if number % max(1, kills // 10) == 0:
        say(f"{number}/{kills} kills, {acknowledged} acknowledged, store opened {result.opened}/{result.kills}")


def _judge(state: StatePaths, result: Result, acknowledged: set[str], run: tuple[int, float]) -> Result:
    report: LoadReport = _load_rest(state)
    store = open_reader(state, wait_s=20)
    ids = [row[0] for row in store.execute("SELECT id FROM slm_observation_raw").fetchall()]
    store.close()
    stored = set(ids)
    result.loader_kills, begun = run
    result.acknowledged, result.stored = len(acknowledged), len(ids)
    result.lost, result.doubled = len(acknowledged - stored), len(ids) - len(stored)
    result.damaged, result.torn_bytes = report.damaged, report.torn_bytes
    result.quarantined = len(list(state.quarantine.iterdir()))
    result.seconds = round(time.monotonic() - begun, 1)
    return result


def _load_rest(state: StatePaths) -> LoadReport:
    """An orphaned loader may still be at its last load."""
    for _ in range(10):
        with contextlib.suppress(StorageError):
            return load_once(state)
    return load_once(state)


@contextlib.contextmanager
def _gateway(state: StatePaths, registry: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    command = [sys.executable, "-m", "router_service.cli", "serve", "--registry", str(registry)]
    with (state.root / "kills-gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--state", str(state.root), "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=log
        )
    try:
        yield process, _ready_url(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def _ready_url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if said.get("event") == "ready":
                return str(said["url"])
    raise SystemExit("The gateway ended before it was ready; see kills-gateway.log in the state directory.")


def _call_on(url: str, stop: threading.Event, acknowledged: set[str], number: int) -> None:
    """One client: a call after the other, every second client streaming, until the gateway is gone."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=10)
    body: dict[str, Any] = {
        "model": "echo",
        "messages": [{"role": "system", "content": "Repeat."}, {"role": "user", "content": f"client {number}"}],
        "stream": number % 2 == 1,
    }
    with contextlib.suppress(OSError, http.client.HTTPException):
        while not stop.is_set():
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()  # raises IncompleteRead when the body was cut
            whole = content.rstrip().endswith(b"[DONE]") if body["stream"] else content.endswith(b"}")
            call_id = answer.getheader("x-journeyman-id")
            if answer.status == 200 and whole and call_id:
                acknowledged.add(call_id)
    connection.close()


def main() -> None:
    """Run, print the result, and end with 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--gateway", action="store_true", help="kill a whole `journeyman serve`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, help="keep the state here, for a look afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = StatePaths(options.state or Path(folder) / "state")
        rounds = kill_gateway_rounds if options.gateway else kill_writer_rounds
        result = rounds(state, options.kills, random.Random(options.seed), lambda line: print(line, flush=True))
    for name in result.__struct_fields__:
        print(f"{name:>14}  {getattr(result, name)}")
    print(f"lost={result.lost}, store opened {result.opened}/{result.kills}: {'pass' if result.passed else 'FAIL'}")
    sys.exit(0 if result.passed else 1)


if __name__ == "__main__":
    main()
