"""Which tasks deserve a specialist, on which base model, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

import policies
from policies.proposals import Proposal, ProposalPolicy, TaskFacts, propose, ranked
from registry.catalog import Catalog
from registry.entries import SpecialistEntry
from registry.errors import ConfigError
from registry.loading import parse_catalog
from registry.strict_yaml import load_strict

REGISTRY = """defaults: {frontier: big}
backends:
  - {name: far, kind: openai, url: 'https://far.example/v1'}
  - {name: engine, kind: embedded, model: m}
models:
  - {model_name: big, backend: far, license: MIT, params: 5, prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
  - {model_name: small, backend: engine, license: MIT, params: 135_000_000, context_len: 2048,
     prices: {input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.02}}
  - {model_name: middle, backend: engine, license: MIT, params: 1_700_000_000, context_len: 8192,
     prices: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.2}}
"""
POLICY = ProposalPolicy()
TASK = TaskFacts(
    id="t-1",
    examples=1_000,
    calls_per_day=500.0,
    cost_usd=1.2,
    frontier_cost_usd=1.2,
    mean_prompt_tokens=400.0,
    mean_input_tokens=20.0,
    mean_completion_tokens=10.0,
    p99_tokens=80,
    answers_counted=1_000,
    distinct_answers=15,
)


def catalog(text: str = REGISTRY) -> Catalog:
    return parse_catalog(text, Path("registry.yaml"), {}).catalog


def judged(catalog_: Catalog | None = None, policy: ProposalPolicy = POLICY, **other) -> Proposal:
    return propose(replace(TASK, **other), catalog_ or catalog(), policy)


def test_a_busy_dear_task_is_proposed_on_the_cheapest_base():
    verdict = judged()
    assert verdict.proposed and verdict.base == "small"
    assert [(no.model, "loads no adapters" in no.reason) for no in verdict.refused_bases] == [("big", True)]


def test_the_saving_counts_the_calls_that_go_on_to_the_frontier():
    saving = judged().saving
    assert saving is not None
    now = 500 * 30 * 1.2 / 1_000
    specialist = 500 * 30 * (20 * 0.01 + 10 * 0.02) / 1e6
    assert saving.now_usd == pytest.approx(now)
    assert saving.expected_usd == pytest.approx(specialist + 0.3 * now, rel=1e-4)
    assert saving.prompt_tokens_saved == 380


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"examples": 99, "cost_usd": 0.12, "frontier_cost_usd": 0.12}, "99 examples; min_examples is 100"),
        ({"calls_per_day": 3.0}, "3.0 calls a day; min_calls_per_day is 20"),
        ({"distinct_answers": 1}, "1 different answers; min_answers is 2"),
        ({"tools_called": 300}, "it calls 300 different tools; max_tools is 64"),
        ({"is_text": True, "distinct_answers": 900}, "free text, 90% of it different; max_new_text is 50%"),
        ({"cost_usd": 0.001, "frontier_cost_usd": 1.2}, "a specialist saves nothing"),
        ({"cost_usd": 0.4, "frontier_cost_usd": 1.2}, "regret 10%, min_regret is 30%"),
        ({"cost_usd": 0.0, "frontier_cost_usd": 0.0}, "a specialist saves nothing"),
    ],
)
def test_what_speaks_against_a_task_is_named(other, reason):
    verdict = judged(**other)
    assert not verdict.proposed
    assert any(reason in one for one in verdict.reasons), verdict.reasons


def test_a_dear_task_is_proposed_for_a_smaller_share():
    assert judged(cost_usd=40.0, frontier_cost_usd=110.0).proposed


def test_every_reason_is_named_not_just_the_first():
    assert len(judged(examples=5, calls_per_day=1.0, distinct_answers=1).reasons) >= 3


def test_a_base_must_hold_the_longest_calls_and_the_next_one_is_taken():
    verdict = judged(p99_tokens=2_000)
    assert verdict.base == "middle"
    assert "context_len 2048; the task needs 2500 tokens" in {no.reason for no in verdict.refused_bases}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("license: MIT, params: 135_000_000", "license: research, params: 135_000_000", "license research"),
        ("params: 135_000_000, ", "", "params are not in the registry"),
        ("params: 135_000_000", "params: 70_000_000_000", "base.max_params"),
    ],
)
def test_why_a_base_is_not_taken(old, new, reason):
    verdict = judged(catalog(REGISTRY.replace(old, new)))
    assert verdict.base == "middle"
    assert any(no.model == "small" and reason in no.reason for no in verdict.refused_bases)


def test_a_registry_without_a_base_proposes_nothing_and_says_so():
    verdict = judged(p99_tokens=100_000)
    assert not verdict.proposed and "no model of the registry can carry" in verdict.reasons[0]


def test_a_task_with_a_specialist_is_not_proposed_again():
    for stage, expected in (("candidate", False), ("active", False), ("deprecated", True)):
        one = SpecialistEntry(
            name="one", digest="0123456789ab", base="small", adapter="a", clusters=("t-1",), stage=stage
        )
        assert judged(Catalog.of(replace(catalog().file, specialists=(one,)))).proposed is expected


def test_those_that_save_most_come_first():
    one, two = judged(), propose(replace(TASK, id="t-2", calls_per_day=900.0), catalog(), POLICY)
    no = propose(replace(TASK, id="t-3", examples=1), catalog(), POLICY)
    assert [verdict.task for verdict in ranked([no, one, two])] == ["t-2", "t-1", "t-3"]


def test_the_shipped_file_says_the_built_in_defaults():
    path = Path(str(policies.__file__)).parent / "proposals.yaml"
    assert load_strict(path.read_text(), ProposalPolicy, path.name) == ProposalPolicy()


def test_a_wrong_policy_names_the_line_and_the_nearest_key():
    with pytest.raises(ConfigError, match=r"(?s)2:.*min_exampels.*min_examples"):
        load_strict("min_answers: 2\nmin_exampels: 3\n", ProposalPolicy, "proposals.yaml")
