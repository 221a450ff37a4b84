"""Turns templates into text as people type it: alternatives, slots, greetings, slips of the finger.

A table holds one template a line; `[a|b]` is a choice, `{slot}` a value. Every fifth template of a block is kept for
the dev split, so dev wording never occurs in train. It knows nothing of what the texts are about.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

_CHOICE: Final = re.compile(r"\[([^\[\]]*)\]")
_SLOT: Final = re.compile(r"\{(\w+)\}")
DEV_EVERY: Final = 5


@cache
def table(name: str) -> dict[str, Any]:
    """A YAML table of this package."""
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def lines(block: str) -> list[str]:
    """The templates of a block."""
    return [line.strip() for line in block.splitlines() if line.strip()]


def of_split(block: str, split: str) -> list[str]:
    """The templates of a block that belong to a split: every fifth is dev's."""
    return [line for at, line in enumerate(lines(block)) if (at % DEV_EVERY == DEV_EVERY - 1) == (split == "dev")]


def choose(template: str, rng: random.Random) -> str:
    """Settle each `[a|b]`, innermost first; an empty alternative leaves nothing."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return re.sub(r" {2,}", " ", template).strip()


def slots(template: str) -> list[str]:
    """The names of the slots of a template, in order."""
    return _SLOT.findall(template)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put the values in."""
    return _SLOT.sub(lambda match: values[match[1]], template)


def roughen(template: str, rng: random.Random) -> str:
    """Casing, lost punctuation and slips, never inside a slot: what is copied from the text stays as it is."""
    style = rng.random()
    if style < 0.25:
        template = _outside_slots(template, str.lower)
    if rng.random() < 0.15:
        template = template.rstrip(".!?")
    if rng.random() < 0.12:
        template = _outside_slots(template, lambda part: _slip(part, rng))
    return template


def _outside_slots(template: str, change: Any) -> str:
    parts = re.split(r"(\{\w+\})", template)
    return "".join(part if part.startswith("{") else change(part) for part in parts)


def _slip(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    at = rng.choice(long)
    cut = rng.randrange(1, len(words[at]) - 2)
    word = words[at]
    words[at] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)
