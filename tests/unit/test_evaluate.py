import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipelines.evaluation import Answered, Judged, auroc, judge, recorded_scores, scores, table, threshold_of, wilson
from pipelines.render import Example, Shape
from policies.verify import Verifier
from registry.entries import Prices, TemplateEntry
from specialists.calls import Completion, Usage
from specialists.templates import read_answer
from tests.unit.curated_calls import FORMAT, TOOL

JSON = TemplateEntry(answer="json")
TOOLS = TemplateEntry(answer="tool_call")
INTENT = Shape(FORMAT)
BOOK = Shape(None, (TOOL,))


def example(completion, **changed):
    return Example(call_id="c", prompt="p", completion=completion, **changed)


def judged_as(template, shape, wanted, said, finish="stop", confidence=-0.1):
    completion = read_answer(template, Completion(said, finish_reason=finish))
    return judge(example(wanted), Answered(completion, 5.0, confidence), template, shape, Verifier())


def plain(right, confidence, number=0):
    return Judged(str(number), right, True, "", None, 0, 0, 0, confidence)


@pytest.mark.parametrize(
    ("said", "exact", "well_formed", "reason"),
    [
        ('{"intent":"balance"}', True, True, ""),
        (' { "intent": "balance" }\n', True, True, ""),
        ('{"intent":"transfer"}', False, True, ""),
        ('{"intent":"dance"}', False, False, "malformed: schema"),
        ("balance", False, False, "malformed: json"),
        ("", False, False, "malformed: empty"),
    ],
)
def test_a_json_answer_is_right_as_a_value_and_well_formed_as_the_live_verifier_says(said, exact, well_formed, reason):
    found = judged_as(JSON, INTENT, '{"intent":"balance"}', said)
    assert (found.exact, found.well_formed, found.reason) == (exact, well_formed, reason)


def test_an_answer_that_was_cut_off_is_malformed_even_when_it_reads_well():
    found = judged_as(JSON, INTENT, '{"intent":"balance"}', '{"intent":"balance"}', finish="length")
    assert found.exact and not found.well_formed and found.reason == "malformed: truncated"


def call(name="rate_book", **arguments):
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("said", "exact", "right_tool", "fields"),
    [
        (call(stars=4, title="Emma"), True, True, (2, 2, 2)),
        (call(title="Emma", stars="4"), True, True, (2, 2, 2)),
        (call(stars=4, title="Persuasion"), False, True, (1, 2, 2)),
        (call(stars=4), False, True, (1, 2, 1)),
        (call(stars=4, title="Emma", author="Austen"), False, True, (2, 2, 3)),
        (call("play", stars=4, title="Emma"), False, False, (2, 2, 2)),
        ("no call", False, False, (0, 2, 0)),
    ],
)
def test_a_tool_call_is_judged_by_name_and_by_each_argument(said, exact, right_tool, fields):
    found = judged_as(TOOLS, BOOK, call(stars=4, title="Emma"), said)
    assert (found.exact, found.right_tool) == (exact, right_tool)
    assert (found.shared_fields, found.wanted_fields, found.given_fields) == fields


def test_several_tool_calls_are_right_only_all_together():
    two = json.dumps([json.loads(call(stars=4)), json.loads(call(stars=5))])
    assert judged_as(TOOLS, BOOK, two, two).exact
    assert not judged_as(TOOLS, BOOK, two, call(stars=4)).exact


def test_free_text_is_right_word_for_word():
    text = TemplateEntry()
    assert judged_as(text, Shape(), "The end.", " The end.\n").exact
    assert not judged_as(text, Shape(), "The end.", "An end.").exact


def test_figures_of_a_candidate_are_shares_means_and_quantiles():
    judged = [judged_as(TOOLS, BOOK, call(stars=n), call(stars=min(n, 7))) for n in range(10)]
    answers = [Answered(Completion("x", usage=Usage(10, 5)), float(n) if n < 4 else None) for n in range(10)]
    found = scores("s", judged, answers, Prices(input_usd_per_mtok=1, output_usd_per_mtok=2))
    assert (found.exact.hits, found.exact.of, found.field_f1) == (8, 10, 0.8)
    assert found.right_tool is not None and found.right_tool.share == 1
    assert (found.latency_p50_ms, found.latency_p95_ms) == (1.0, 3.0)
    assert found.cost_usd == pytest.approx(20e-6)
    assert scores("s", judged, answers, None).cost_usd is None


def test_the_recorded_route_is_right_but_where_somebody_corrected_it():
    rows = [example("x", latency_ms=100.0 * n, cost_usd=0.5, answer_source="verified") for n in range(1, 5)]
    rows.append(example("x", latency_ms=900.0, cost_usd=1.0, answer_source="correction"))
    found = recorded_scores("large", rows, lambda row: row.cost_usd)
    assert (found.exact.hits, found.exact.of) == (4, 5)
    assert (found.latency_p50_ms, found.cost_usd) == (300.0, pytest.approx(0.6))


def test_wilsons_interval_has_its_published_values():
    found = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20).low == 0 and round(wilson(0, 20).high, 4) == 0.1611
    assert (wilson(0, 0).share, wilson(0, 0).low, wilson(0, 0).high) == (None, 0.0, 1.0)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_share_lies_in_its_interval_and_the_interval_in_0_to_1(hits, rest):
    found = wilson(hits, hits + rest)
    assert 0 <= found.low <= (found.share or 0) <= found.high <= 1


def test_a_threshold_believes_the_sure_answers_and_keeps_the_risk_under_alpha():
    judged = [plain(n >= 60, -3.0 + n / 100, n) for n in range(300)]
    found = threshold_of(judged, alpha=0.05, delta=0.1)
    assert found.threshold is not None and -3 < found.threshold <= -2.4
    assert found.risk <= found.risk_upper <= 0.05
    assert found.coverage >= 0.8 and found.auroc == 1.0
    assert [step["share_right"] for step in found.curve] == [0, 1, 1, 1, 1]
    assert sum(step["count"] for step in found.curve) == 300


def test_answers_that_are_right_but_malformed_count_as_wrong_for_the_threshold():
    broken = [structs.replace(plain(True, -0.1, n), well_formed=False) for n in range(300)]
    assert threshold_of(broken, 0.05, 0.1).threshold is None


def test_too_few_examples_justify_no_threshold():
    assert threshold_of([plain(True, -0.1, n) for n in range(20)], 0.05, 0.1).threshold is None


def test_auroc_counts_pairs_and_says_nothing_of_one_kind_alone():
    assert auroc([plain(True, -1.0), plain(False, -2.0), plain(False, -1.0)]) == 0.75
    assert auroc([plain(True, -1.0)]) is None
    assert math.isclose(auroc([plain(True, -2.0), plain(False, -1.0)]) or 0.0, 0.0)


def test_the_table_has_a_line_for_each_with_intervals():
    judged = [judged_as(JSON, INTENT, '{"intent":"balance"}', '{"intent":"balance"}')]
    found = scores("specialist", judged, [Answered(Completion("x"), 5.0)], None)
    lines = table([found]).splitlines()
    assert len(lines) == 3 and "| specialist | 100.0% [20.7%, 100.0%] of 1 |" in lines[2]
