"""Curated calls of a few made-up agents, for tests of the loop's steps. Each agent is told something else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pipelines.loop_rows import CuratedCall
from policies.features import signature_of

Maker = Callable[[random.Random], tuple[str, Any]]

_THINGS = ("invoice", "refund", "parcel", "password", "contract", "voucher", "address", "receipt")
_PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Perth", "Kyoto")
_TIMES = ("today", "tomorrow", "next week", "on Friday", "at noon", "in the evening")


def _triage(rng: random.Random) -> tuple[str, Any]:
    thing = rng.choice(_THINGS)
    return f"my {thing} is {rng.choice(('late', 'wrong', 'lost', 'broken'))}, please help", {"category": thing}


def _travel(rng: random.Random) -> tuple[str, Any]:
    place, wish = rng.choice(_PLACES), rng.choice(("flight", "hotel", "train", "visa"))
    return f"I need a {wish} to {place} {rng.choice(_TIMES)}", {"intent": f"book_{wish}"}


def _kitchen(rng: random.Random) -> tuple[str, Any]:
    dish, wish = rng.choice(("soup", "curry", "bread", "salad")), rng.choice(("recipe", "calories", "timer"))
    return f"give me the {wish} of a {dish} with {rng.choice(('rice', 'beans', 'cheese', 'onions'))}", {"intent": wish}


def _weather(rng: random.Random) -> tuple[str, Any]:
    place = rng.choice(_PLACES)
    return f"will it rain in {place} {rng.choice(_TIMES)}", [{"name": "get_weather", "arguments": {"city": place}}]


AGENTS: dict[str, tuple[str, Maker]] = {
    "triage": ("Read the customer's message. Answer with a JSON object that has the key category.", _triage),
    "travel": ("You route requests of travellers. Name the intent: book_flight, book_hotel, book_train.", _travel),
    "kitchen": ("You route requests inside a kitchen. Name the intent: recipe, calories, timer.", _kitchen),
    "weather": ("You are a weather desk. Call the tool for the city that the user names.", _weather),
}


def calls_of(agent: str, count: int, seed: int = 0, start_ms: int = 1_700_000_000_000) -> list[CuratedCall]:
    """Calls of one agent, an hour apart."""
    system, make = AGENTS[agent]
    rng = random.Random(f"{agent} {seed}")
    tools = [{"type": "function", "function": {"name": "get_weather"}}] if agent == "weather" else None
    return [
        _call(f"chatcmpl-{agent}-{seed}-{at}", system, tools, make(rng), start_ms + at * 3_600_000)
        for at in range(count)
    ]


def mixed(count: int, seed: int = 0, agents: tuple[str, ...] = tuple(AGENTS)) -> list[CuratedCall]:
    """`count` calls of each agent, in the order of time."""
    return sorted((call for agent in agents for call in calls_of(agent, count, seed)), key=lambda call: call.at_ms)


def agent_of(call: CuratedCall) -> str:
    return call.call_id.split("-")[1]


def without_signature(call: CuratedCall, note: str) -> CuratedCall:
    """The call as if its agent wrote something new into the prompt each time."""
    return replace(call, signature=f"{note}-{call.call_id}", system=f"Session {note} of {call.call_id}.\n{call.system}")


def hidden(call: CuratedCall) -> CuratedCall:
    """The call without anything that its agent sends each time."""
    return replace(call, signature="", system="", tools=None, tool_names=(), response_format=None)


def _call(call_id: str, system: str, tools: Any, made: tuple[str, Any], at_ms: int) -> CuratedCall:
    text, answer = made
    is_tool = isinstance(answer, list)
    return CuratedCall(
        call_id=call_id,
        at_ms=at_ms,
        tenant="acme",
        end_user="",
        signature=signature_of(system, tools, None),
        cluster="unknown",
        cluster_source="none",
        input=text,
        system=system,
        tool_names=("get_weather",) if tools else (),
        tools=tools,
        response_format=None,
        answer_text=None if is_tool else json.dumps(answer),
        answer_tool_calls=answer if is_tool else None,
        answer_source="verified",
        served_by="big",
        frontier="big",
        prompt_tokens=400,
        completion_tokens=12,
        cost_usd=0.002,
        frontier_cost_usd=0.002,
        latency_ms=900.0,
    )
