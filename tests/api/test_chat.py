"""The chat route in process, on the echo backend: answers, errors, headers."""

import json

import pytest
from litestar.testing import AsyncTestClient

from tests.api.registries import cheap_first

URL = "/v1/chat/completions"
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "triage",
        "schema": {
            "type": "object",
            "properties": {"category": {"type": "string", "enum": ["card", "loan"]}},
            "required": ["category"],
            "additionalProperties": False,
        },
    },
}


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


async def test_a_call_is_answered_with_its_headers(client: AsyncTestClient) -> None:
    response = await client.post(URL, json=HELLO)
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion" and "hello" in body["choices"][0]["message"]["content"]
    assert response.headers["x-journeyman-id"] == body["id"]
    assert response.headers["x-journeyman-plan"].startswith("plan_")
    assert response.headers["x-journeyman-model"] == "echo"


async def test_a_stream_ends_with_done(client: AsyncTestClient) -> None:
    response = await client.post(URL, json=HELLO | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    got = events(response.text)
    assert got[-1] == "[DONE]"
    assert "hello" in "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in got[:-1])


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"model": "auto"}', 400, None),
        (b'{"model": "auto", "messages": []}', 400, "messages"),
        (b'{"model": "auto", "messages": [{"role": "wizard", "content": "x"}]}', 400, "messages[0].role"),
        (json.dumps(HELLO | {"n": 2}).encode(), 400, "n"),
        (json.dumps(HELLO | {"temperature": 9}).encode(), 400, "temperature"),
        (json.dumps(HELLO | {"functions": []}).encode(), 400, "functions"),
        (json.dumps(HELLO | {"top_logprobs": 2}).encode(), 400, "top_logprobs"),
        (json.dumps(HELLO | {"routing": {"max_cots_usd": 1}}).encode(), 400, "routing"),
        (json.dumps(HELLO | {"routing": {"user_tier": "emperor"}}).encode(), 400, "routing.user_tier"),
        (json.dumps(HELLO | {"routing": {"safety_level": "very"}}).encode(), 400, "routing.safety_level"),
        (json.dumps(HELLO | {"model": "gpt-99"}).encode(), 404, "model"),
        (b'{"model": "auto", "messages": ' + b"[" * 100_000, 400, None),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, None),
    ],
)
async def test_bad_input_is_an_openai_error_that_names_the_field(
    client: AsyncTestClient, body: bytes, status: int, param: str | None
) -> None:
    response = await client.post(URL, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    if param is not None:
        assert error["param"] == param


async def test_a_content_part_that_is_not_text_is_refused(client: AsyncTestClient) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    response = await client.post(URL, json=HELLO | {"messages": [{"role": "user", "content": [part]}]})
    assert response.status_code == 400 and "image_url" in response.json()["error"]["message"]


async def test_a_schema_that_is_none_is_refused_before_anything_is_asked(client: AsyncTestClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    response = await client.post(URL, json=HELLO | {"response_format": form})
    assert response.status_code == 400


async def test_too_large_a_body_is_refused(make_client) -> None:
    client = await make_client(max_body_bytes=1000)
    response = await client.post(URL, json={"model": "auto", "messages": [{"role": "user", "content": "x" * 5000}]})
    assert response.status_code == 413 and response.json()["error"]["code"] == "payload_too_large"


async def test_other_methods_and_paths_have_the_same_error_body(client: AsyncTestClient) -> None:
    for response in (await client.get(URL), await client.get("/v1/nothing"), await client.delete("/v1/models")):
        assert response.status_code in (404, 405)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("behaviour", ["echo:malformed", "echo:truncate", "echo:down"])
async def test_an_answer_that_is_not_believed_escalates(make_client, behaviour: str) -> None:
    client = await make_client(cheap_first(behaviour))
    response = await client.post(URL, json=HELLO | {"response_format": SCHEMA})
    assert response.status_code == 200, response.text
    assert json.loads(response.json()["choices"][0]["message"]["content"])["category"] in ("card", "loan")
    assert response.headers["x-journeyman-model"] == "frontier"
    assert response.headers["x-journeyman-escalated"] == "true"
    plan = (await client.get(f"/v1/plans/{response.headers['x-journeyman-plan']}")).json()
    assert [a["candidate"] for a in plan["attempts"]] == ["cheap", "frontier"]
    assert plan["attempts"][0]["outcome"] in ("malformed", "failed") and plan["attempts"][0]["reason"]


async def test_a_believed_answer_of_the_cheap_one_is_served(make_client) -> None:
    client = await make_client(cheap_first("echo"))
    response = await client.post(URL, json=HELLO | {"response_format": SCHEMA})
    assert response.headers["x-journeyman-model"] == "cheap"
    assert response.headers["x-journeyman-escalated"] == "false"


async def test_nothing_of_a_disbelieved_answer_is_streamed(make_client) -> None:
    client = await make_client(cheap_first("echo:malformed"))
    response = await client.post(URL, json=HELLO | {"response_format": SCHEMA, "stream": True})
    got = [json.loads(e) for e in events(response.text)[:-1]]
    assert {chunk["model"] for chunk in got} == {"frontier"}
    assert json.loads("".join(c["choices"][0]["delta"].get("content", "") for c in got))["category"]


async def test_a_cut_stream_ends_in_an_error_and_never_in_done(client: AsyncTestClient) -> None:
    response = await client.post(URL, json=HELLO | {"model": "echo:cut", "stream": True})
    last = json.loads(events(response.text)[-1])
    assert last["error"]["code"] == "stream_cut" and "[DONE]" not in response.text


async def test_a_backend_that_is_down_is_a_502_with_its_name(client: AsyncTestClient) -> None:
    response = await client.post(URL, json=HELLO | {"model": "echo:down"})
    assert response.status_code == 502 and response.json()["error"]["code"] == "backend_unavailable"


async def test_a_latency_budget_ends_a_hanging_call(client: AsyncTestClient) -> None:
    routing = {"latency_budget_ms": 400}
    response = await client.post(URL, json=HELLO | {"model": "echo:hang", "max_tokens": 1, "routing": routing})
    assert response.status_code in (422, 504), response.text


async def test_a_cost_limit_that_nobody_meets_names_every_reason(make_client) -> None:
    client = await make_client(cheap_first("echo"))
    response = await client.post(URL, json=HELLO | {"routing": {"max_cost_usd": 0.0}})
    error = response.json()["error"]
    assert response.status_code == 422 and error["code"] == "no_candidate"
    assert "cheap" in error["message"] and "frontier" in error["message"]


async def test_hints_work_as_headers_too(client: AsyncTestClient) -> None:
    headers = {"x-journeyman-max-cost-usd": "0.02", "x-journeyman-task-type": "greeting"}
    response = await client.post(URL, json=HELLO, headers=headers)
    plan = (await client.get(f"/v1/plans/{response.headers['x-journeyman-plan']}")).json()
    assert plan["inputs"]["max_cost_usd"] == 0.02 and plan["task_type"] == "greeting"
    refused = await client.post(URL, json=HELLO, headers={"x-journeyman-max-cost-usd": "cheap"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "x-journeyman-max-cost-usd"
