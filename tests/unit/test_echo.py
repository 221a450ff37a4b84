import json
import time

import jsonschema_rs
import pytest

from registry.entries import BackendEntry, Deadlines
from registry.errors import BackendTimeoutError, BackendUnavailableError, StreamCutError
from specialists.backends import BackendContext, make_backend
from specialists.calls import Call, Message, Sampling
from specialists.collecting import Collector
from specialists.echo_schema import least_instance

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 3},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "maybe": {"type": "string"},
    },
    "required": ["city", "days", "unit", "tags"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}


@pytest.fixture
def backend(tmp_path):
    entry = BackendEntry(name="fake", kind="echo", deadlines=Deadlines(first_token_ms=2_500))
    return make_backend(entry, BackendContext(state=tmp_path))


def ask(model="echo", text="hello wide world", **rest):
    return Call(model, (Message("system", "s"), Message("user", text)), **rest)


async def streamed(backend, call, budget_ms=10_000):
    collector = Collector()
    async for delta in backend.stream(call, budget_ms):
        collector.add(delta)
    return collector.completion()


async def test_it_answers_the_last_user_message_whole_and_in_pieces(backend):
    whole = await backend.complete(ask(logprobs=True), 1000)
    assert whole.text == "hello wide world"
    assert [t.token for t in whole.logprobs] == ["hello", " wide", " world"]
    assert whole.usage.completion_tokens == 3 and not whole.usage.estimated
    assert await streamed(backend, ask(logprobs=True)) == whole


@pytest.mark.parametrize(
    ("model", "choice"),
    [("echo:tool", "auto"), ("echo", "required"), ("echo", {"type": "function", "function": {"name": "weather"}})],
)
async def test_it_calls_a_tool_with_valid_arguments(backend, model, choice):
    call = ask(model, tools=(TOOL, OTHER), tool_choice=choice)
    answer = await backend.complete(call, 1000)
    assert answer.finish_reason == "tool_calls" and answer.text is None
    assert answer.tool_calls[0].name == "weather"
    jsonschema_rs.validate(SCHEMA, json.loads(answer.tool_calls[0].arguments))
    assert (await streamed(backend, call)).tool_calls == answer.tool_calls


async def test_it_leaves_tools_alone_when_none_is_due(backend):
    assert (await backend.complete(ask(tools=(TOOL,), tool_choice="auto"), 1000)).tool_calls == ()
    assert (await backend.complete(ask("echo:tool", tools=(TOOL,), tool_choice="none"), 1000)).tool_calls == ()


async def test_it_fills_a_response_format(backend):
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    jsonschema_rs.validate(SCHEMA, json.loads((await backend.complete(ask(response_format=wanted), 1000)).text))


async def test_refused_truncated_malformed_and_unsure(backend):
    refused = await backend.complete(ask("echo:refuse"), 1000)
    assert refused.text is None and refused.refusal
    assert (
        await streamed(backend, ask("echo:refuse")) == refused or (await streamed(backend, ask("echo:refuse"))).refusal
    )
    truncated = await backend.complete(ask("echo:truncate"), 1000)
    assert truncated.finish_reason == "length" and "hello wide world".startswith(truncated.text)
    for call in (ask("echo:malformed"), ask("echo:malformed", tools=(TOOL,))):
        broken = await backend.complete(call, 1000)
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken.tool_calls[0].arguments if broken.tool_calls else broken.text)
    sure, unsure = [
        sum(t.logprob for t in (await backend.complete(ask(m, logprobs=True), 1000)).logprobs)
        for m in ("echo", "echo:unsure")
    ]
    assert unsure < sure - 5


async def test_down_and_cut_raise_what_a_real_backend_would(backend):
    with pytest.raises(BackendUnavailableError):
        await backend.complete(ask("echo:down"), 1000)
    said = []
    with pytest.raises(StreamCutError):
        async for delta in backend.stream(ask("echo:cut"), 1000):
            said.append(delta.text)
    assert "".join(said) and "hello wide world".startswith("".join(said))
    with pytest.raises(StreamCutError):
        await backend.complete(ask("echo:cut"), 1000)


async def test_hang_ends_at_the_deadline_and_slow_answers_after_two_seconds(backend):
    start = time.monotonic()
    with pytest.raises(BackendTimeoutError) as caught:
        await backend.complete(ask("echo:hang"), 100)
    assert caught.value.phase == "total" and time.monotonic() - start < 1.5
    start = time.monotonic()
    assert (await backend.complete(ask("echo:slow"), 10_000)).text == "hello wide world"
    assert time.monotonic() - start > 1.9


async def test_max_tokens_and_prompts_are_respected(backend):
    assert (await backend.complete(ask(sampling=Sampling(max_tokens=2)), 1000)).text == "hello wide"
    assert (await backend.complete(Call("any@0123456789ab", prompt="rendered\n"), 1000)).text == "rendered"


SCHEMAS = [
    {},
    {"type": "string", "format": "date", "maxLength": 10},
    {"type": "number", "exclusiveMinimum": 3, "multipleOf": 5},
    {"type": "integer", "maximum": -4},
    {"type": ["null", "string"]},
    {"const": [1, 2]},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/b"}}, "required": ["x"]},
            "b": {"type": "integer"},
        },
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string"}}, "required": ["b"]},
        ]
    },
]


async def test_a_tool_without_parameters_is_called_with_an_object(backend):
    stop = {"type": "function", "function": {"name": "stop"}}
    [made] = (await backend.complete(ask(tools=(stop,), tool_choice="required"), 1000)).tool_calls
    assert (made.name, made.arguments) == ("stop", "{}")


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_the_least_instance_is_valid(schema):
    jsonschema_rs.validate(schema, least_instance(schema, "text"))


def test_a_schema_that_refers_to_itself_ends():
    loop = {"$ref": "#"}
    assert least_instance(loop) is not False
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["child"]}
    assert "child" in least_instance(tree)
