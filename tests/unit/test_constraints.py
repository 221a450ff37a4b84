import pytest
from msgspec import structs

from policies.constraints import Question, dollars, estimate, luck_of, reject
from policies.plan import Candidate, TaskFeatures, Terms
from policies.terms import PlannerPolicy
from registry.entries import Prices

FEATURES = TaskFeatures("f" * 64, prompt_tokens=1000, max_tokens=200, variable_tokens=50, expected_output_tokens=100)
TERMS = Terms("standard", latency_budget_ms=10_000, max_cost_usd=0.01, safety_grade="C", quality_sla=0.8)
QUESTION = Question(FEATURES, "bank", TERMS, PlannerPolicy())
FIT = Candidate(
    name="s@0123456789ab",
    kind="specialist",
    backend="local",
    stage="active",
    safety_grade="C",
    context_len=4096,
    prices=Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0),
    clusters=("bank",),
    tools=True,
    response_formats=True,
    first_token_ms=100,
    tokens_per_s=50,
    quality=0.95,
)


def changed(**fields):
    return structs.replace(FIT, **fields)


def test_one_that_fits_is_not_rejected():
    assert reject(FIT, QUESTION) is None


@pytest.mark.parametrize(
    ("candidate", "question", "code", "said"),
    [
        (changed(stage="shadow"), {}, "stage", "its stage is shadow"),
        (changed(healthy=False, health_reason="its breaker is open"), {}, "health", "its breaker is open"),
        (changed(healthy=False), {}, "health", "backend local"),
        (changed(clusters=("a", "b", "c", "d")), {}, "cluster", "a, b, c and 1 more"),
        (changed(safety_grade="D"), {}, "safety", "grade is D, and C or better"),
        (changed(uses_template=True, template_signature="e" * 64), {}, "template", "eeeeeeeeeeee"),
        (changed(uses_template=True), {"turns": 3}, "template", "3 messages"),
        (changed(tools=False), {"needs_tools": True}, "tools", "offers tools"),
        (changed(response_formats=False), {"needs_json": True}, "response_format", "accepts none"),
        (changed(context_len=1199), {}, "context", "1199 tokens, and the call needs 1000 + 200"),
        (changed(formatting_error_rate=0.06, formatting_calls=50), {}, "formatting", "6.0% of its last 50"),
        (changed(prices=Prices(output_usd_per_mtok=51.0)), {}, "cost", "up to $0.010"),
        (changed(tokens_per_s=20), {}, "latency", "p95 latency is 10,200 ms, and the budget is 10,000 ms"),
    ],
)
def test_each_constraint_rejects_with_its_numbers(candidate, question, code, said):
    asked = structs.replace(QUESTION, features=structs.replace(FEATURES, **question))
    rejection = reject(candidate, asked)
    assert rejection is not None
    assert (rejection.code, rejection.candidate) == (code, candidate.name)
    assert said in rejection.reason


def test_the_edges_belong_to_the_allowed():
    assert reject(changed(context_len=1200), QUESTION) is None
    assert reject(changed(formatting_error_rate=0.05, formatting_calls=500), QUESTION) is None
    assert reject(changed(formatting_error_rate=1.0, formatting_calls=49), QUESTION) is None


def test_a_template_sends_only_what_varies():
    slim = changed(uses_template=True, template_signature=FEATURES.signature, context_len=250)
    assert reject(slim, QUESTION) is None
    assert estimate(slim, FEATURES, QUESTION.policy).cost_usd == pytest.approx((50 * 1 + 100 * 2) / 1e6)
    assert estimate(FIT, FEATURES, QUESTION.policy).cost_usd == pytest.approx((1000 * 1 + 100 * 2) / 1e6)


def test_the_most_a_call_can_cost_uses_every_token_and_the_margin():
    assert estimate(FIT, FEATURES, QUESTION.policy).max_cost_usd == pytest.approx((1200 * 1 + 200 * 2) / 1e6)


def test_the_frontier_is_not_held_to_its_formatting_nor_models_to_stages():
    bad = changed(kind="model", is_frontier=True, stage="shadow", formatting_error_rate=0.9, formatting_calls=99)
    assert reject(bad, QUESTION) is None


def test_a_named_model_may_be_slow_and_unsuited_but_not_unsafe_or_dear():
    assert reject(changed(clusters=("other",), tokens_per_s=1), QUESTION, named=True) is None
    dear = reject(changed(clusters=("other",), prices=Prices(output_usd_per_mtok=99)), QUESTION, named=True)
    assert dear is not None and dear.code == "cost"


def test_the_first_reason_is_the_most_general_one():
    bad = changed(stage="shadow", healthy=False, safety_grade="D", tokens_per_s=1)
    assert reject(bad, QUESTION).code == "stage"


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "$0.00"),
        (3.4, "$3.40"),
        (0.12, "$0.12"),
        (0.0012, "$0.0012"),
        (2.1e-6, "$0.0000021"),
        (1e-15, "$0.000000000000"),
    ],
)
def test_amounts_are_readable(amount, said):
    assert dollars(amount) == said


def answered_by_canary(share, calls=4000):
    candidate = changed(stage="canary", share=share)
    asked = [structs.replace(QUESTION, call_id=f"chatcmpl-{number}") for number in range(calls)]
    return {question.call_id for question in asked if reject(candidate, question) is None}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_canary_answers_its_share_of_calls(share):
    drawn = len(answered_by_canary(share)) / 4000
    assert abs(drawn - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_canary_s_calls_are_the_same_each_time_and_stay_its_own_as_its_share_grows():
    one, ten, half = (answered_by_canary(share) for share in (0.01, 0.1, 0.5))
    assert one == answered_by_canary(0.01)
    assert one < ten < half
    assert len(answered_by_canary(1.0)) == 4000 and not answered_by_canary(0.0)


def test_canaries_are_drawn_independently_of_each_other():
    drawn = [number for number in range(4000) if luck_of("a@" + "0" * 12, f"chatcmpl-{number}") < 0.5]
    both = [number for number in drawn if luck_of("b@" + "0" * 12, f"chatcmpl-{number}") < 0.5]
    assert 0.42 < len(both) / len(drawn) < 0.58


def test_a_share_is_said_with_its_number_and_counts_only_for_a_canary_and_an_unnamed_call():
    asked = structs.replace(QUESTION, call_id="chatcmpl-1")
    rejection = reject(changed(stage="canary", share=0.0), asked)
    assert (rejection.code, rejection.reason) == (
        "share",
        "it is a canary for 0 % of calls, and this one is not among them",
    )
    assert reject(changed(stage="canary", share=0.0), asked, named=True) is None
    assert reject(changed(stage="active", share=0.0), asked) is None
    assert reject(changed(stage="canary", share=0.0), QUESTION) is None, "without a call's id there is nothing to draw"
