"""What callers say moves traffic, survives a restart and adds up over routers; spending stays under its ceiling."""

import json
import re
from pathlib import Path

import pytest

from tests.api.registries import cheap_first

ASK = "/v1/ask"
CHEAP = cheap_first("echo")


async def plan_of(client, prompt="hello", model="auto"):
    response = await client.post(ASK, json={"prompt": prompt, "model": model})
    assert response.status_code == 200
    return json.loads(response.text.split("\n\n")[0].removeprefix("data: "))


async def judge(client, plan_id, **said):
    response = await client.post("/v1/feedback", json={"id": plan_id, **said})
    assert response.status_code == 200, response.text


def candidate(plan, name):
    return next(c for c in plan["candidates"] if c["name"] == name)


def favourite(plan):
    """Who would be picked but for exploration."""
    return max((c for c in plan["candidates"] if "propensity" in c), key=lambda c: c["propensity"])["name"]


async def complain(client, times):
    """So many wrong answers of the cheap model."""
    for number in range(times):
        plan = await plan_of(client, f"hello number {number}", model="cheap")
        await judge(client, plan["id"], outcome="failure")


async def test_a_model_whose_answers_are_wrong_loses_the_traffic(make_client) -> None:
    client = await make_client(CHEAP)
    before = await plan_of(client)
    assert before["primary"] == "cheap"
    await complain(client, 40)
    after = await plan_of(client)
    assert favourite(after) == "frontier"
    wrong = candidate(after, "cheap")
    assert wrong.get("expected_quality", 0.0) < 0.8 or wrong["rejection"]["code"] == "quality"
    shown = (await client.get(f"/v1/plans/{after['id']}")).json()
    assert "verdict" in candidate(shown, "frontier") and shown["explored"] == (after["primary"] != "frontier")


async def test_only_the_first_word_on_a_call_teaches(make_client) -> None:
    client = await make_client(CHEAP)
    plan = await plan_of(client)
    for _ in range(100):
        await judge(client, plan["id"], outcome="failure")
    assert candidate(await plan_of(client), "cheap")["evidence"] < 5


async def test_answers_that_nobody_judged_are_trials_and_no_outcomes(make_client) -> None:
    client = await make_client(CHEAP)
    for number in range(6):
        await plan_of(client, f"say {number}", model="cheap")
    plan = await plan_of(client)
    assert candidate(plan, "cheap")["evidence"] == 0.0 and candidate(plan, "cheap")["trials"] > 5.0
    stored = candidate((await client.get(f"/v1/plans/{plan['id']}")).json(), "cheap")
    assert stored["trials"] == candidate(plan, "cheap")["trials"] and "(0 outcomes)" in stored["verdict"]


async def test_a_score_counts_as_it_is(make_client) -> None:
    client = await make_client(CHEAP)
    for number in range(40):
        plan = await plan_of(client, f"say {number}")
        await judge(client, plan["id"], score=0.9)
    believed = candidate(await plan_of(client), "cheap")
    assert believed["expected_quality"] == pytest.approx(0.92, abs=0.03) and believed["quality_sd"] > 0


async def test_what_was_learned_survives_a_restart(make_client) -> None:
    first = await make_client(CHEAP)
    await complain(first, 40)
    await first.__aexit__(None, None, None)
    second = await make_client(CHEAP)
    assert favourite(await plan_of(second)) == "frontier"


async def test_routers_that_share_a_folder_learn_from_each_other(make_client, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    one = await make_client(CHEAP, beliefs=shared, router_name="one", state=tmp_path / "one")
    await complain(one, 40)
    await one.services._belief_keeper.save()
    other = await make_client(CHEAP, beliefs=shared, router_name="two", state=tmp_path / "two")
    assert favourite(await plan_of(other)) == "frontier"
    assert [path.name for path in shared.glob("*.beliefs")] == ["one.beliefs"]
    await other.services._belief_keeper.save()
    one.services._belief_keeper.hear()
    assert candidate(await plan_of(one), "frontier")["chain"] == ["frontier"]


async def test_a_damaged_file_of_beliefs_is_moved_aside_and_the_gateway_starts(make_client, tmp_path: Path) -> None:
    folder = tmp_path / "beliefs"
    folder.mkdir()
    (folder / "router.beliefs").write_bytes(b"not beliefs")
    client = await make_client(CHEAP, beliefs=folder)
    assert favourite(await plan_of(client)) == "cheap"
    assert [path.name for path in folder.iterdir() if "unreadable" in path.name]


async def test_a_router_whose_name_is_no_file_name_does_not_start(make_client) -> None:
    with pytest.raises(Exception, match="JOURNEYMAN_ROUTER_NAME"):
        await make_client(CHEAP, router_name="../elsewhere")


async def test_learning_can_be_switched_off(make_client, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "planner.yaml").write_text("learning: {enabled: false}\n")
    client = await make_client(CHEAP, policies=policies)
    await complain(client, 40)
    assert (await plan_of(client))["primary"] == "cheap"


async def spend(client, calls):
    """Ask so many questions; return the plans and the mean bill."""
    plans, spent_usd = [], 0.0
    for number in range(calls):
        response = await client.post(ASK, json={"prompt": f"question {number}"})
        frames = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
        plans.append(frames[0])
        spent_usd += next(frame["cost_usd"] for frame in frames if frame["type"] == "metrics")
    return plans, spent_usd / calls


async def test_a_spend_ceiling_holds_and_says_its_price(make_client, tmp_path: Path) -> None:
    """The cheap model is too poor for the SLA, so the frontier would get everything: the ceiling affords a share."""
    policies = tmp_path / "policies"
    policies.mkdir()
    registry = CHEAP.replace('{"*": 0.95}', '{"*": 0.6}')
    free, free_usd = await spend(await make_client(registry, policies=policies, state=tmp_path / "a"), 40)
    assert all(favourite(plan) == "frontier" for plan in free)
    ceiling_usd = free_usd / 2
    (policies / "planner.yaml").write_text(f"spend: {{usd_per_call: {ceiling_usd:.9f}}}\n")
    client = await make_client(registry, policies=policies, state=tmp_path / "b")
    plans, mean_usd = await spend(client, 500)
    assert 0.8 * ceiling_usd < mean_usd <= 1.01 * ceiling_usd
    shares = [sum(plan["primary"] == name for plan in plans[100:]) / 400 for name in ("cheap", "frontier")]
    assert min(shares) > 0.3, "both are used"
    bound = [plan for plan in plans if plan["lam_quality_per_usd"] > 0 and not plan["explored"]]
    assert "spend ceiling" in candidate(bound[-1], bound[-1]["primary"])["verdict"]
    text = (await client.get("/metrics")).text
    assert re.search(r"journeyman_spend_ceiling_usd_per_call [0-9.e-]+", text)


async def test_the_metrics_say_what_was_learned(make_client) -> None:
    client = await make_client(CHEAP, router_name="r")
    for _ in range(5):
        plan = await plan_of(client, "classify this as spam or ham")
        await judge(client, plan["id"], outcome="success")
    text = (await client.get("/metrics")).text
    assert 'journeyman_decisions_total{choice="best",primary="cheap"}' in text
    assert "journeyman_regret_quality_total" in text
