import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.answers import Expectation
from policies.verify import Verifier
from registry.entries import TemplateEntry
from registry.errors import InvalidRequestError
from router_service.execution import answer_of
from specialists.calls import Call, Completion, Message, Sampling, ToolCall
from specialists.templates import answer_text, parse_tool_calls, read_answer, render

TEXT = TemplateEntry(prompt="Q: {input}\nA:", stop=("\n",))
JSON = TemplateEntry(answer="json")
TOOLS = TemplateEntry(answer="tool_call")


def ask(*messages, **rest):
    return Call("base", tuple(messages), **rest)


def test_the_prompt_holds_what_varies_and_nothing_else():
    call = ask(
        Message("system", "You are a long system prompt."),
        Message("user", "first"),
        Message("assistant", "x"),
        Message("user", "second"),
        tools=({"type": "function", "function": {"name": "f"}},),
        response_format={"type": "json_object"},
        sampling=Sampling(max_tokens=9, temperature=1.0, top_p=0.5, stop=("###",)),
        logprobs=True,
    )
    assert render(TEXT, call) == Call(
        "base",
        prompt="Q: second\nA:",
        sampling=Sampling(max_tokens=9, temperature=0.0, stop=("\n",)),
        logprobs=True,
    )


@pytest.mark.parametrize("text", ["{input}", "{input}{input}", "{0} {x!r} %s $x \\1", "{{", ""])
def test_an_input_is_never_itself_a_template(text):
    assert render(TEXT, ask(Message("user", text))).prompt == "Q: " + text + "\nA:"


def test_text_parts_are_joined_and_other_parts_refused():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(TEXT, ask(Message("user", parts))).prompt == "Q: ab\nA:"
    image = [*parts, {"type": "image_url", "image_url": {"url": "data:"}}]
    for call in (ask(Message("user", image)), ask(Message("system", "x")), ask()):
        with pytest.raises(InvalidRequestError):
            render(TEXT, call)


def test_a_tool_call_is_read_from_its_text():
    text = ' {"name": "rate_book", "arguments": {"stars": 4, "title": "\\u00e9\\"x"}}\n'
    answer = read_answer(TOOLS, Completion(text))
    assert (answer.text, answer.finish_reason) == (None, "tool_calls")
    (call,) = answer.tool_calls
    assert call.name == "rate_book" and call.id.startswith("call_")
    assert json.loads(call.arguments) == {"stars": 4, "title": 'é"x'}


def test_several_tool_calls_have_ids_of_their_own():
    calls = parse_tool_calls('[{"name":"a","arguments":{}},{"name":"b","arguments":{}}]')
    assert [call.name for call in calls] == ["a", "b"]
    assert calls[0].id != calls[1].id


MALFORMED = [
    "",
    "no JSON",
    '{"name": "f", "arguments": {"a": 1}',
    '{"name": "f", "arguments": "{}"}',
    '{"name": 7, "arguments": {}}',
    '{"name": "f", "arguments": {"x": NaN}}',
    '{"name": "f"}',
    "[]",
    "[1]",
    "[" * 100_000,
    '{"name": "f", "arguments": ' + '{"a":' * 50_000,
    '{"a": "' + "x" * 1_000_000,
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_tool_call_stays_text(text):
    answer = read_answer(TOOLS, Completion(text))
    assert (answer.tool_calls, answer.text, answer.finish_reason) == ((), text.strip(), "stop")


def test_a_truncated_answer_keeps_its_finish_reason():
    assert (
        read_answer(TOOLS, Completion('{"name":"f","arguments":{}}', finish_reason="length")).finish_reason == "length"
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4), min_size=1, max_size=3))
def test_what_is_learnt_reads_back_as_the_same_tool_calls(arguments):
    calls = tuple(ToolCall(f"id{i}", f"tool_{i}", json.dumps(a)) for i, a in enumerate(arguments))
    back = read_answer(TOOLS, Completion(answer_text(TOOLS, Completion(None, tool_calls=calls)))).tool_calls
    assert [(c.name, json.loads(c.arguments)) for c in back] == [
        (c.name, a) for c, a in zip(calls, arguments, strict=True)
    ]


def test_what_cannot_be_learnt_is_none():
    assert answer_text(JSON, Completion('{"intent": "x" }')) == '{"intent":"x"}'
    assert answer_text(JSON, Completion("Sure! {}")) is None
    assert answer_text(TEXT, Completion(" Paris ")) == "Paris"
    assert answer_text(TEXT, Completion(None)) is None
    assert answer_text(TOOLS, Completion("text")) is None
    assert answer_text(TOOLS, Completion(None, tool_calls=(ToolCall("1", "f", "{broken"),))) is None


def test_a_call_without_a_limit_gets_the_templates_and_a_lower_one_holds():
    template = TemplateEntry(max_tokens=90)
    asked = [Call("m", (Message("user", "hi"),), sampling=Sampling(max_tokens=n)) for n in (None, 20, 400)]
    assert [render(template, call).sampling.max_tokens for call in asked] == [90, 20, 90]


def test_half_a_tool_call_is_malformed_even_where_an_answer_in_words_would_do():
    tool = {"type": "function", "function": {"name": "book", "parameters": {"type": "object"}}}
    template = TemplateEntry(answer="tool_call")
    cut = read_answer(template, Completion('{"name":"book","arguments":{"city":"', finish_reason="length"))
    verdict = Verifier().verify(answer_of(cut), Expectation(tools=(tool,)))
    assert (verdict.outcome, verdict.check) == ("malformed", "template")
    whole = read_answer(template, Completion('{"name":"book","arguments":{"city":"Bern"}}'))
    assert Verifier().verify(answer_of(whole), Expectation(tools=(tool,))).believed
