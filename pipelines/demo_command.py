"""`journeyman demo`: the gateway and the loop on this machine, with a stand-in for the large model.

It only runs commands that a user could run, and shows each. Knows nothing of what they do.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from rich.console import Console

from pipelines.children import Child, command_of, wait_until_ready
from pipelines.demo_loop import Loop, LoopPlan
from pipelines.quick_trial import QUICK_PROMOTION, policies_with
from registry.errors import GateFailedError

EXIT_ENV = "JOURNEYMAN_DEMO_EXIT"


_ROWS = 2_000
"""Of each family: enough that no call is sent twice."""


class Plan(Struct, frozen=True):
    """What the demo runs with."""

    registry: Path
    state: Path
    port: int
    calls: int
    rate: float
    seed: int
    learn_calls: int
    tasks: int
    loop: bool


@click.command()
@click.option("--registry", type=click.Path(path_type=Path), default=Path("registry.yaml"), show_default=True)
@click.option("--state", type=click.Path(path_type=Path), default=Path(".journeyman/demo"), show_default=True)
@click.option("--port", type=int, default=8080, show_default=True, help="The gateway's port; 0 takes a free one.")
@click.option("--loop/--no-loop", default=True, show_default=True, help="Also learn from traffic: some 15 minutes.")
@click.option("--calls", type=click.IntRange(1), default=200, show_default=True, help="Calls that are compared.")
@click.option("--rate", type=click.FloatRange(0.1), default=8.0, show_default=True, help="Calls a second.")
@click.option("--learn-calls", type=click.IntRange(1), default=3_000, show_default=True, help="Calls to learn from.")
@click.option("--tasks", type=click.IntRange(1), default=3, show_default=True, help="Most specialists to make.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--exit", "exits", is_flag=True, envvar=EXIT_ENV, help="End by itself instead of waiting for Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end; implies --exit.")
def demo(exits: bool, as_json: bool, **options: Any) -> None:
    """Show a routed answer on this machine, then what the loop makes of a few thousand."""
    plan = Plan(**options)
    console = Console(stderr=as_json)
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as children:
        result = _Demo(plan, console, children, quiet=as_json).run()
        if as_json:
            click.echo(json.dumps(result))
        elif not exits:
            _wait(console)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait(console: Console) -> None:
    console.print("[dim]The gateway stays up. Ctrl-C ends it.[/]")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("\n[dim]Ending the gateway, the engine and the teacher.[/]")


class _Demo:
    """One showing. `url` is set once the gateway is up."""

    def __init__(self, plan: Plan, console: Console, children: ExitStack, *, quiet: bool) -> None:
        self._plan = plan
        self._console = console
        self._quiet = quiet
        self._children = children
        self._workload = plan.state / "workload"
        self._started_s = time.monotonic()
        plan.state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def run(self) -> dict[str, Any]:
        """Show everything; returns the figures."""
        self._console.print("[bold]Journeyman[/]: a gateway, a small model, a stand-in for a large one, right here.\n")
        self._make_workload()
        teacher = self._start("teacher", self._teacher_arguments())
        gateway = self._start("gateway", self._serve_arguments(), JOURNEYMAN_TEACHER_URL=str(teacher["url"]))
        url = str(gateway["url"])
        self._wait_for_engine(url)
        found: dict[str, Any] = {"url": url, "first_answer_s": round(self._first_answer(url), 2)}
        if self._plan.loop:
            found["loop"] = self._loop(url)
        else:
            found["traffic"] = self._traffic(url)
        self._what_next(url)
        return found

    def _make_workload(self) -> None:
        if not (self._workload / "apps.json").exists():
            size = ["--rows", str(_ROWS), "--seed", str(self._plan.seed)]
            self._run(["workload", "generate", "--out", str(self._workload), *size], capture=True)

    def _teacher_arguments(self) -> list[str]:
        pace = ["--error-rate", "0.02", "--latency-p50-ms", "350", "--latency-p95-ms", "900", "--tokens-per-s", "80"]
        return ["teacher", "--workload", str(self._workload), *pace]

    def _serve_arguments(self) -> list[str]:
        where = ["--registry", str(self._plan.registry), "--state", str(self._plan.state)]
        where += ["--policies", str(policies_with(QUICK_PROMOTION, self._plan.state / "policies"))]
        return ["serve", *where, "--port", str(self._plan.port), "--log-level", "error"]

    def _start(self, name: str, arguments: list[str], **environment: str) -> dict[str, Any]:
        shown = " ".join(f"{key}={value}" for key, value in environment.items())
        self._console.print(
            f"[dim]$[/] {shown + ' ' if shown else ''}journeyman {' '.join(arguments)}", highlight=False
        )
        child = Child(name, command_of(arguments), self._plan.state / f"{name}.log", environment)
        self._children.callback(child.stop)
        return child.wait_ready(60)

    def _run(self, arguments: list[str], *, capture: bool = False) -> str:
        """Run a command of ours to its end, in sight or captured; returns what was captured."""
        self._console.print(f"[dim]$[/] journeyman {' '.join(arguments)}", highlight=False)
        done = subprocess.run(  # noqa: S603  our own command
            command_of(arguments), check=False, stdout=subprocess.PIPE if capture else None, text=True
        )
        if done.returncode:
            raise GateFailedError(f"`journeyman {arguments[0]}` ended with {done.returncode}.")
        return done.stdout or ""

    def _wait_for_engine(self, url: str) -> None:
        with self._console.status("the engine loads its weights"):
            wait_until_ready(url)

    def _first_answer(self, url: str) -> float:
        request = self._plan.state / "first.json"
        request.write_text(json.dumps(_first_request(self._workload)))
        self._console.print()
        self._run(["ask", "--url", url, "--explain", "--body", str(request)], capture=self._quiet)
        seconds = time.monotonic() - self._started_s
        self._console.print(f"[dim]first answer {seconds:.1f} s after the start[/]\n")
        return seconds

    def _traffic(self, url: str) -> dict[str, Any]:
        plan = self._plan
        arguments = ["traffic", "--workload", str(self._workload), "--base-url", f"{url}/v1", "--split", "dev"]
        arguments += ["--calls", str(plan.calls), "--rate", f"{plan.rate:g}", "--seed", str(plan.seed)]
        if not self._quiet:
            self._run(arguments)
            return {}
        report: dict[str, Any] = json.loads(self._run([*arguments, "--json"], capture=True))
        return report

    def _loop(self, url: str) -> dict[str, Any]:
        plan = self._plan
        shown = LoopPlan(
            workload=self._workload,
            registry=plan.registry,
            state=plan.state,
            url=url,
            learn_calls=plan.learn_calls,
            compare_calls=plan.calls,
            rate=plan.rate,
            tasks=plan.tasks,
            seed=plan.seed,
        )
        return Loop(shown, lambda arguments: self._run(arguments, capture=True), self._console).show()

    def _what_next(self, url: str) -> None:
        body = '{"model":"auto","messages":[{"role":"user","content":"Say hello."}]}'
        client = f"openai.OpenAI(base_url='{url}/v1', api_key='unused')"
        lines = (
            f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
            f'{_beside("python")} -c "import openai; print({client}.models.list())"',
            f"OPENAI_API_KEY=unused OPENAI_BASE_URL={url}/v1 {_beside('llm')} -m gpt-4o 'Say hello.'",
            f"{_beside('journeyman')} ask --url {url} --explain 'What is the capital of France?'",
            f"{_beside('journeyman')} export --state {self._plan.state} --format jsonl --out calls.jsonl",
            f"{_beside('journeyman')} registry ledger --state {self._plan.state}",
            f"curl {url}/metrics",
        )
        self._console.print("\n[bold]Try next[/]")
        for line in lines:
            self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        self._console.print()


def _beside(program: str) -> str:
    """How to call a program of this environment from here."""
    path = Path(sys.executable).parent / program
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _first_request(workload: Path) -> dict[str, Any]:
    """The first development row of the first agent that has a response format, as a request."""
    apps = json.loads((workload / "apps.json").read_text())
    family = next(name for name, app in apps.items() if app.get("response_format"))
    rows = (json.loads(line) for line in (workload / f"{family}.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["split"] == "dev")
    return {
        "system": apps[family]["system"],
        "prompt": row["input"],
        "response_format": apps[family]["response_format"],
    }
