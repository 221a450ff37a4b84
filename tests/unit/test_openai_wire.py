import json

import pytest

from registry.entries import BackendEntry
from registry.errors import BackendError, InvalidRequestError, StreamCutError
from specialists.calls import Call, Completion, Message, Sampling, ToolCall, Usage
from specialists.collecting import Collector
from specialists.openai_answers import decode_answer, read_completion
from specialists.openai_errors import Upstream, clean, event_error, status_error
from specialists.openai_stream import StreamReader
from specialists.openai_wire import Dialect, encode_call

ASK = Call("m", (Message("user", "hello"),))
UPSTREAM = Upstream(BackendEntry(name="up", kind="vllm", url="http://x/v1"), "sk-secret")


def sent(call, dialect=None, *, stream=False):
    path, body = encode_call(call, dialect or Dialect(), stream=stream)
    return path, json.loads(body)


def read(answer, call=ASK):
    return read_completion(decode_answer(json.dumps(answer).encode(), "up"), call, "up")


def choice(**message):
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def stream(*events, call=ASK):
    reader, collector = StreamReader(UPSTREAM, call), Collector()
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        for piece in reader.feed(f"data: {data}\n\n".encode()):
            collector.add(piece.delta)
    rest = reader.rest()
    if rest is not None:
        collector.add(rest)
    return collector.completion()


# What goes up.


def test_a_full_call_as_it_goes_up():
    call = Call(
        "adapter@0123456789ab",
        (
            Message("system", "s"),
            Message("user", "u", name="ann"),
            Message("assistant", None, tool_calls=(ToolCall("c1", "f", '{"broken'),)),
            Message("tool", "result", tool_call_id="c1"),
        ),
        sampling=Sampling(7, 0.0, 0.5, 3, ("a", "b"), 0.1, 0.2),
        tools=({"type": "function", "function": {"name": "f"}},),
        tool_choice={"type": "function", "function": {"name": "f", "x": 1}},
        parallel_tool_calls=False,
        logprobs=True,
        top_logprobs=2,
    )
    assert sent(call, stream=True) == (
        "/chat/completions",
        {
            "model": "adapter@0123456789ab",
            "max_tokens": 7,
            "temperature": 0.0,
            "top_p": 0.5,
            "seed": 3,
            "stop": ["a", "b"],
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u", "name": "ann"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "function": {"name": "f", "arguments": '{"broken'}, "type": "function"}
                    ],
                },
                {"role": "tool", "content": "result", "tool_call_id": "c1"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "logprobs": True,
            "top_logprobs": 2,
        },
    )


def test_what_is_not_said_is_not_sent():
    assert sent(ASK)[1] == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    assert sent(Call("m", prompt="p", logprobs=True)) == (
        "/completions",
        {"model": "m", "prompt": "p", "logprobs": 1},
    )


def test_a_servers_prefix_cache_is_salted_by_tenant_where_it_knows_salts():
    vllm = Dialect(cache_secret=b"k" * 32)

    def salt(tenant, dialect=vllm, **other):
        return sent(Call("m", ASK.messages, tenant=tenant, **other), dialect)[1].get("cache_salt")

    assert salt("acme") == salt("acme") == salt("acme", prompt="p")
    assert len({salt("acme"), salt("rival"), salt(""), salt("acme", Dialect(cache_secret=b"x" * 32))}) == 4
    assert salt("acme", Dialect()) is None


def test_tool_choice_without_tools_is_left_out():
    assert "tool_choice" not in sent(Call("m", ASK.messages, tool_choice="none", parallel_tool_calls=True))[1]


def test_openai_itself_gets_max_completion_tokens():
    call = Call("m", ASK.messages, sampling=Sampling(max_tokens=9))
    body = sent(call, Dialect(renames_max_tokens=True))[1]
    assert body["max_completion_tokens"] == 9 and "max_tokens" not in body


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "file:///etc/passwd", "HTTPS://example.com/x.png", "", 7, " data:x"]
)
def test_our_own_servers_are_given_no_url_to_fetch(url):
    call = Call("m", (Message("user", [{"type": "image_url", "image_url": {"url": url}}]),))
    with pytest.raises(InvalidRequestError) as caught:
        sent(call, Dialect(fetches_media=False))
    assert caught.value.param == "messages[0].content[0].image_url.url"
    inline = Call("m", (Message("user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]),))
    assert sent(inline, Dialect(fetches_media=False))


@pytest.mark.parametrize(
    "call",
    [
        Call("m", (Message("user", [{"type": "video_url", "video_url": {"url": "http://x"}}]),)),
        Call("m", (Message("user", [{"type": "text"}]),)),
        Call("m", (Message("user", [{"type": ["text"]}]),)),
        Call("m", (Message("user", [{"type": "image_url", "image_url": "http://x"}]),)),
        Call("m", tools=({"type": "function"},)),
        Call("m", tools=({"type": "function", "function": {"name": None}},)),
        Call("m", tools=({"type": "function", "function": {"name": "f"}},), tool_choice={"type": "auto"}),
        Call("m", tools=({"type": "function", "function": {"name": "f"}},), tool_choice="any"),
        Call("m", response_format={"type": "structural_tag"}),
        Call("m", response_format={"type": "json_schema", "json_schema": "x"}),
        Call("m", (Message("user", "\ud800"),)),
    ],
    ids=range(11),
)
def test_what_cannot_be_sent_is_the_callers_error(call):
    with pytest.raises(InvalidRequestError):
        sent(call)


# What comes back.


def test_an_answer_with_everything():
    answer = read(
        {
            "id": "x",
            "choices": [
                {
                    "message": {
                        "content": None,
                        "refusal": None,
                        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    "logprobs": {
                        "content": [
                            {
                                "token": "a",
                                "logprob": -0.5,
                                "bytes": [97],
                                "top_logprobs": [{"token": "b", "logprob": -1}],
                            }
                        ]
                    },
                    "finish_reason": "tool_calls",
                    "stop_reason": None,
                }
            ],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
        }
    )
    assert (answer.text, answer.refusal, answer.finish_reason) == (None, None, "tool_calls")
    assert answer.tool_calls == (ToolCall("c", "f", "{}"),)
    assert answer.usage == Usage(9, 4, 8)
    assert [(t.token, t.logprob, t.top) for t in answer.logprobs] == [("a", -0.5, (("b", -1.0),))]


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}], ids=["null", "empty", "null count"])
def test_missing_usage_is_estimated(usage):
    answer = read({**choice(content="x" * 40), "usage": usage})
    assert answer.usage.estimated and answer.usage.completion_tokens == 10 and answer.usage.prompt_tokens >= 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None}, None),
        ({}, None),
        ({"content": ""}, ""),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "hi"}]}, "hi"),
    ],
)
def test_null_and_listed_contents(message, expected):
    assert read(choice(**message)).text == expected


