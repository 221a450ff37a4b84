"""Writes a dataset's card: what is in it, where it came from, and what it must not be used for. Pure text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipelines.dataset_split import Part
from pipelines.render import Example

_ANSWERS_SHOWN: Final = 20
_EXAMPLES_SHOWN: Final = 3
_LONGEST_SHOWN: Final = 400


def card(facts: Mapping[str, Any], parts: Mapping[Part, Sequence[Example]]) -> str:
    """Return the card as Markdown. `facts` is the dataset's manifest as plain values."""
    every = [example for examples in parts.values() for example in examples]
    template = facts["template"]
    lines = [
        f"# {facts['uri']}",
        "",
        f"Examples of the task `{facts['cluster']}`, taken from recorded calls whose answers were believed.",
        "",
        f"- sha256: `{facts['sha256']}`",
        f"- built at: {facts['created_at_ms']} ms since 1970, of calls from {facts['first_at_ms']} to "
        f"{facts['last_at_ms']} ms",
        f"- template: prompt `{template['prompt']!r}`, answer `{template['answer']}`, "
        f"signature `{(template['signature'] or 'any')[:12]}`",
        f"- lineage: {_pairs(facts['lineage']) or 'the calls themselves'}; every line names its calls",
        "",
        "| part | examples | judged by people | calls | sha256 |",
        "|---|---|---|---|---|",
        *(_part_row(name, examples, facts["files"]) for name, examples in parts.items()),
        "",
        f"Answered by: {_counts(Counter(example.served_by for example in every))}. "
        f"Believed because of: {_counts(Counter(example.answer_source for example in every))}.",
        f"Left out: {_counts(Counter(facts['dropped'])) or 'nothing'}.",
        "",
        "## Answers",
        "",
        *_answers(every),
        "",
        "## Examples (of the training part)",
        "",
        *_examples(parts["train"]),
        "",
        "## Limits",
        "",
        "The answers are another model's, believed by a check or a person; they are not all right. Personal data were",
        "replaced by surrogates before anything was stored. The text belongs to whose calls it came from: use it for",
        "specialists of the same deployment. `test` and `shadow` are for judging: never train on them.",
        "",
    ]
    return "\n".join(lines)


def _part_row(name: str, examples: Sequence[Example], files: Mapping[str, Any]) -> str:
    calls = sum(len(example.call_ids) for example in examples)
    judged = sum(example.is_judged for example in examples)
    return f"| {name} | {len(examples)} | {judged} | {calls} | `{files[f'{name}.jsonl']['sha256'][:16]}` |"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name or 'unknown'} {count}" for name, count in counter.most_common())


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} `{value}`" for name, value in values.items())


def _answers(examples: Sequence[Example]) -> list[str]:
    counter = Counter(example.completion for example in examples)
    prompts = sorted(len(example.prompt) for example in examples)
    shown = [f"- `{_short(text)}`: {count}" for text, count in counter.most_common(_ANSWERS_SHOWN)]
    return [
        f"{len(counter)} different ones. Prompts have {prompts[len(prompts) // 2]} characters in the median, "
        f"{prompts[-1]} at the most.",
        "",
        *shown,
    ]


def _examples(examples: Sequence[Example]) -> list[str]:
    lines: list[str] = []
    for example in examples[:_EXAMPLES_SHOWN]:
        lines += ["```text", _short(example.prompt) + _short(example.completion), "```"]
    return lines


def _short(text: str) -> str:
    text = text.replace("```", "'''")
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + " ..."
