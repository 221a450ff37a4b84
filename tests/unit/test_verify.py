import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.answers import Answer, AnsweredToolCall, Expectation
from policies.schemas import UnusableSchemaError, compile_schema
from policies.verify import Verifier, refusal_phrase
from registry.errors import InvalidRequestError

INTENT = {
    "type": "object",
    "properties": {"intent": {"enum": ["pay", "save"]}, "note": {"type": "string"}},
    "required": ["intent"],
    "additionalProperties": False,
}
RATE = {
    "type": "function",
    "function": {
        "name": "rate_book",
        "parameters": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "stars": {"type": "integer", "maximum": 6}},
            "required": ["title"],
        },
    },
}
JSON = Expectation(json_schema=INTENT)
OBJECT = Expectation(json_object=True)
TOOLS = Expectation(tools=(RATE, {"type": "function", "function": {"name": "stop"}}))
FREE = Expectation()
VERIFIER = Verifier()


def verdict(answer, expectation=FREE, threshold=None):
    found = VERIFIER.verify(answer, expectation, threshold)
    return found.outcome, found.check


def call(name="rate_book", arguments='{"title": "Dune"}'):
    return Answer(None, (AnsweredToolCall(name, arguments),), "tool_calls")


@pytest.mark.parametrize(
    ("answer", "expectation", "outcome"),
    [
        (Answer("Paris."), FREE, ("verified", "")),
        (Answer(""), FREE, ("malformed", "empty")),
        (Answer(" \n"), FREE, ("malformed", "empty")),
        (Answer(None), JSON, ("malformed", "empty")),
        (Answer("x", finish_reason="length"), FREE, ("verified", "")),
        (Answer("x", finish_reason="content_filter"), FREE, ("unsure", "content_filter")),
        (Answer(None, refusal="No."), JSON, ("unsure", "refusal")),
        (Answer("I'm sorry, but I can't help with that."), FREE, ("unsure", "refusal")),
        (Answer('{"intent": "pay"}'), JSON, ("verified", "")),
        (Answer('{"intent": "pay"}', finish_reason="length"), JSON, ("malformed", "truncated")),
        (Answer('```json\n{"intent": "pay"}\n```'), JSON, ("malformed", "json")),
        (Answer('{"intent": NaN}'), JSON, ("malformed", "json")),
        (Answer('{"intent": "spend"}'), JSON, ("malformed", "schema")),
        (Answer('{"note": "x"}'), JSON, ("malformed", "schema")),
        (Answer('{"intent": "pay", "x": 1}'), JSON, ("malformed", "schema")),
        (Answer("[1]"), OBJECT, ("malformed", "schema")),
        (Answer("I cannot help with that"), OBJECT, ("malformed", "json")),
        (call(), TOOLS, ("verified", "")),
        (call("stop", "{}"), TOOLS, ("verified", "")),
        (Answer("no tool is needed"), TOOLS, ("verified", "")),
        (call("rate_movie"), TOOLS, ("malformed", "tool_name")),
        (call(), FREE, ("malformed", "tool_name")),
        (call(arguments='{"title": "Dune"'), TOOLS, ("malformed", "tool_arguments")),
        (call(arguments='["Dune"]'), TOOLS, ("malformed", "tool_arguments")),
        (call(arguments='{"stars": 5}'), TOOLS, ("malformed", "tool_arguments")),
        (call(arguments='{"title": "x", "stars": 7}'), TOOLS, ("malformed", "tool_arguments")),
        (call(arguments='{"title": "x", "stars": Infinity}'), TOOLS, ("malformed", "tool_arguments")),
        (call(arguments='{"title": "x", "y": ' + "[" * 70 + "]" * 70 + "}"), TOOLS, ("malformed", "tool_arguments")),
        (
            call(arguments='{"title": "x", "y": ' + "[" * 9000 + "]" * 9000 + "}"),
            TOOLS,
            ("malformed", "tool_arguments"),
        ),
        (call(arguments='{"title": "' + "x" * 1_000_001 + '"}'), TOOLS, ("malformed", "tool_arguments")),
        (Answer(None, (call().tool_calls[0],), "length"), TOOLS, ("malformed", "truncated")),
    ],
)
def test_an_answer_is_held_to_what_the_call_demands(answer, expectation, outcome):
    assert verdict(answer, expectation) == outcome


