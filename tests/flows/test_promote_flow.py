"""Specialists on their way up, judged on the record: proven ones move, poor ones go back, the rest wait."""

import random
from pathlib import Path

import pytest

from observations.records import AttemptRecord, CallRecord, ShadowRecord
from observations.state import StatePaths
from pipelines.promote import look_at_all
from policies.promotion import Gates, PromotionPolicy, Step
from registry.errors import NotFoundError
from registry.registrar import Note, Registrar
from tests.flows.recorded_state import record
from tests.unit.made_specialists import make_folder, manifest

ANN = Note("ann", "to be proven")
POLICY = PromotionPolicy(gates=Gates(escalations=0.4))
SOON = 4_000_000_000_000


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").create()


def shadow(state: StatePaths, name: str) -> str:
    """A specialist that was registered and moved to shadow."""
    registrar = Registrar(state.root)
    values = name.encode().ljust(16, b"\x01")[:16]
    made = registrar.register(make_folder(state.root.parent / name, values), manifest(name), ANN)
    registrar.promote(made, ANN)
    return made


def shadows(specialist: str, calls: int, wrong: float, malformed: float = 0.0):
    rng = random.Random(7)
    for number in range(calls):
        escalated = rng.random() < 0.2
        outcome = "malformed" if rng.random() < malformed else "unsure" if escalated else "verified"
        yield ShadowRecord(
            id=f"call_{number}:{specialist}",
            at_ms=SOON + number,
            call_id=f"call_{number}",
            specialist=specialist,
            outcome=outcome,
            agrees=False if outcome == "malformed" else rng.random() >= wrong,
            cost_usd=0.00002,
            latency_ms=60.0,
            reference="big",
            reference_verified=True,
            reference_cost_usd=0.001,
            reference_latency_ms=400.0,
        )


def test_a_good_shadow_becomes_a_canary_with_a_signed_entry(state: StatePaths) -> None:
    good = shadow(state, "good")
    record(state, shadows(good, 900, wrong=0.01))
    (look,) = look_at_all(state, POLICY)
    assert look.decision.verdict == "promote" and look.moved_to == "canary 1%", look.decision.reasons
    history = Registrar(state.root).history()
    assert (history.stages[good].stage, history.stages[good].place.share) == ("canary", 0.01)
    assert history.entries[-1].entry.actor == "journeyman flywheel" and len(history.entries[-1].entry.evidence) == 64
    (again,) = look_at_all(state, POLICY)
    assert again.decision.verdict == "wait" and again.trial.calls == 0, "the next step counts anew"


def test_a_poor_one_goes_back_and_a_young_one_waits(state: StatePaths) -> None:
    poor, young = shadow(state, "poor"), shadow(state, "young")
    record(state, [*shadows(poor, 600, wrong=0.3), *shadows(young, 40, wrong=0.0)])
    looks = {look.specialist: look for look in look_at_all(state, POLICY)}
    assert looks[poor].decision.verdict == "reject" and looks[young].decision.verdict == "wait"
    stages = Registrar(state.root).history().stages
    assert (stages[poor].stage, stages[young].stage) == ("candidate", "shadow")
    assert "40 of at least 300 calls" in looks[young].decision.reasons[0]


def test_a_look_that_may_not_move_moves_nothing_and_ask_waits_for_a_person(state: StatePaths) -> None:
    good = shadow(state, "good")
    record(state, shadows(good, 900, wrong=0.01))
    (look,) = look_at_all(state, POLICY, move=False)
    assert look.decision.verdict == "promote" and look.moved_to == ""
    steps = (Step(stage="shadow", prove="all", mode="ask"), *POLICY.steps[1:])
    (asked,) = look_at_all(state, PromotionPolicy(gates=POLICY.gates, steps=steps))
    assert asked.moved_to == "" and f"registry promote {good} --to canary --share 0.01" in asked.waits_for
    assert Registrar(state.root).history().stages[good].stage == "shadow"


def test_a_canary_is_judged_on_its_live_calls(state: StatePaths) -> None:
    good = shadow(state, "good")
    Registrar(state.root).promote(good, ANN)
    attempt = AttemptRecord(candidate=good, backend="engine", outcome="verified")
    calls = [CallRecord(id=f"call_{n}", at_ms=SOON + n, attempts=(attempt,), served_by=good) for n in range(60)]
    record(state, [*calls, CallRecord(id="other", at_ms=SOON)])
    (look,) = look_at_all(state, POLICY)
    assert look.trial.calls == 60 and look.moved_to == "canary 10%"


def test_without_anybody_on_the_way_there_is_nothing_to_look_at(state: StatePaths) -> None:
    assert look_at_all(state, POLICY) == []
    with pytest.raises(NotFoundError, match="No specialist nobody is in shadow or canary"):
        look_at_all(state, POLICY, only="nobody")


def test_a_damaged_one_is_passed_over_by_name_and_the_others_move(state: StatePaths) -> None:
    broken, good = shadow(state, "broken"), shadow(state, "good")
    record(state, [*shadows(broken, 900, wrong=0.01), *shadows(good, 900, wrong=0.01)])
    weights = next(path for path in (state.root / "artifacts").rglob("*.safetensors") if b"broken" in path.read_bytes())
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    looks = {look.specialist: look for look in look_at_all(state, POLICY)}
    assert looks[good].moved_to == "canary 1%"
    assert looks[broken].decision.verdict == "wait" and "Passed over" in looks[broken].decision.reasons[0]
    assert Registrar(state.root).history().stages[broken].stage == "shadow"
