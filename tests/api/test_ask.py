"""POST /v1/ask: frames in their order."""

import json

from litestar.testing import AsyncTestClient

from tests.api.registries import cheap_first

URL = "/v1/ask"


def frames(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


async def test_the_plan_comes_first_and_done_last(client: AsyncTestClient) -> None:
    got = frames((await client.post(URL, json={"prompt": "hello"})).text)
    kinds = [frame["type"] for frame in got]
    assert kinds[0] == "plan" and kinds[-2:] == ["metrics", "done"]
    assert set(kinds) == {"plan", "attempt", "token", "metrics", "done"}
    plan, metrics = got[0], got[-2]
    assert plan["primary"] == "echo" and plan["justification"] and plan["candidates"]
    assert {"tokens", "cost_usd", "saved_usd", "latency_ms", "escalated", "verified"} <= set(metrics)
    assert "hello" in "".join(f["text"] for f in got if f["type"] == "token")


async def test_rejected_candidates_have_their_reason(client: AsyncTestClient) -> None:
    plan = frames((await client.post(URL, json={"prompt": "hello"})).text)[0]
    rejected = [c for c in plan["candidates"] if "rejection" in c]
    assert rejected and all(c["rejection"]["reason"] and c["rejection"]["code"] for c in rejected)


async def test_an_escalation_shows_why(make_client) -> None:
    client = await make_client(cheap_first("echo:refuse"))
    got = frames((await client.post(URL, json={"prompt": "hello"})).text)
    finished = [f for f in got if f["type"] == "attempt" and f["state"] == "finished"]
    assert [f["candidate"] for f in finished] == ["cheap", "frontier"]
    assert finished[0]["outcome"] != "verified" and "refus" in finished[0]["reason"]
    assert got[-2]["escalated"] is True and got[-2]["model"] == "frontier"


async def test_an_error_after_the_plan_is_an_error_frame(client: AsyncTestClient) -> None:
    got = frames((await client.post(URL, json={"prompt": "hello", "model": "echo:down"})).text)
    assert got[0]["type"] == "plan" and got[-1]["type"] == "error"
    assert got[-1]["error"]["code"] == "backend_unavailable"


async def test_prompt_and_messages_together_are_refused(client: AsyncTestClient) -> None:
    body = {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}
    response = await client.post(URL, json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "prompt"