def test_a_wide_answer_is_not_taken_for_a_deep_one():
    assert verdict(Answer('{"rows": [' + ",".join(["[1]"] * 500) + "]}"), OBJECT) == ("verified", "")


@pytest.mark.parametrize(
    ("choice", "answer", "outcome"),
    [
        ("required", Answer("words"), ("malformed", "tool_missing")),
        ("required", call(), ("verified", "")),
        ("none", call(), ("malformed", "tool_name")),
        ({"type": "function", "function": {"name": "stop"}}, call(), ("malformed", "tool_name")),
        ({"type": "function", "function": {"name": "stop"}}, call("stop", "{}"), ("verified", "")),
        ({"type": "function", "function": {"name": "stop"}}, Answer("words"), ("malformed", "tool_missing")),
    ],
)
def test_tool_choice_is_kept(choice, answer, outcome):
    assert verdict(answer, Expectation(tools=TOOLS.tools, tool_choice=choice)) == outcome


def test_confidence_is_held_against_the_threshold():
    assert verdict(Answer("x", confidence=-0.5), threshold=-0.5) == ("verified", "")
    assert verdict(Answer("x", confidence=-0.6), threshold=-0.5) == ("unsure", "confidence")
    assert verdict(Answer("x", confidence=float("nan")), threshold=-0.5) == ("unsure", "confidence")
    assert verdict(Answer("x"), threshold=-0.5) == ("unsure", "confidence")
    assert verdict(Answer("x"), threshold=None) == ("verified", "")


def test_cut_text_is_disbelieved_where_the_operator_says_so():
    strict = Verifier(check_truncated_text=True)
    assert strict.verify(Answer("x", finish_reason="length"), FREE).outcome == "unsure"


def test_reasons_name_the_rule_and_hold_nothing_of_the_answer():
    secret = "4111-1111-1111-1111"
    for answer, expectation in [
        (Answer(f'{{"intent": "{secret}"}}'), JSON),
        (Answer(f'{{"intent": "pay", "{secret}": 1}}'), JSON),
        (call(secret), TOOLS),
        (call(arguments=f'{{"title": 1, "{secret}": "{secret}"}}'), TOOLS),
    ]:
        found = VERIFIER.verify(answer, expectation)
        assert found.reason and secret not in found.reason
    assert "`/properties/intent/enum`" in VERIFIER.verify(Answer('{"intent": "x"}'), JSON).reason


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I can’t help with that request.", True),
        ("**I'm sorry, but as an AI language model, I cannot provide medical advice.**", True),
        ("Unfortunately, I am unable to process refunds.", True),
        ("Es tut mir leid, aber ich kann das nicht.", True),
        ("I can't recommend this book enough!", False),
        ("Sorry to hear that. Here is what to do: restart it.", False),
        ("The model said: I cannot help with that.", False),
        ("", False),
    ],
)
def test_refusals_are_known_by_how_they_begin(text, refused):
    assert (refusal_phrase(text) is not None) == refused


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "outside the schema"),
        ({"$ref": "file:///etc/passwd"}, "outside the schema"),
        ({"$ref": "#/$defs/none"}, "refers to nothing"),
        ({"properties": {"a": {"pattern": "(a"}}}, "at `/properties/a/pattern`"),
        ([], "is an object"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_its_field(schema, said):
    with pytest.raises(InvalidRequestError) as caught:
        VERIFIER.check_expectation(
            Expectation(json_schema=schema)
            if isinstance(schema, dict)
            else Expectation(tools=({"type": "function", "function": {"name": "f", "parameters": [1]}},))
        )
    assert said in str(caught.value)
    assert caught.value.param in {"response_format.json_schema.schema", "tools[0].function.parameters"}


def test_a_schema_that_would_unfold_without_end_is_refused_at_once():
    bomb = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {"type": "object"}}
    deep = {}
    for _ in range(100):
        deep = {"not": deep}
    chain = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(3000)} | {"a3000": {}}
    started = time.monotonic()
    for schema in ({"$ref": "#/$defs/a0", "$defs": bomb}, deep, {"$ref": "#/$defs/a0", "$defs": chain}):
        with pytest.raises(UnusableSchemaError):
            compile_schema(schema)
    assert time.monotonic() - started < 2


