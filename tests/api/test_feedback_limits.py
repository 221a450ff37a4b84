"""Feedback has its tenant's rate, and ids that nobody knows cost little however many come."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from registry.errors import RateLimitedError
from router_service.plans import MISSING_S, WAITING_PER_TENANT, Lookups
from tests.api.test_learning import plan_of


def limited(folder: Path, terms: str) -> Path:
    folder.mkdir()
    (folder / "access.yaml").write_text(f"default: {{{terms}}}\n")
    return folder


async def say(client, call_id):
    return await client.post("/v1/feedback", json={"id": call_id, "outcome": "success"})


async def test_feedback_over_the_tenants_rate_is_refused_with_a_time_to_wait(make_client, tmp_path: Path) -> None:
    client = await make_client(policies=limited(tmp_path / "p", "requests_per_minute: 5"))
    plan = await plan_of(client)
    answers = [await say(client, plan["id"]) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429], "the call took nothing of it"
    refused = answers[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 12
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "`default` may use 5 requests a minute" in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (await client.get("/v1/models")).status_code == 200
    for _ in range(4):
        await plan_of(client)  # feedback took nothing of the calls' rate


async def test_unknown_ids_and_broken_bodies_count_too(make_client, tmp_path: Path) -> None:
    client = await make_client(policies=limited(tmp_path / "p", "requests_per_minute: 3, tokens_per_minute: 1"))
    assert (await say(client, "plan_nobody")).status_code == 404
    assert (await client.post("/v1/feedback", content=b"{")).status_code == 400
    assert [(await say(client, "plan_nobody")).status_code for _ in range(2)] == [404, 429]


async def test_a_tenant_without_a_rate_may_say_what_it_likes(make_client) -> None:
    client = await make_client()
    plan = await plan_of(client)
    assert {(await say(client, plan["id"])).status_code for _ in range(100)} == {200}


async def test_an_unknown_id_is_looked_for_once_and_not_again_for_a_while(make_client, monkeypatch) -> None:
    client = await make_client()
    looked = []
    stored = client.services.book._stored
    monkeypatch.setattr(client.services.book, "_stored", lambda call_id: looked.append(call_id) or stored(call_id))
    answers = await asyncio.gather(*(say(client, "plan_nobody") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {404}
    assert (await client.get("/v1/plans/plan_nobody")).status_code == 404
    assert looked == ["chatcmpl-nobody"]


async def test_a_flood_of_unknown_ids_takes_few_threads_and_leaves_other_tenants_their_turn() -> None:
    lookups, at_once, most = Lookups(), 0, 0
    lock = threading.Lock()

    def look(call_id: str) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1

    async def ask(number: int, tenant: str) -> str:
        try:
            return str(await lookups.find(f"{tenant}-{number}", tenant, look))
        except RateLimitedError as error:
            assert error.retry_after_s > 0
            return "later"

    flood = [asyncio.create_task(ask(number, "noisy")) for number in range(200)]
    await asyncio.sleep(0)
    started = time.monotonic()
    assert await ask(0, "quiet") == "None"
    assert time.monotonic() - started < 2.0
    answers = await asyncio.gather(*flood)
    assert most <= 2
    assert answers.count("None") == WAITING_PER_TENANT == 200 - answers.count("later")
    assert await ask(0, "noisy") == "None", "its turn comes again"


async def test_what_was_not_found_is_looked_for_again_later(monkeypatch) -> None:
    lookups, looked, now_s = Lookups(), [], 100.0
    monkeypatch.setattr("router_service.plans.time.monotonic", lambda: now_s)
    for _ in range(3):
        await lookups.find("x", "t", looked.append)
    now_s += MISSING_S + 0.1
    await lookups.find("x", "t", looked.append)
    assert looked == ["x", "x"]


async def test_a_lookup_that_fails_gives_its_place_back() -> None:
    lookups = Lookups()

    def broken(call_id: str) -> None:
        raise OSError("the disk is gone")

    for number in range(50):
        with pytest.raises(OSError, match="gone"):
            await lookups.find(f"x{number}", "t", broken)
    assert await lookups.find("y", "t", lambda call_id: None) is None
