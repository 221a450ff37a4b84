"""What counts as right, grader by grader."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.graders import Answer, ToolCall, grade, last_number
from pipelines.graders_bfcl import check_calls, legal_tool_names
from registry.errors import WorkloadError


def calls(*made):
    return Answer(tool_calls=tuple(ToolCall(name, json.dumps(arguments)) for name, arguments in made))


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ('{"category": "refund", "sure": true}', True),
        ('{"sure":true,"category":"refund"}', True),
        ('{"category": "refund", "sure": 1}', False),
        ('{"category": "refund"}', False),
        ('{"category": "refund", "sure": true, "more": null}', False),
        ('```json\n{"category": "refund", "sure": true}\n```', False),
        ("refund", False),
        ("", False),
    ],
)
def test_json_must_be_equal_and_nothing_but_json(text, correct):
    assert grade("json_equal", {"category": "refund", "sure": True}, Answer(text)).correct is correct


def test_json_score_is_the_share_of_equal_fields_and_the_reason_names_the_others():
    told = grade("json_equal", {"a": 1, "b": [1, 2], "c": "x"}, Answer('{"a": 1.0, "b": [2, 1], "c": "x"}'))
    assert told.score == pytest.approx(2 / 3)
    assert told.reason == "differs in b"


def test_tool_call_arguments_are_equal_as_strings():
    expected = {"name": "book", "arguments": {"people": "4", "outside": "true"}}
    assert grade("tool_call", expected, calls(("book", {"people": 4, "outside": True}))).correct
    assert not grade("tool_call", expected, calls(("book", {"people": 5, "outside": True}))).correct
    assert not grade("tool_call", expected, calls(("book", {"people": "4"}))).correct
    assert not grade("tool_call", expected, calls(("look", {"people": "4", "outside": "true"}))).correct
    twice = calls(("book", {"people": "4", "outside": "true"}), ("book", {"people": "4", "outside": "true"}))
    assert not grade("tool_call", expected, twice).correct
    assert grade("tool_call", expected, Answer(tool_calls=(ToolCall("book", "{"),))).correct is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 16 - 7 = 9, so $18.", 18),
        ("#### 1,080", 1080),
        ("It costs -$5.50", -5.5),
        ("$-3", -3),
        ("between 3-4", 4),
        ("GPT-4", 4),
        ("1,2,3", 3),
        ("a half is .5", 0.5),
        ("minus \u22127.", -7),
        ("no idea", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_found_however_it_is_written(value):
    for text in (f"{value}", f"So the total is {value:,}.", f"12 and 13, thus {value}"):
        assert grade("number", str(value), Answer(text)).correct


def test_extractive_forgives_articles_case_and_punctuation_and_scores_overlap():
    expected = {"doc": "d1", "answers": ["the Denver Broncos", "Broncos"]}
    assert grade("extractive", expected, Answer("Denver Broncos.")).correct
    partly = grade("extractive", expected, Answer("Denver Broncos team"))
    assert partly.correct is False
    assert partly.score == pytest.approx(0.8)
    assert grade("extractive", expected, Answer("Panthers")).score == 0


def test_retrieval_wants_the_document_first_and_scores_its_rank():
    assert grade("retrieval", {"doc": "d1"}, Answer(citations=("d1", "d2"))).correct
    assert grade("retrieval", {"doc": "d2"}, Answer(citations=("d1", "d2"))).score == 0.5
    assert grade("retrieval", {"doc": "d9"}, Answer(citations=("d1", "d2"))).score == 0


def test_what_nobody_grades_is_neither_right_nor_wrong():
    assert grade("none", None, Answer("anything")).correct is None


def test_an_unknown_grader_is_refused_by_name():
    with pytest.raises(WorkloadError, match=r"json_equals.*json_equal"):
        grade("json_equals", {}, Answer())


AREA = {
    "name": "geo.area",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
            "points": {"type": "array", "items": {"type": "float"}},
            "options": {"type": "dict", "properties": {}},
        },
        "required": ["base"],
    },
}


@pytest.mark.parametrize(
    ("accepted", "given_arguments", "right"),
    [
        ({"base": [10], "unit": ["units", ""]}, {"base": 10}, True),
        ({"base": [10], "unit": ["units", ""]}, {"base": 10, "unit": "Units."}, True),
        ({"base": [10], "unit": ["sq. units"]}, {"base": 10, "unit": "SQ units"}, True),
        ({"base": [10], "unit": ["units"]}, {"base": 10}, False),
        ({"base": [10]}, {"base": "10"}, False),
        ({"base": [10]}, {"base": 10.0}, False),
        ({"base": [10]}, {"base": True}, False),
        ({"base": [10], "height": [5.0]}, {"base": 10, "height": 5}, True),
        ({"base": [10], "points": [[1.0, 2.0]]}, {"base": 10, "points": [1.0, 2.0]}, True),
        ({"base": [10], "points": [[1.0, 2.0]]}, {"base": 10, "points": [1, 2]}, False),
        ({"base": [10], "points": [[1.0, 2.0]]}, {"base": 10, "points": [2.0, 1.0]}, False),
        ({"base": [10], "options": [{"k": ["v"], "o": ["x", ""]}]}, {"base": 10, "options": {"k": "V"}}, True),
        ({"base": [10], "options": [{"k": ["v"]}]}, {"base": 10, "options": {}}, False),
        ({"base": [10], "options": [{"k": ["v"]}]}, {"base": 10, "options": {"k": "v", "z": 1}}, False),
        ({"base": [10]}, {"base": 10, "colour": "red"}, False),
        ({"base": [10, "x"]}, {}, False),
    ],
)
def test_bfcl_arguments(accepted, given_arguments, right):
    finding = check_calls([AREA], [{"geo.area": accepted}], [("geo_area", given_arguments)])
    assert (finding is None) is right, finding


def test_bfcl_parallel_calls_may_come_in_any_order_but_each_once():
    expected = [{"geo.area": {"base": [1]}}, {"geo.area": {"base": [2]}}]
    one, two = ("geo_area", {"base": 1}), ("geo_area", {"base": 2})
    assert check_calls([AREA], expected, [two, one]) is None
    assert check_calls([AREA], expected, [one, one]) is not None
    assert check_calls([AREA], expected, [one]) is not None
    assert check_calls([AREA], expected, [one, two, two]) is not None


def test_bfcl_lists_of_objects_are_compared_in_order():
    function = {"name": "f", "parameters": {"properties": {"rows": {"type": "array", "items": {"type": "dict"}}}}}
    expected = [{"f": {"rows": [[{"k": ["a"]}, {"k": ["b"]}]]}}]
    assert check_calls([function], expected, [("f", {"rows": [{"k": "a"}, {"k": "b"}]})]) is None
    assert check_calls([function], expected, [("f", {"rows": [{"k": "b"}, {"k": "a"}]})]) is not None


@given(st.lists(st.text(max_size=80), unique=True, max_size=8))
def test_tool_names_become_legal_and_stay_distinct(names):
    legal = legal_tool_names(names)
    assert len(set(legal.values())) == len(names)
    for name in legal.values():
        assert 1 <= len(name) <= 64
        assert all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