def test_patterns_may_look_around_and_cost_little():
    decimal = {"pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
    assert compile_schema(decimal).fault_of("12.50") is None
    assert compile_schema(decimal).fault_of("+") is not None
    started = time.monotonic()
    assert compile_schema({"pattern": r"^(?=(a+)+$)(a|aa)+\1$"}).fault_of("a" * 60 + "b")
    assert time.monotonic() - started < 1


def test_recursive_schemas_work_and_take_no_time():
    tree = {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}, "n": {"type": "integer"}},
    }
    nested = {"properties": {"x": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "y": {"type": "integer"}}}
    assert compile_schema(tree).fault_of({"kids": [{"kids": [], "n": 1}]}) is None
    assert compile_schema(tree).fault_of({"kids": [{"kids": [{"n": "x"}]}]}) == "it does not match the schema"
    value = {"y": "wrong"}
    for _ in range(30):
        value = {"x": value}
    started = time.monotonic()
    assert compile_schema(nested).fault_of(value)
    assert compile_schema({"allOf": [{"$ref": "#"}]}).fault_of({}) is None
    assert time.monotonic() - started < 2


def test_anchors_and_data_that_look_like_references_are_understood():
    anchored = {"$ref": "#money", "$defs": {"m": {"$anchor": "money", "type": "number"}}}
    assert compile_schema(anchored).fault_of(1.5) is None
    assert compile_schema(anchored).fault_of("x") is not None
    assert compile_schema({"const": {"$ref": "http://x/"}}).fault_of({"$ref": "http://x/"}) is None


def test_bad_demands_are_refused_by_name():
    for expectation, param in [
        (Expectation(tools=TOOLS.tools, tool_choice="sometimes"), "tool_choice"),
        (Expectation(tools=TOOLS.tools, tool_choice={"type": "function", "function": {"name": "fly"}}), "tool_choice"),
        (Expectation(tool_choice="required"), "tool_choice"),
        (Expectation(tools=(RATE, RATE)), "tools[1].function.name"),
        (Expectation(tools=({"type": "function"},)), "tools[0].function.name"),
    ]:
        with pytest.raises(InvalidRequestError) as caught:
            VERIFIER.check_expectation(expectation)
        assert caught.value.param == param


def test_few_validators_are_kept_and_the_verdicts_stay_right():
    small = Verifier(capacity=2)
    for _ in range(2):
        for name in ("a", "b", "c"):
            wants = Expectation(json_schema={"required": [name]})
            assert small.verify(Answer(f'{{"{name}": 1}}'), wants).believed
            assert not small.verify(Answer('{"z": 1}'), wants).believed


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
).map(lambda value: __import__("json").dumps(value))
HOSTILE = (
    st.text(alphabet=st.characters(), max_size=200)
    | JSONISH
    | st.sampled_from(["1e999", "[" * 3000, "\ud800", "-0", "9" * 5000])
)


@settings(max_examples=250, deadline=None)
@given(
    text=st.none() | HOSTILE,
    calls=st.lists(st.tuples(st.sampled_from(["rate_book", "stop", "", "\ud800"]) | st.text(), HOSTILE), max_size=3),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "", "?"]),
    refusal=st.none() | st.text(),
    confidence=st.none() | st.floats(),
    expectation=st.sampled_from([FREE, JSON, OBJECT, TOOLS]),
    threshold=st.none() | st.floats(max_value=0),
)
def test_no_answer_makes_it_raise(text, calls, finish, refusal, confidence, expectation, threshold):
    made = tuple(AnsweredToolCall(name, arguments) for name, arguments in calls)
    found = VERIFIER.verify(Answer(text, made, finish, refusal, confidence), expectation, threshold)
    assert found.believed == (found.check == "")
    assert found.believed or found.reason
