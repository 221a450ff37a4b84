"""Decides which found tasks deserve a specialist, on which base model, and says why not for the rest.

A task is proposed when it has enough examples and traffic, and when what it costs now, or what of that a specialist
would save, is worth the work. The saving is that of the whole chain: the specialist answers every call, and what it
is not sure of goes on to the frontier as before. Source of the thresholds' form: SLM agents, arXiv:2506.02153, S4 and
S5 (more than N examples, more than X calls a day, regret above Y). Pure; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from registry.catalog import Catalog
from registry.entries import ModelEntry

Share = Annotated[float, Meta(ge=0, le=1)]
Dollars = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]

DAYS_A_MONTH: Final = 30.0
_CARRIES_ADAPTERS: Final = frozenset({"embedded", "vllm"})
_GONE: Final = frozenset({"deprecated"})


class BasePolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which models may carry a specialist."""

    max_params: Count = 10_000_000_000
    """A model of unknown size is not taken either."""
    licenses: tuple[str, ...] = ("Apache-2.0", "MIT", "BSD-3-Clause")
    """Licences (SPDX) under which a fine-tuned model may be served."""
    context_headroom: Annotated[float, Meta(ge=1)] = 1.25
    """The context must hold so many times the longest of 100 prompts and answers."""


class ProposalPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of proposals.yaml."""

    min_examples: Count = 100
    """N: calls with a believed answer."""
    min_calls_per_day: Annotated[float, Meta(ge=0)] = 20.0
    """X."""
    min_regret: Share = 0.3
    """Y: share of today's cost that a specialist is expected to save. This or `min_cost_usd_per_month` must hold."""
    min_cost_usd_per_month: Dollars = 100.0
    """What the task costs now; so dear a task is proposed for a smaller share too, if it saves anything."""
    min_answers: Count = 2
    """A task whose answer is always the same needs a rule, not a model."""
    max_tools: Count = 64
    """A task that calls more different tools than that is no narrow one: a specialist is not told the tools."""
    max_new_text: Share = 0.5
    """Of free text, so many answers may be ones not seen before: what differs every time cannot be checked."""
    expected_coverage: Share = 0.7
    """Share of calls that a new specialist is expected to be sure of; the rest goes on to the frontier."""
    base: BasePolicy = field(default_factory=BasePolicy)


class TaskFacts(Struct, frozen=True, kw_only=True):
    """What was counted of a task. Costs are those of the window that the calls come from."""

    id: str
    examples: int
    calls_per_day: float
    cost_usd: float
    """Of all its calls, as they were served."""
    frontier_cost_usd: float
    """What the frontier would have cost."""
    mean_prompt_tokens: float
    mean_input_tokens: float
    """Of what a specialist's template sends."""
    mean_completion_tokens: float
    p99_tokens: int
    """Of input and completion together."""
    answers_counted: int = 0
    distinct_answers: int = 0
    """Among those that were counted."""
    is_text: bool = False
    """Answers are free text, neither JSON nor tool calls."""
    tools_called: int = 0
    """Different tools."""


class Refusal(Struct, frozen=True):
    """Why a base model was not taken."""

    model: str
    reason: str


class Saving(Struct, frozen=True):
    """US dollars a month, before and with a specialist."""

    now_usd: float
    expected_usd: float
    frontier_usd: float
    """If the frontier answered every call."""
    prompt_tokens_saved: float
    """A call's prompt tokens that the template leaves out."""

    @property
    def saved_usd(self) -> float:
        """What a specialist is expected to save a month; negative when it costs more."""
        return self.now_usd - self.expected_usd

    @property
    def regret(self) -> float:
        """The same as a share of what the task costs now; 0 for a task that costs nothing."""
        return max(0.0, self.saved_usd / self.now_usd) if self.now_usd > 0 else 0.0


class Proposal(Struct, frozen=True):
    """A task with a verdict: proposed with its base model, or not with its reasons."""

    task: str
    proposed: bool
    reasons: tuple[str, ...]
    """Why not; what speaks for it when it is proposed."""
    base: str | None
    saving: Saving | None
    refused_bases: tuple[Refusal, ...] = ()


def propose(task: TaskFacts, catalog: Catalog, policy: ProposalPolicy) -> Proposal:
    """Judge one task. Every reason that speaks against it is named, not just the first."""
    bases, refused = _bases(task, catalog, policy.base)
    base = _cheapest(task, bases)
    saving = _saving(task, base, policy.expected_coverage) if base else None
    against = [*_against(task, policy), *_served(task.id, catalog)]
    if base is None:
        against.append("no model of the registry can carry a specialist for it")
    elif saving is not None:
        against += _not_worth(saving, policy)
    speaks_for = () if saving is None else (_worth(task, saving),)
    return Proposal(
        task=task.id,
        proposed=not against,
        reasons=tuple(against) or speaks_for,
        base=base.model_name if base else None,
        saving=saving,
        refused_bases=tuple(refused),
    )


