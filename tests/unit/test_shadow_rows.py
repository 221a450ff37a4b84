import itertools
import json

import pytest

from pipelines.shadow_rows import ShadowRow

TOOL = json.dumps([{"name": "pay", "arguments": '{"usd": 5}'}])


def row(outcome="verified", agrees=True, **changed):
    values = {
        "call_id": "c",
        "outcome": outcome,
        "agrees": agrees,
        "cost_usd": 1.0,
        "latency_ms": 10.0,
        "reference_verified": True,
        "reference_cost_usd": 4.0,
        "reference_latency_ms": 100.0,
    }
    return ShadowRow(**(values | changed))


@pytest.mark.parametrize(
    ("changed", "shadow_right", "served_right"),
    [
        ({}, None, None),
        ({"right": True, "reference_right": False}, True, False),
        ({"right": False, "reference_right": True, "said_outcome": "failure"}, False, True),
        ({"said_outcome": "success"}, True, True),
        ({"said_outcome": "success", "agrees": False}, False, True),
        ({"said_outcome": "success", "agrees": None}, False, True),
        ({"said_outcome": "failure"}, False, False),
        ({"said_outcome": "failure", "agrees": False}, None, False),
        ({"said_outcome": "failure", "agrees": False, "outcome": "malformed"}, False, False),
        ({"said_score": 0.9, "agrees": False}, False, True),
        ({"said_score": 0.1}, False, False),
        ({"said_correction": '{"a": 1}', "agrees": False, "answer_text": '{"a":1}'}, True, False),
        ({"said_correction": '{"a": 1}', "agrees": False, "answer_text": '{"a":2}'}, False, False),
        ({"said_correction": '{"a": 1}', "agrees": False}, None, False),
        (
            {
                "said_correction": '{"name": "pay", "arguments": {"usd": 5}}',
                "agrees": False,
                "answer_tool_calls": TOOL,
            },
            True,
            False,
        ),
    ],
)
def test_a_persons_word_says_which_of_the_two_answers_is_right(changed, shadow_right, served_right):
    found = row(**changed)
    assert (found.shadow_right, found.served_right) == (shadow_right, served_right)
    assert found.is_judged == (shadow_right is not None and served_right is not None)


def test_whether_a_call_is_judged_does_not_depend_on_whether_the_answer_was_believed():
    for agrees, said, correction in itertools.product((True, False, None), ("success", "failure", None), ("x", None)):
        given = {"agrees": agrees, "said_outcome": said, "said_correction": correction, "answer_text": "y"}
        assert row("verified", **given).is_judged == row("unsure", **given).is_judged


def test_the_chain_is_as_right_as_whose_answer_it_gives():
    believed = row(right=False, reference_right=True).outcome_of_chain(judged_alone=True)
    assert (believed.success, believed.reference_success, believed.accepted_wrong) == (False, True, True)
    escalated = row("unsure", right=False, reference_right=False).outcome_of_chain(judged_alone=True)
    assert (escalated.success, escalated.reference_success, escalated.accepted_wrong) == (False, False, False)
    fixed = row(right=True, reference_right=False).outcome_of_chain(judged_alone=False)
    assert (fixed.success, fixed.reference_success, fixed.accepted_wrong) == (True, False, False)


def test_calls_that_nobody_judged_say_nothing_of_right_where_judged_ones_do_and_still_count_in_the_rest():
    for outcome in ("verified", "unsure"):
        alone = row(outcome).outcome_of_chain(judged_alone=True)
        assert (alone.success, alone.reference_success, alone.accepted_wrong) == (None, None, None)
        assert alone.well_formed and alone.cost_usd and alone.latency_ms
        with_all = row(outcome).outcome_of_chain(judged_alone=False)
        assert (with_all.success, with_all.reference_success, with_all.accepted_wrong) == (True, True, False)


def test_an_answer_without_a_latency_of_its_own_is_left_out_of_the_comparison_of_latencies():
    assert row(latency_ms=None).outcome_of_chain(judged_alone=False).latency_ms is None
    assert row("unsure", latency_ms=None).outcome_of_chain(judged_alone=False).latency_ms is None
    assert row("unsure").outcome_of_chain(judged_alone=False).latency_ms == 110
