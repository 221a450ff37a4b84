"""Moving up: every gate proven, wrong promotions rare, failures named, steps in order, states survive restarts."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from policies.promotion import (
    GATES,
    Gates,
    Move,
    PromotionPolicy,
    ShadowOutcome,
    Step,
    TrialState,
    decide,
)
from registry.errors import BadInputError, ConfigError
from registry.stages import may_move
from registry.strict_yaml import load_strict

POLICY = PromotionPolicy()
SHIPPED = Path(__file__).resolve().parents[2] / "policies" / "promotion.yaml"
# Rates of a specialist that meets every gate with room to spare.
GOOD = {"well_formed": 1.0, "right": 0.97, "frontier": 0.95, "slow": 0.4, "cost": 0.1, "escalated": 0.01, "wrong": 0.01}


def outcome(rng, call=0, **rates):
    world = GOOD | rates
    escalated = bool(rng.random() < world["escalated"])
    reference_ms, reference_usd = rng.lognormal(6.0, 0.4), rng.lognormal(-7.0, 0.5)
    return ShadowOutcome(
        call_id=f"c{call}",
        well_formed=bool(rng.random() < world["well_formed"]),
        success=bool(rng.random() < world["right"]),
        reference_success=bool(rng.random() < world["frontier"]),
        latency_ms=reference_ms * (world["slow"] * rng.lognormal(0.0, 0.2) + escalated),
        reference_latency_ms=reference_ms,
        cost_usd=reference_usd * (world["cost"] + escalated),
        reference_cost_usd=reference_usd,
        escalated=escalated,
        accepted_wrong=not escalated and bool(rng.random() < world["wrong"]),
    )


def trial(calls, seed=0, stage="shadow", share=0.0, **rates):
    rng = np.random.default_rng(seed)
    state = TrialState(specialist="intents@0123456789ab", stage=stage, share=share)
    for call in range(calls):
        state.observe(outcome(rng, call, **rates))
    return state


def gate(decision, name):
    return next(result for result in decision.gates if result.name == name)


def test_a_good_specialist_is_promoted_to_the_first_canary_step():
    decision = decide(trial(600), POLICY)
    assert decision.verdict == "promote", decision.reasons
    assert decision.move == Move("canary", 0.01, "auto")
    assert {result.verdict for result in decision.gates} == {"pass"}
    assert decision.calls_more == 0 and "Proven at level 0.05" in decision.reasons[0]


def test_it_waits_for_the_least_calls_even_when_everything_is_proven():
    policy = PromotionPolicy(gates=Gates(well_formed=0.5, escalations=0.5, accepted_wrong=0.5, success_parity=0.5))
    state = trial(120)
    decision = decide(state, policy)
    assert {result.verdict for result in decision.gates} == {"pass"}
    assert (decision.verdict, decision.move, decision.calls_more) == ("wait", None, 180)
    assert decision.reasons == ("120 of at least 300 calls seen.",)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("well_formed", {"well_formed": 0.80}),
        ("success_parity", {"right": 0.60}),
        ("latency_increase", {"slow": 1.8}),
        ("cost_saving", {"cost": 1.1}),
        ("escalations", {"escalated": 0.3}),
        ("accepted_wrong", {"wrong": 0.25}),
    ],
)
def test_one_gate_that_clearly_fails_turns_a_specialist_away_and_is_named(name, rates):
    decision = decide(trial(400, **rates), POLICY)
    assert decision.verdict == "reject"
    assert decision.reasons[0].startswith(f"{name} has failed")
    assert gate(decision, name).verdict == "fail"
    assert [r.verdict for r in decision.gates if r.name not in (name, "cost_saving", "latency_increase")].count(
        "fail"
    ) == 0
    assert decision.move == Move("candidate", 0.0, "auto")


@pytest.mark.parametrize("name", list(GATES))
def test_a_verdict_is_what_the_limits_say(name):
    for calls, rates in ((40, {}), (700, {}), (400, {"well_formed": 0.8, "right": 0.5, "slow": 2, "wrong": 0.3})):
        result = gate(decide(trial(calls, **rates), POLICY), name)
        proven = result.lower >= result.bound if result.at_least else result.upper <= result.bound
        refuted = result.upper < result.bound if result.at_least else result.lower > result.bound
        assert result.verdict == ("pass" if proven else "fail" if refuted else "undecided")
        assert result.lower <= result.value <= result.upper
        assert (result.evidence >= 1 / POLICY.alpha) == (result.verdict == "pass")


def test_one_safety_incident_is_enough():
    state = trial(600)
    state.observe(msgspec.structs.replace(outcome(np.random.default_rng(1)), safety_incident=True))
    decision = decide(state, POLICY)
    assert decision.verdict == "reject" and "safety incident" in decision.reasons[0]


def test_a_gate_that_is_off_is_not_asked():
    policy = PromotionPolicy(gates=Gates(escalations="off", latency_increase="off"))
    decision = decide(trial(700, escalated=0.3), policy)
    assert decision.verdict == "promote", decision.reasons
    assert {result.name for result in decision.gates} == set(GATES) - {"escalations", "latency_increase"}


def test_a_half_confident_specialist_needs_only_another_bound_for_escalations():
    half = trial(1_500, escalated=0.5)
    assert decide(half, POLICY).reasons[0].startswith("escalations has failed")
    assert decide(half, PromotionPolicy(gates=Gates(escalations=0.6))).verdict == "promote"


def test_an_open_gate_says_how_many_calls_it_still_needs_and_keeps_its_word():
    state = trial(310, seed=5, well_formed=0.994)
    decision = decide(state, POLICY)
    assert decision.verdict == "wait" and decision.calls_more is not None and decision.calls_more > 0
    later = TrialState(specialist="s", calls=310 + decision.calls_more)
    times = later.calls / 310
    later.well_formed.n, later.well_formed.ones = later.calls, math.floor(state.well_formed.ones * times)
    assert gate(decide(later, POLICY), "well_formed").evidence > 0.5 / POLICY.alpha


def test_without_judgements_it_waits_and_says_so():
    state = TrialState(specialist="s")
    for call in range(400):
        state.observe(ShadowOutcome(call_id=str(call), well_formed=True, escalated=False))
    decision = decide(state, POLICY)
    assert decision.verdict == "wait" and decision.calls_more is None
    assert "success_parity: no call bears on it yet." in decision.reasons
    assert gate(decision, "success_parity").value is None


def test_wrong_promotions_are_rare_with_a_look_at_every_call():
    """A specialist that is just below the bound for well-formed answers and fine otherwise."""
    policy = PromotionPolicy(gates=Gates(cost_saving="off", latency_increase="off", success_parity="off"))
    promoted = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        state = TrialState(specialist="s")
        bad = np.flatnonzero(rng.random(700) >= 0.98)
        # Between two malformed answers the evidence only grows: looking just before each sees every peak.
        for call in range(700):
            state.observe(ShadowOutcome(call_id="", well_formed=call not in bad, escalated=False, accepted_wrong=False))
            if call >= 299 and (call + 1 in bad or call == 699) and decide(state, policy).verdict == "promote":
                promoted += 1
                break
    assert promoted / 150 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def test_the_steps_lead_from_shadow_to_active_by_moves_that_the_table_of_stages_has():
    trail = [("shadow", 0.0)]
    while trail[-1][0] != "active":
        stage, share = trail[-1]
        move = decide(trial(900, stage=stage, share=share), POLICY).move
        assert move is not None
        assert move.stage == stage or may_move(stage, move.stage)
        trail.append((move.stage, move.share))
    assert trail == [("shadow", 0), ("canary", 0.01), ("canary", 0.1), ("canary", 0.5), ("canary", 1.0), ("active", 1)]


def test_a_canary_that_fails_goes_back_to_the_shadow():
    decision = decide(trial(300, stage="canary", share=0.1, well_formed=0.85), POLICY)
    assert (decision.verdict, decision.move) == ("reject", Move("shadow", 0.0, "auto"))


def test_a_step_may_ask_first():
    steps = (Step(stage="shadow", prove="all", mode="ask"), Step(stage="canary", share=0.2))
    assert decide(trial(600), PromotionPolicy(steps=steps)).move == Move("canary", 0.2, "ask")


def test_a_trial_of_a_step_that_the_policy_does_not_have_is_refused():
    with pytest.raises(BadInputError, match=r"No step `canary 30%`.*canary 1%"):
        decide(trial(5, stage="canary", share=0.3), POLICY)


def test_a_state_survives_json_and_goes_on_as_if_nothing_had_happened():
    whole, halves = trial(200), trial(100)
    halves = TrialState.from_exported(json.loads(json.dumps(halves.exported())))
    rng = np.random.default_rng(0)
    outcomes = [outcome(rng, call) for call in range(200)]
    for item in outcomes[100:]:
        halves.observe(item)
    assert halves == whole
    assert decide(halves, POLICY) == decide(whole, POLICY)
    assert len(json.dumps(halves.exported())) < 9_000


@pytest.mark.parametrize(
    "edit",
    [
        {"calls": -1},
        {"calls": 3},
        {"well_formed": {"n": 10, "ones": 11}},
        {"latency": {"clip": 50.0}},
        {"version": 2},
        {"more": 1},
    ],
)
def test_a_state_that_cannot_be_is_refused(edit):
    exported = trial(20).exported()
    for key, value in edit.items():
        exported[key] = exported.get(key, {}) | value if isinstance(value, dict) else value
    with pytest.raises(BadInputError, match="trial"):
        TrialState.from_exported(exported)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ms": math.nan},
        {"cost_usd": -0.1},
        {"reference_latency_ms": math.inf},
        {"escalated": True, "accepted_wrong": True},
    ],
)
def test_an_outcome_that_cannot_be_is_refused_and_leaves_no_trace(wrong):
    state = trial(10)
    before = state.exported()
    with pytest.raises(BadInputError, match="Call c0"):
        state.observe(msgspec.structs.replace(outcome(np.random.default_rng(0)), **wrong))
    assert state.exported() == before


def test_fixed_and_broken_calls_and_savings_are_counted():
    state = TrialState(specialist="s")
    for right, reference in ((True, False), (False, True), (False, True), (True, True)):
        state.observe(
            ShadowOutcome(
                call_id="",
                well_formed=True,
                success=right,
                reference_success=reference,
                cost_usd=1,
                reference_cost_usd=4,
            )
        )
    assert (state.fixed, state.broken, state.saved_usd) == (1, 2, 12.0)
    assert state.success_parity.value == pytest.approx(2 / 3)


def test_the_shipped_file_is_the_defaults():
    assert load_strict(SHIPPED.read_text(), PromotionPolicy, "promotion.yaml") == POLICY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: {escalation: off}", "did you mean escalations"),
        ("gates: {well_formed: 98}", r"well_formed"),
        ("alpha: 0", "alpha"),
        ("steps: []", "must begin"),
        ("steps: [{stage: canary, share: 0.1}]", "nothing serves callers unproven"),
        ("steps: [{stage: shadow, prove: []}]", "proves no gate"),
        ("steps: [{stage: shadow, prove: [escalations]}]\ngates: {escalations: off}", "proves no gate"),
        ("steps: [{stage: shadow, prove: all}, {stage: canary, share: 0.5}, {stage: canary, share: 0.1}]", "rise"),
        ("steps: [{stage: shadow, prove: [well_form]}]", "did you mean well_formed"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_place(text, message):
    with pytest.raises(ConfigError, match=message):
        load_strict(text, PromotionPolicy, "promotion.yaml")
