"""`journeyman ask`: one call through a running gateway, with its plan before the answer and its figures after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import click
from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from policies.constraints import dollars
from registry.errors import EnvironmentFaultError, InvalidRequestError, JourneymanError

DEFAULT_URL = "http://127.0.0.1:8080"
_HINTS = ("task_type", "latency_budget_ms", "max_cost_usd", "safety_level", "user_tier")


class Question(Struct, frozen=True):
    """What to ask, and where."""

    url: str
    api_key: str | None
    body: dict[str, Any]


@click.command()
@click.argument("prompt", nargs=-1)
@click.option("--body", type=click.File("r"), help="A JSON file with a whole `/v1/ask` body; - is standard input.")
@click.option("--url", envvar="JOURNEYMAN_URL", default=DEFAULT_URL, show_default=True, help="The gateway.")
@click.option("--api-key", envvar="JOURNEYMAN_API_KEY", help="A key, where the gateway wants one.")
@click.option("--model", help="auto (the default), a model or a specialist.")
@click.option("--system", help="A system prompt.")
@click.option("--task-type", help="A hint for the classifier.")
@click.option("--latency-budget-ms", type=float, help="Hard limit on latency.")
@click.option("--max-cost-usd", type=float, help="Hard limit on cost.")
@click.option("--safety-level", help="low, standard, high or strict.")
@click.option("--user-tier", help="A tier of planner.yaml.")
@click.option("--max-tokens", type=int, help="Most tokens to generate.")
@click.option("--explain", is_flag=True, help="Show why each candidate won or lost.")
@click.option("--json", "as_json", is_flag=True, help="Print the frames as one JSON array.")
def ask(url: str, api_key: str | None, **options: Any) -> None:
    """Ask a running gateway and see its plan."""
    body = _body(options)
    question = Question(url.rstrip("/"), api_key, body)
    if options["as_json"]:
        click.echo(json.dumps(asyncio.run(_collect(question))))
    else:
        asyncio.run(show(question, Console(), explain=options["explain"]))


def _body(options: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.load(options["body"]) if options["body"] else {}
    if options["prompt"]:
        body["prompt"] = " ".join(options["prompt"])
    if not body:
        raise InvalidRequestError("Nothing to ask: give a PROMPT, or a whole body with --body FILE.")
    body |= {name: options[name] for name in ("model", "system", "max_tokens") if options[name] is not None}
    routing = {name: options[name] for name in _HINTS if options[name] is not None}
    return body | ({"routing": body.get("routing", {}) | routing} if routing else {})


async def frames(question: Question) -> AsyncIterator[dict[str, Any]]:
    """Yield the frames of `/v1/ask` as they come. Raises what the gateway answered as an error."""
    headers = {"Authorization": f"Bearer {question.api_key}"} if question.api_key else {}
    try:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(question.url + "/v1/ask", json=question.body) as response,
        ):
            if response.status != 200:
                raise _refusal(await response.json(content_type=None))
            async for line in response.content:
                if line.startswith(b"data: "):
                    frame = json.loads(line[6:])
                    if frame["type"] == "error":
                        raise _refusal(frame)
                    yield frame
    except aiohttp.ClientError as error:
        raise EnvironmentFaultError(
            f"No gateway answers at {question.url} ({error}). Start one with `journeyman serve`, or name it with --url."
        ) from None


async def _collect(question: Question) -> list[dict[str, Any]]:
    return [frame async for frame in frames(question)]


async def show(question: Question, console: Console, *, explain: bool) -> dict[str, Any]:
    """Print frames as they come; returns the metrics frame."""
    metrics: dict[str, Any] = {}
    async for frame in frames(question):
        match frame["type"]:
            case "plan":
                _show_plan(console, frame, explain=explain)
            case "attempt" if frame["state"] == "finished" and frame["outcome"] != "verified":
                console.print(f"[yellow]{frame['candidate']}: {frame['outcome']}, {frame['reason']}[/]")
            case "token":
                console.print(frame["text"], end="", markup=False, highlight=False)
                for call in frame.get("tool_calls", ()):
                    console.print(json.dumps(call["function"]), markup=False, highlight=False)
            case "metrics":
                metrics = frame
                console.print()
                _show_metrics(console, frame)
    return metrics


def _show_plan(console: Console, plan: dict[str, Any], *, explain: bool) -> None:
    chain = " -> ".join([plan["primary"], *plan["escalation_chain"]])
    console.print(f"[dim]plan[/] [bold]{chain}[/] [dim]cluster[/] {plan['cluster_id']}")
    console.print(f"[dim]{plan['justification']}[/]")
    if explain:
        for line in candidate_lines(plan["candidates"], plan["primary"]):
            console.print(line, highlight=False)


def candidate_lines(candidates: list[dict[str, Any]], primary: str) -> list[str]:
    """Two lines for each candidate: its figures, and why it won or lost; the primary first, the rejected last."""
    ranked = sorted(candidates, key=lambda row: (row["name"] != primary, "rejection" in row))
    lines = []
    for row in ranked:
        rejection = row.get("rejection")
        name = escape(row["name"])
        if rejection:
            lines += [f"  [dim]{name}[/]", f"    [yellow]{escape(rejection['reason'])}[/]"]
            continue
        colour = "green" if row["name"] == primary else "cyan"
        lines += [f"  [{colour}]{name}[/]  {_figures(row)}", f"    [dim]{escape(row['verdict'])}[/]"]
    return lines


def _figures(row: dict[str, Any]) -> str:
    spread = f" ± {row['quality_sd']:.2f}" if row["quality_sd"] else ""
    return (
        f"quality {row['expected_quality']:.2f}{spread}, {dollars(row['chain_cost_usd'] or row['expected_cost_usd'])} "
        f"a call, p95 {row['expected_latency_p95_ms']:,.0f} ms, chance {row['propensity']:.0%}"
    )


def _show_metrics(console: Console, metrics: dict[str, Any]) -> None:
    verified = "verified" if metrics["verified"] else "not verified"
    escalated = ", escalated" if metrics["escalated"] else ""
    console.print(
        f"[dim]{metrics['model']}, {verified}{escalated}; {metrics['tokens']} tokens, "
        f"{metrics['latency_ms']:.0f} ms, ${metrics['cost_usd']:.6f}, saved ${metrics['saved_usd']:.6f}[/]"
    )


def _refusal(body: dict[str, Any]) -> JourneymanError:
    error = body.get("error", {})
    return InvalidRequestError(f"{error.get('message', 'The gateway refused.')} ({error.get('code', 'unknown')})")
