"""The real openai SDK against a live gateway: nothing but the base URL changes."""

import asyncio
import json

import openai
import pydantic
import pytest

from tests.e2e.gateway_process import GatewayProcess

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Ticket(pydantic.BaseModel):
    category: str
    urgent: bool


@pytest.fixture
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.base_url, api_key="unused", max_retries=0)


def test_a_completion_answers_and_names_its_call(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "hello there"}]
    )
    answer = raw.parse()
    assert "hello there" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens > 0
    assert raw.headers["x-journeyman-id"] == answer.id
    assert raw.headers["x-journeyman-model"] == answer.model == "echo"
    assert float(raw.headers["x-journeyman-cost-usd"]) >= 0


def test_a_stream_yields_the_same_text_and_its_usage_last(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "stream these words please"}]
    whole = client.chat.completions.create(model="auto", messages=messages)
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_stream_without_the_option_has_no_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert all(chunk.usage is None for chunk in stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_call_comes_back_with_valid_arguments(client: openai.OpenAI, stream: bool) -> None:
    asked = {
        "model": "auto",
        "messages": [{"role": "user", "content": "How is the weather in Ulm?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
    }
    if stream:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["get_weather"]
    assert isinstance(json.loads(calls[0].function.arguments)["city"], str)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_structured_output_parses_into_the_callers_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="auto", messages=[{"role": "user", "content": "my card is gone"}], response_format=Ticket
    )
    assert isinstance(answer.choices[0].message.parsed, Ticket)


def test_log_probabilities_come_when_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    assert all(token.logprob <= 0 for token in logprobs.content)


async def test_the_async_client_streams_many_calls_at_once(gateway: GatewayProcess) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="unused") as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": f"call {number}"}], stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        answers = await asyncio.gather(*(one(n) for n in range(20)))
    assert all(f"call {n}" in answer for n, answer in enumerate(answers))


def test_models_lists_auto_and_the_registry(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "auto" and {"echo", "gpt-4o"} <= set(names)
    assert client.models.retrieve("echo").id == "echo"


def test_an_alias_is_served(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert answer.model == "echo"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-99", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_a_wrong_field_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "hi"}],
            temperature="hot",  # type: ignore[arg-type]
        )
    assert caught.value.param == "temperature"


def test_hints_in_the_body_reach_the_plan(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": "hi"}],
        extra_body={"routing": {"max_cost_usd": 0.01, "task_type": "greeting", "safety_level": "low"}},
    )
    plan = client.get(f"/plans/{raw.headers['x-journeyman-plan']}", cast_to=dict)
    assert plan["inputs"]["max_cost_usd"] == 0.01 and plan["task_type"] == "greeting"
    assert plan["primary"] == "echo" and plan["justification"]
    assert plan["attempts"][0]["outcome"] == "verified"


def test_feedback_joins_its_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    taken = client.post("/feedback", cast_to=dict, body={"id": answer.id, "outcome": "success", "score": 1.0})
    assert taken["call_id"] == answer.id
    with pytest.raises(openai.NotFoundError):
        client.post("/feedback", cast_to=dict, body={"id": "chatcmpl-nobody", "outcome": "success"})