def _against(task: TaskFacts, policy: ProposalPolicy) -> list[str]:
    found = []
    if task.examples < policy.min_examples:
        found.append(f"{task.examples} examples; min_examples is {policy.min_examples}")
    if task.calls_per_day < policy.min_calls_per_day:
        found.append(f"{task.calls_per_day:.1f} calls a day; min_calls_per_day is {policy.min_calls_per_day:g}")
    if task.answers_counted and task.distinct_answers < policy.min_answers:
        found.append(f"{task.distinct_answers} different answers; min_answers is {policy.min_answers}")
    if task.tools_called > policy.max_tools:
        found.append(f"it calls {task.tools_called} different tools; max_tools is {policy.max_tools}")
    if task.is_text and task.distinct_answers > policy.max_new_text * task.answers_counted:
        share = task.distinct_answers / task.answers_counted
        found.append(f"free text, {share:.0%} of it different; max_new_text is {policy.max_new_text:.0%}")
    return found


def _served(task: str, catalog: Catalog) -> list[str]:
    """Return the specialists that it has or that are on their way."""
    return [
        f"it has the specialist {one.id} ({one.stage})"
        for one in catalog.specialists.values()
        if task in one.clusters and one.stage not in _GONE
    ]


def _not_worth(saving: Saving, policy: ProposalPolicy) -> list[str]:
    if saving.saved_usd <= 0:
        return [f"a specialist saves nothing: {saving.now_usd:.4f} USD a month now, {saving.expected_usd:.4f} with it"]
    if saving.regret >= policy.min_regret or saving.now_usd >= policy.min_cost_usd_per_month:
        return []
    return [
        f"regret {saving.regret:.0%}, min_regret is {policy.min_regret:.0%}; and {saving.now_usd:.2f} USD a month,"
        f" min_cost_usd_per_month is {policy.min_cost_usd_per_month:g}"
    ]


def _worth(task: TaskFacts, saving: Saving) -> str:
    return (
        f"{task.examples} examples, {task.calls_per_day:.1f} calls a day, {saving.now_usd:.4f} USD a month now,"
        f" {saving.regret:.0%} of it saved"
    )


def _bases(task: TaskFacts, catalog: Catalog, policy: BasePolicy) -> tuple[list[ModelEntry], list[Refusal]]:
    fit, refused = [], []
    for model in catalog.models.values():
        reason = _refusal(task, model, catalog, policy)
        if reason:
            refused.append(Refusal(model.model_name, reason))
        else:
            fit.append(model)
    return fit, refused


def _refusal(task: TaskFacts, model: ModelEntry, catalog: Catalog, policy: BasePolicy) -> str:
    kind = catalog.backends[model.backend].kind
    needed = int(task.p99_tokens * policy.context_headroom)
    if kind not in _CARRIES_ADAPTERS:
        return f"its backend {model.backend} ({kind}) loads no adapters"
    if model.license not in policy.licenses:
        return f"its license {model.license} is not among base.licenses"
    if model.params is None:
        return "its params are not in the registry"
    if model.params > policy.max_params:
        return f"{model.params} params; base.max_params is {policy.max_params}"
    if model.context_len < needed:
        return f"context_len {model.context_len}; the task needs {needed} tokens"
    return ""


def _cheapest(task: TaskFacts, models: Sequence[ModelEntry]) -> ModelEntry | None:
    """Return the model whose calls cost least; among equals the larger, which learns more."""
    return min(models, key=lambda one: (_call_usd(task, one), -(one.params or 0), one.model_name), default=None)


def _call_usd(task: TaskFacts, model: ModelEntry) -> float:
    return model.prices.cost_usd(task.mean_input_tokens, task.mean_completion_tokens)


def _saving(task: TaskFacts, base: ModelEntry, coverage: float) -> Saving:
    """Every call costs the specialist's price, and the calls it is not sure of the frontier's too."""
    monthly = task.calls_per_day * DAYS_A_MONTH
    examples = max(1, task.examples)
    frontier = task.frontier_cost_usd / examples
    return Saving(
        now_usd=round(monthly * task.cost_usd / examples, 6),
        expected_usd=round(monthly * (_call_usd(task, base) + (1.0 - coverage) * frontier), 6),
        frontier_usd=round(monthly * frontier, 6),
        prompt_tokens_saved=round(max(0.0, task.mean_prompt_tokens - task.mean_input_tokens), 2),
    )


def ranked(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Return the proposed tasks first, by what they save; then the others in their order."""
    saved: Mapping[str, float] = {one.task: one.saving.saved_usd if one.saving else 0.0 for one in proposals}
    return sorted(proposals, key=lambda one: (not one.proposed, -saved[one.task] if one.proposed else 0.0))
