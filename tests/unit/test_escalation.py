from hypothesis import given
from hypothesis import strategies as st

from policies.escalation import Limits, Outcome, Step, escalate, steps_of
from policies.plan import Estimate, Plan, TaskFeatures, Terms

SMALL = Step("small", 0.001, 0.002, 100)
MIDDLE = Step("middle", 0.005, 0.01, 300)
FRONTIER = Step("frontier", 0.05, 0.1, 1000, last_resort=True)
AMPLE = Limits(budget_ms=10_000, budget_usd=1.0)


def drive(chain, limits, outcomes):
    """Carry the chain out with outcomes by candidate; return (attempts, conclusion)."""
    steps, attempts = escalate(chain, limits), []
    try:
        attempt = next(steps)
        while True:
            attempts.append(attempt)
            attempt = steps.send(outcomes[attempt.candidate])
    except StopIteration as stop:
        return attempts, stop.value


GOOD = Outcome("verified", cost_usd=0.001, latency_ms=100)


def test_a_believed_answer_ends_the_call():
    attempts, end = drive([SMALL, FRONTIER], AMPLE, {"small": GOOD})
    assert [a.candidate for a in attempts] == ["small"]
    assert (end.status, end.served_index, end.escalated) == ("verified", 0, False)
    assert (end.spent_usd, end.spent_ms, end.reason) == (0.001, 100, "")


def test_a_failed_check_goes_on_and_says_why():
    bad = Outcome("malformed", "it is not JSON", 0.001, 100)
    attempts, end = drive([SMALL, FRONTIER], AMPLE, {"small": bad, "frontier": GOOD})
    assert [a.index for a in attempts] == [0, 1]
    assert attempts[1].reason == "small was malformed (it is not JSON)"
    assert attempts[1].budget_usd == 0.999
    assert attempts[1].budget_ms == 9_900
    assert (end.status, end.served_index, end.escalated) == ("verified", 1, True)
    assert end.reason == "small was malformed (it is not JSON)"


def test_a_step_that_the_money_left_cannot_pay_is_skipped():
    limits = Limits(10_000, 0.05)
    attempts, end = drive([SMALL, FRONTIER], limits, {"small": Outcome("unsure", "", 0.002, 100)})
    assert len(attempts) == 1
    assert (end.status, end.served_index) == ("failed", None)
    assert end.skipped == (("frontier", "it may cost up to $0.10, and $0.048 is left"),)
    assert "frontier was skipped" in end.reason


def test_a_step_that_the_time_left_does_not_allow_is_skipped_and_a_faster_one_tried():
    limits = Limits(1_000, 1.0)
    outcomes = {"small": Outcome("timed_out", "no first token", 0.0, 600), "middle": GOOD}
    slow = Step("slow", 0.001, 0.002, 900)
    attempts, end = drive([SMALL, slow, MIDDLE], limits, outcomes)
    assert [a.candidate for a in attempts] == ["small", "middle"]
    assert end.status == "verified"
    assert end.skipped == (("slow", "it is expected to take 900 ms, and 400 ms are left"),)


def test_the_first_attempt_leaves_the_last_step_its_time():
    attempts, _ = drive([SMALL, MIDDLE, FRONTIER], Limits(2_000, 1.0), {"small": GOOD})
    assert attempts[0].budget_ms == 1_000
    attempts, _ = drive([SMALL, FRONTIER], Limits(1_050, 1.0), {"small": GOOD})
    assert attempts[0].budget_ms == 1_050, "too little to share"


def test_the_last_resorts_answer_is_given_unverified():
    outcomes = {"small": Outcome("unsure"), "frontier": Outcome("malformed", "x")}
    _, end = drive([SMALL, FRONTIER], AMPLE, outcomes)
    assert (end.status, end.served_index) == ("unverified", 1)
    _, strict = drive([SMALL, FRONTIER], Limits(10_000, 1.0, serve_unverified=False), outcomes)
    assert (strict.status, strict.served_index) == ("failed", None)


def test_a_specialists_disbelieved_answer_is_never_given():
    outcomes = {"small": Outcome("unsure"), "frontier": Outcome("failed", "connection refused")}
    _, end = drive([SMALL, FRONTIER], AMPLE, outcomes)
    assert (end.status, end.served_index) == ("failed", None)
    assert "small was not believed" in end.reason
    assert "frontier was out of order (connection refused)" in end.reason


def test_a_slow_model_is_still_asked_when_it_is_the_first():
    attempts, end = drive([Step("named", 0.1, 0.1, 99_999, last_resort=True)], AMPLE, {"named": GOOD})
    assert len(attempts) == 1 and end.status == "verified"


def test_nothing_is_asked_without_money():
    attempts, end = drive([SMALL], Limits(1000, 0.0), {})
    assert attempts == [] and end.status == "failed" and end.skipped


def test_steps_come_from_the_plans_estimates():
    made = Plan(
        primary_model="a",
        escalation_chain=("b",),
        justification="",
        expected_cost_range=(0, 0),
        expected_cost_usd=0,
        expected_latency_p95_ms=0,
        estimates=(Estimate("b", 1, 1, 2.0, 3.0, 20, 40), Estimate("a", 1, 1, 0.2, 0.3, 2, 4)),
        rejections=(),
        terms=Terms("t", 1, 1, "C", 0.5),
        cluster_id="unknown",
        features=TaskFeatures("", 1, 1),
    )
    assert steps_of(made, "b") == (Step("a", 0.2, 0.3, 2), Step("b", 2.0, 3.0, 20, last_resort=True))
    assert steps_of(made, "b", named=True)[0].last_resort


KINDS = st.sampled_from(["verified", "malformed", "unsure", "failed", "timed_out"])
STEPS = st.builds(
    Step,
    candidate=st.uuids().map(str),
    expected_cost_usd=st.just(0.0),
    max_cost_usd=st.floats(0, 1),
    expected_latency_ms=st.floats(0, 1000),
    last_resort=st.booleans(),
)


@given(
    st.lists(st.tuples(STEPS, KINDS, st.floats(0, 1), st.floats(0, 1000)), max_size=5),
    st.floats(0, 2),
    st.floats(0, 2000),
)
def test_the_money_is_never_overspent_and_every_step_is_accounted_for(course, usd, ms):
    chain = [step for step, *_ in course]
    outcomes = {s.candidate: Outcome(kind, "", share * s.max_cost_usd, took) for s, kind, share, took in course}
    attempts, end = drive(chain, Limits(ms, usd), outcomes)
    assert end.spent_usd <= usd + 1e-9
    assert all(a.budget_ms > 0 for a in attempts)
    if end.status == "verified":
        assert outcomes[attempts[-1].candidate].kind == "verified" and end.served_index == len(attempts) - 1
    else:
        assert len(attempts) + len(end.skipped) == len(chain)
        assert not any(outcomes[a.candidate].kind == "verified" for a in attempts)
    if end.status == "unverified":
        assert next(s for s in chain if s.candidate == attempts[end.served_index].candidate).last_resort