def test_a_refusal_and_broken_arguments_are_passed_on_as_they_are():
    assert read(choice(content=None, refusal="no")).refusal == "no"
    big = '{"a": "' + "x" * 1_000_000
    calls = [
        {"id": "1", "function": {"name": "f", "arguments": big}},
        {"function": {"name": "g", "arguments": {"a": 1}}},
    ]
    answer = read(choice(content=None, tool_calls=calls))
    assert [c.arguments for c in answer.tool_calls] == [big, '{"a":1}']
    assert answer.tool_calls[1].id


def test_completions_log_probabilities_skip_what_has_none():
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -0.25], "top_logprobs": [None, {"b": -0.25, "c": -3}]}
    answer = read({"choices": [{"text": "ab", "logprobs": logprobs}]}, Call("m", prompt="p"))
    assert answer.text == "ab"
    assert [(t.token, t.logprob, t.top) for t in answer.logprobs] == [("b", -0.25, (("b", -0.25), ("c", -3.0)))]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"choices":[{"message":{"content":7}}]}', b"\xff", b"{" * 10**5])
def test_malformed_json_is_a_backend_error(data):
    with pytest.raises(BackendError, match="malformed"):
        decode_answer(data, "up")


# Streams.


def test_a_stream_of_tool_calls_with_and_without_indices():
    def delta(*calls):
        return {"choices": [{"delta": {"tool_calls": list(calls)}}]}

    numbered = stream(
        delta({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}),
        delta({"index": 0, "function": {"arguments": '{"x"'}}),
        delta({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
        delta({"index": 0, "function": {"arguments": ":1}"}}),
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        "[DONE]",
    )
    assert numbered.tool_calls == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))
    unnumbered = stream(
        delta({"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}),
        delta({"id": "b", "function": {"name": "g", "arguments": "{"}}),
        delta({"function": {"arguments": "}"}}),
        "[DONE]",
    )
    assert unnumbered.tool_calls == numbered.tool_calls


def test_a_stream_of_completions():
    answer = stream({"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "length"}]}, "[DONE]")
    assert (answer.text, answer.finish_reason, answer.usage.estimated) == ("ab", "length", True)


def test_nothing_after_the_closing_event_is_read():
    assert stream({"choices": [{"delta": {"content": "a"}}]}, "[DONE]\n\ndata: garbage").text == "a"


def test_what_came_before_an_error_in_the_same_bytes_is_not_lost():
    pieces = []
    with pytest.raises(BackendError):
        for piece in StreamReader(UPSTREAM, ASK).feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {\n\n'):
            pieces.append(piece)
    assert [piece.delta.text for piece in pieces] == ["a"]


def test_a_stream_without_an_answer_is_an_error():
    with pytest.raises(BackendError, match="without an answer"):
        stream("[DONE]")
    assert isinstance(StreamReader(UPSTREAM, ASK).cut("EOF"), StreamCutError)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"message": "boom"}, "boom"),
        ("boom", "boom"),
        ({"detail": "boom"}, "boom"),
        (7, "7"),
        ({"message": "boom", "code": 429}, "boom"),
        ({"message": "boom", "code": True}, "boom"),
        ([], "[]"),
    ],
)
def test_error_events_of_every_shape(error, said):
    assert said in event_error(UPSTREAM, error).message
    with pytest.raises(BackendError, match=r"boom|7|\[\]"):
        stream({"error": error})


@pytest.mark.parametrize(
    "retry_after", [b"", b"nan", b"inf", b"-5", b"Wed, 21 Oct 2026 07:28:00 GMT", b"1e300", b"\xff"]
)
def test_odd_retry_after_headers_stay_within_reason(retry_after):
    error = status_error(UPSTREAM, 429, {b"retry-after": retry_after}, b"")
    assert 0 <= error.retry_after_s <= 3600


def test_foreign_text_is_made_fit_for_a_message():
    said = clean("a\r\nSet-Cookie: x\x00\x1b[31m sk-secret " + "é" * 2000, "sk-secret")
    assert said.isprintable() and "sk-secret" not in said and len(said) <= 403
    assert said.startswith("a Set-Cookie: x")


def test_a_completion_survives_the_round_trip_of_a_stream():
    events = [{"choices": [{"delta": {"content": word}}]} for word in ("a ", "b ", "c")]
    done = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
    assert stream(*events, done, "[DONE]") == Completion("a b c", usage=Usage(1, 3))
