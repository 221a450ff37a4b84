"""The open tail: questions of any kind, and sums whose answer can be checked."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.people import person
from pipelines.own_workload.wording import choose, fill, of_split, table

_OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def app() -> dict[str, Any]:
    """The agent: only a short prompt."""
    return {
        "system": table("open_questions")["system"],
        "grader": "per_row",
        "tools": None,
        "response_format": None,
        "max_tokens": 120,
    }


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One question; sums carry the number that is right."""
    block = "sums" if rng.random() < 0.5 else "chat"
    template, _, answer = choose(rng.choice(of_split(table("open_questions")[block], split)), rng).partition("=>")
    someone = person(rng)
    values = {
        "first": someone.name.split()[0],
        "city": someone.city,
        "product": rng.choice(table("triage")["products"].split("|")),
        "a": str(rng.randrange(12, 80)),
        "b": str(rng.randrange(3, 25)),
        "c": str(rng.randrange(2, 11)),
    }
    text, answer = fill(template.strip(), values), fill(answer.strip(), values)
    if block == "chat":
        return {"input": text, "expected": None, "reference": answer, "grader": "none"}
    number = value_of(answer)
    reference = f"{answer} = {number}\nThe answer is {number}."
    return {"input": text, "expected": str(number), "reference": reference, "grader": "number"}


def value_of(formula: str) -> int:
    """The value of sums and products of whole numbers with brackets: `(2 + 3) * 4` is 20."""
    tokens = formula.replace("(", " ( ").replace(")", " ) ").split()
    return _sum(tokens)


def _sum(tokens: list[str]) -> int:
    total = _product(tokens)
    while tokens and tokens[0] in "+-":
        total = _OPERATIONS[tokens.pop(0)](total, _product(tokens))
    return total


def _product(tokens: list[str]) -> int:
    total = _atom(tokens)
    while tokens and tokens[0] == "*":
        tokens.pop(0)
        total *= _atom(tokens)
    return total


def _atom(parts: list[str]) -> int:
    part = parts.pop(0)
    if part != "(":
        return int(part)
    inner = _sum(parts)
    parts.pop(0)
    return inner
