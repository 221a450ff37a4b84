"""When two answers say the same, when they do not, and when nobody can tell."""

import pytest

from policies.agreement import agree
from policies.answers import Answer, AnsweredToolCall


def said(text):
    return Answer(text=text)


def called(*calls):
    return Answer(text=None, tool_calls=tuple(AnsweredToolCall(name, arguments) for name, arguments in calls))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (said('{"intent": "pay", "sure": true}'), said('{ "sure":true,"intent":"pay" }'), True),
        (said('{"intent": "pay"}'), said('{"intent": "owe"}'), False),
        (said('{"amount": 1}'), said('{"amount": true}'), False),
        (said("[1, 2]"), said("[2, 1]"), False),
        (said("Yes, of course."), said("yes,  of course.\n"), True),
        (said("Yes, of course."), said("Certainly."), None),
        (said("It is {not} JSON"), said('{"a": 1}'), False),
        (said("{broken"), said('{"a": 1}'), False),
        (said(""), said(None), True),
        (called(("pay", '{"to": "x", "sum": 3}')), called(("pay", '{"sum": 3, "to": "x"}')), True),
        (called(("pay", "{}")), called(("owe", "{}")), False),
        (called(("pay", "{}")), called(("pay", "{}"), ("pay", "{}")), False),
        (called(("pay", "{}")), said("I will pay."), False),
    ],
)
def test_agreement(one, other, same):
    assert agree(one, other) is same
    assert agree(other, one) is same
