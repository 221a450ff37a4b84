"""A live gateway's own record, replayed under the policy that made it, a stricter one and a laxer one."""

import random
from pathlib import Path

import openai
import pytest

from observations.state import StatePaths
from pipelines.replay_recorded import RecordedOptions, replay_recorded
from policies.terms import PlannerPolicy
from registry.strict_yaml import load_strict
from tests.e2e.gateway_process import running_gateway

REGISTRY = """
version: 1
defaults: {frontier: large, aliases: {gpt-4o: auto}}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: large, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.97},
     prices: {input_usd_per_mtok: 10.0, output_usd_per_mtok: 40.0}}
  - {model_name: middle, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.9},
     prices: {input_usd_per_mtok: 1.0, output_usd_per_mtok: 4.0}}
  - {model_name: small, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.75},
     prices: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}
"""
PLANNER = """
tiers:
  standard: {latency_budget_ms: 60000, max_cost_usd: 0.1, quality_sla: SLA}
learning: {exploration_share: 0.6, prior_calls: 12}
"""
RIGHT = {"large": 0.97, "middle": 0.9, "small": 0.75}
CALLS = 600


def policy_folder(folder: Path, sla: float) -> Path:
    folder.mkdir()
    (folder / "planner.yaml").write_text(PLANNER.replace("SLA", str(sla)))
    return folder


def read_planner(folder: Path) -> PlannerPolicy:
    file = folder / "planner.yaml"
    return load_strict(file.read_text(), PlannerPolicy, str(file))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a gateway that answered some hundred calls, two in three of them judged."""
    folder = tmp_path_factory.mktemp("recorded")
    policies = policy_folder(folder / "logging", 0.85)
    draw = random.Random(11)
    with running_gateway(folder, REGISTRY, JOURNEYMAN_POLICIES=str(policies)) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="unused", max_retries=0)
        for number in range(CALLS):
            model = "small" if number % 24 == 0 else ("auto", "gpt-4o")[number % 2]
            answer = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": f"say {number} and nothing else"}]
            )
            if number % 3:
                right = draw.random() < RIGHT[answer.headers["x-journeyman-model"]]
                body = {"id": answer.headers["x-journeyman-id"], "outcome": "success" if right else "failure"}
                client.post("/feedback", cast_to=dict, body=body)
    return gateway.state


def test_the_policy_that_made_the_record_gets_exactly_what_was_observed(record: Path) -> None:
    report = replay_recorded(StatePaths(record), read_planner(record.parent / "logging"))
    assert report.read == CALLS and report.skipped == {"named": CALLS / 24}
    assert report.changed == 0.0 and "as they were decided" in report.verdict
    assert len([one for one in report.first.values() if one.logged > 0.02]) > 1  # the gateway explored
    assert report.total is not None and report.rewards.feedback > CALLS / 2
    for name, found in report.total.quantities.items():
        for one in (found.ips, found.snips, found.dr):
            assert one.mean == pytest.approx(found.logged.mean, rel=1e-9), name


def test_a_stricter_policy_costs_more_and_a_laxer_one_less(record: Path, tmp_path: Path) -> None:
    paths = StatePaths(record)
    strict = replay_recorded(paths, read_planner(policy_folder(tmp_path / "strict", 0.96)))
    lax = replay_recorded(paths, read_planner(policy_folder(tmp_path / "lax", 0.4)))
    assert strict.total is not None and lax.total is not None
    assert strict.first["large"].target > max(0.6, strict.first["large"].logged)
    assert lax.first["small"].target > strict.first["small"].target + 0.3
    costs = [one.total.quantities["cost_usd"].dr_difference for one in (strict, lax)]
    assert costs[0].low > 0 > costs[1].mean
    assert "more for 1,000 calls" in strict.verdict
    foreseen = [one.total.quantities["judged"].direct for one in (strict, lax)]
    assert foreseen[0] > foreseen[1]


def test_a_policy_that_turns_calls_away_is_seen_to(record: Path, tmp_path: Path) -> None:
    folder = policy_folder(tmp_path / "poor", 0.85)
    text = (folder / "planner.yaml").read_text().replace("max_cost_usd: 0.1", "max_cost_usd: 0.000000001")
    (folder / "planner.yaml").write_text(text)
    report = replay_recorded(StatePaths(record), read_planner(folder), RecordedOptions(limit=50))
    assert report.refusals == {"no_candidate": report.total.decisions if report.total else 0}
    assert "turn 100.0% of the calls away" in report.verdict
