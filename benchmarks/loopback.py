"""What the benchmarks that start servers share: free ports, children ended by their process id, and wrk's figures.

Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".journeyman" / "bench"
"""Where what a benchmark installs or writes lies; git-ignored."""


def need(program: str, package: str) -> str:
    """Return the path of `program`, or end the run and say how to get it."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit(f"{program} is not on the PATH: apt-get install {package}")
    return found


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, child: subprocess.Popen[bytes], log: Path, deadline_s: float = 60.0) -> None:
    """Wait until something listens on `port`; end the run with the log's tail when the child dies or time is up."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if child.poll() is not None:
            break
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise SystemExit(f"nothing listens on port {port} (command: {child.args!r})\n{tail}")


def wait_for_answer(
    url: str, child: subprocess.Popen[bytes], *, headers: dict[str, str] | None = None, deadline_s: float = 60.0
) -> bytes:
    """Post a chat call until it is answered with 200, and return the body; some listen before they can answer."""
    fixed = {"content-type": "application/json", "authorization": "Bearer loopback"}
    why = "no answer"
    end = time.monotonic() + deadline_s
    while time.monotonic() < end and child.poll() is None:
        try:
            request = urllib.request.Request(url, chat_body("auto"), fixed | (headers or {}))
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.read()[:500]!r}"
        except OSError as error:
            why = str(error)
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer: {why}")


@dataclass
class Children:
    """Servers that this run started; each in a process group of its own, ended by its id."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, name: str, command: Sequence[str | Path], port: int, *, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `command`, its output in `folder/name.log`, and wait until it listens."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.running.append(child)
        wait_for_port(port, child, log)
        return child

    def end_all(self) -> None:
        """SIGTERM each group, then SIGKILL what is left after five seconds."""
        for child in reversed(self.running):
            end_group(child)
        self.running.clear()


def end_group(child: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End one child and what it started."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """A temp folder and the servers in it; both are gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="journeyman-bench-") as folder:
        group = Children(Path(folder))
        try:
            yield group
        finally:
            group.end_all()


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run. Latencies are milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_ms: float = 0.0
    """Processor time of the server for one call, its children's too; steadier than latency on a busy machine."""


_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer loopback"
%(headers)s
local before, after, distinct, count, made = %(before)s, %(after)s, %(distinct)d, 0, {}
local function fresh()
  return wrk.format(nil, nil, nil, before .. count .. after)
end
request = function()
  count = count + 1
  if distinct == 0 then return fresh() end
  local slot = count %% distinct
  if not made[slot] then made[slot] = fresh() end
  return made[slot]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests": %%d, "us": %%d, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_NUMBER = "@NUMBER@"


def lua_string(text: str) -> str:
    """`text` as a Lua long string."""
    return f"[====[{text}]====]"


def write_wrk_script(
    folder: Path, name: str, body: bytes, headers: dict[str, str] | None = None, *, distinct: int = 1000
) -> Path:
    """Write the Lua script that posts `body` and prints the figures as JSON; `distinct` bodies, 0: no two the same."""
    before, _, after = body.decode().partition(_NUMBER)
    extra = "\n".join(f'wrk.headers["{key}"] = "{value}"' for key, value in (headers or {}).items())
    values = {"before": lua_string(before), "after": lua_string(after), "distinct": distinct, "headers": extra}
    path = folder / f"{name}.lua"
    path.write_text(_WRK_SCRIPT % values)
    return path


def child_pids(pid: int) -> list[int]:
    """The children of one process, those that any of its threads started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its living children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in child_pids(pid))


def run_wrk(url: str, script: Path, *, connections: int, seconds: int, pid: int | None = None) -> Load:
    """One run of wrk, one thread; with the server's `pid`, its processor time too."""
    cpu_before_s = cpu_seconds(pid) if pid else 0.0
    command = [need("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    done = subprocess.run([*command, "-s", script, url], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            seen = json.loads(line.removeprefix("RESULT "))
            rate = seen["requests"] / (seen["us"] / 1e6)
            cpu_ms = (cpu_seconds(pid) - cpu_before_s) * 1000 / max(seen["requests"], 1) if pid else 0.0
            return Load(rate, seen["p50"] / 1000, seen["p99"] / 1000, seen["errors"], cpu_ms)
    raise SystemExit(f"wrk gave no figures for {url}\n{done.stdout}\n{done.stderr}")


def median_load(runs: Sequence[Load]) -> Load:
    """The median of each figure; errors are added up."""

    def of(pick: Callable[[Load], float]) -> float:
        return statistics.median(pick(run) for run in runs)

    return Load(
        requests_per_s=of(lambda run: run.requests_per_s),
        p50_ms=of(lambda run: run.p50_ms),
        p99_ms=of(lambda run: run.p99_ms),
        errors=sum(run.errors for run in runs),
        cpu_ms=of(lambda run: run.cpu_ms),
    )


def chat_body(model: str, prompt_bytes: int = 1000, *, stream: bool = False) -> bytes:
    """A chat call whose user message is `prompt_bytes` long, with a place for a number that wrk puts in."""
    words = "please move forty dollars from my savings to my checking account before friday "
    prompt = (f"case {_NUMBER}: " + words * (prompt_bytes // len(words) + 1))[:prompt_bytes]
    call: dict[str, object] = {
        "model": model,
        "messages": [{"role": "system", "content": "You are a bank's agent."}, {"role": "user", "content": prompt}],
        "max_tokens": 64,
        "temperature": 0,
    }
    return json.dumps(call | ({"stream": True} if stream else {})).encode()


def chat_answer(model: str = "stub", content_bytes: int = 600) -> bytes:
    """A chat completion of about 1 kB."""
    content = ("The transfer is booked and arrives on friday. " * 40)[:content_bytes]
    message = {"role": "assistant", "content": content}
    return json.dumps(
        {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 1700000000,
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 210, "completion_tokens": 120, "total_tokens": 330},
        }
    ).encode()
