"""Chooses what goes into a dataset: one task's calls, without repeats and contradictions, each in its part.

Pure: calls in, `Contents` out. Knows nothing of where datasets are kept.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, structs

from pipelines.dataset_split import (
    PARTS,
    Part,
    SplitShares,
    held_back_share,
    judged_part_of,
    normal_form,
    part_of,
    settled_part,
    unjudged_part_of,
)
from pipelines.loop_rows import Assignment, CuratedCall
from pipelines.render import Example, Shape, counted, example_of, shape_of, template_of
from policies.verify import Verifier
from registry.entries import TemplateEntry
from registry.errors import BadInputError

LEAST_EXAMPLES: Final = 100
LEAST_IN_A_PART: Final = 5
_TRUST: Final = {"correction": 2, "feedback": 1, "verified": 0}
"""Who is believed when the same words were answered in two ways."""


class Contents(Struct, frozen=True):
    """A dataset before it has a name."""

    cluster: str
    template: TemplateEntry
    shares: SplitShares
    parts: dict[Part, list[Example]]
    shapes: dict[str, Shape]
    dropped: dict[str, int]
    """Calls left out, by reason."""


class Choice(Struct, frozen=True, kw_only=True):
    """What to take, besides the cluster."""

    template: TemplateEntry | None = None
    """None: the one that fits the calls."""
    shares: SplitShares = SplitShares()
    """From `dataset_split.LEAST_JUDGED` judged examples on, test and shadow are drawn from those alone."""
    least_examples: int = LEAST_EXAMPLES
    earlier: Mapping[str, Part] = {}
    """The part of each call in the versions before: it stays there."""


def calls_of(cluster: str, calls: Sequence[CuratedCall], assignments: Sequence[Assignment]) -> list[CuratedCall]:
    """Return the calls of a cluster: as assigned, or where a call was not assigned, as it was classified live."""
    assigned = {one.call_id: one.cluster for one in assignments}
    return [call for call in calls if assigned.get(call.call_id, call.cluster) == cluster]


def choose(cluster: str, calls: Sequence[CuratedCall], choice: Choice) -> Contents:
    """Return the examples of a task, split. The same calls give the same contents, in whatever order they come.

    Raises BadInputError when too few remain, with what was left out and why.
    """
    shares = choice.shares.check()
    if not calls:
        raise BadInputError(f"No curated call belongs to the cluster {cluster!r}. `flywheel cluster` lists them.")
    template = choice.template or template_of(calls)
    verifier = Verifier()
    tried = [example_of(template, call, verifier) for call in sorted(calls, key=lambda call: call.call_id)]
    good = [one for one in tried if isinstance(one, Example)]
    kept, contradicted = without_repeats(good)
    reasons = [one for one in tried if isinstance(one, str)] + ["contradicted by another answer"] * contradicted
    parts = _split(kept, template, choice)
    used = {example.shape for example in kept}
    shapes = {shape.digest: shape for shape in map(shape_of, _one_a_signature(calls)) if shape.digest in used}
    contents = Contents(cluster, template, shares, parts, shapes, counted(reasons))
    _check_size(contents, choice.least_examples)
    return contents


def without_repeats(examples: Sequence[Example]) -> tuple[list[Example], int]:
    """Return one example for each prompt, and how many calls another answer to the same words contradicted.

    The most trusted answer wins, then the most frequent, then the one of the latest call.
    """
    by_prompt: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        by_prompt[example.shape, example.prompt].append(example)
    kept, contradicted = [], 0
    for group in by_prompt.values():
        votes = Counter(example.completion for example in group)
        best = max(group, key=lambda one: (_TRUST[one.answer_source], votes[one.completion], one.at_ms, one.call_id))
        same = [one.call_id for one in group if one.completion == best.completion and one is not best]
        contradicted += len(group) - len(same) - 1
        kept.append(structs.replace(best, also=tuple(sorted(same))))
    return kept, contradicted


def _one_a_signature(calls: Sequence[CuratedCall]) -> list[CuratedCall]:
    """A signature fixes the shape, so one call of each is enough."""
    return list({call.signature: call for call in calls}.values())


def dataset_name(cluster: str) -> str:
    """Return the name of a cluster's dataset: lower case, and nothing that means something in a path or uri."""
    return re.sub(r"[^a-z0-9._-]+", "-", cluster.lower()).strip("-._") or "unnamed"


def _split(examples: Sequence[Example], template: TemplateEntry, choice: Choice) -> dict[Part, list[Example]]:
    """Texts of one normal form stay together, in the part that any of their calls had before."""
    together: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        together[normal_form(example.prompt)].append(example)
    held_back = held_back_share(sum(example.is_judged for example in examples), len(examples))
    parts: dict[Part, list[Example]] = {part: [] for part in PARTS}
    for alike in together.values():
        ids = tuple(call_id for example in alike for call_id in example.call_ids)
        wanted = _wanted_part(alike, template.prompt, choice.shares, held_back)
        parts[settled_part(wanted, choice.earlier, ids)].extend(alike)
    return {part: sorted(found, key=lambda one: one.call_id) for part, found in parts.items()}


def _wanted_part(alike: Sequence[Example], template_key: str, shares: SplitShares, held_back: float) -> Part:
    text = alike[0].prompt
    if not held_back:
        return part_of(template_key, text, shares)
    if any(example.is_judged for example in alike):
        return judged_part_of(template_key, text, shares, held_back)
    return unjudged_part_of(template_key, text, shares)


def _check_size(contents: Contents, least: int) -> None:
    sizes = {part: len(found) for part, found in contents.parts.items()}
    dropped = ", ".join(f"{reason} {count}" for reason, count in contents.dropped.items()) or "nothing"
    if sum(sizes.values()) < least:
        raise BadInputError(
            f"The cluster {contents.cluster!r} has {sum(sizes.values())} different usable examples, and {least} are "
            f"needed (--min-examples). Left out: {dropped}. Record more traffic, or choose another cluster."
        )
    # Without a shadow part a specialist still proves itself, on live calls.
    small = [f"{part} has {sizes[part]}" for part in PARTS if part != "shadow" and sizes[part] < LEAST_IN_A_PART]
    if small:
        raise BadInputError(
            f"Too few examples of {contents.cluster!r} to judge by: {', '.join(small)}; each part needs "
            f"{LEAST_IN_A_PART}. Record more traffic, or raise --dev-share and --test-share."
        )
