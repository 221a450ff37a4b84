"""Whether a specialist moves up: the gates of promotion.yaml, proven by evidence that may be looked at at any time.

A step is taken when EVERY gate that it must prove is proven at level `alpha`. The promotion is wrong if any gate does
not hold; that gate was then proven wrongly, which happens with probability at most alpha over the whole trial, however
often somebody looks: an intersection-union test (Berger 1982, Technometrics 24(4)), so the gates need no correction.
A gate has failed when its confidence sequence lies on the wrong side of the bound. Any of them can stop a trial, so
there alpha is split among the gates: a specialist that meets them all is turned away with probability at most alpha.

What each gate says:
  well_formed       share of the specialist's own answers that can be parsed and fit their schema
  success_parity    rights of the chain (specialist, or frontier after an escalation) per right of the reference on the
                    same calls: 0.95 proves E[right] >= 0.95 E[reference right], the two judged by the same checks
  latency_increase  total time of the chain over the reference's, less 1; both cut, see `sequential.Amounts`
  cost_saving       1 less total cost of the chain over the frontier's; both cut likewise
  escalations       share of calls whose answer was not believed
  accepted_wrong    share of all calls whose answer was believed and wrong

Knows neither clock nor files nor who carries the move out.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from registry.errors import BadInputError
from registry.stages import Stage

from .demotion import DemotionPolicy
from .promotion_trial import GateName, ShadowOutcome, TrialState
from .sequential import Evidence, Side, calls_until, log_evidence, lower_limit, upper_limit

__all__ = [
    "GATES",
    "GateResult",
    "Gates",
    "Move",
    "PromotionDecision",
    "PromotionPolicy",
    "ShadowOutcome",
    "Step",
    "TrialState",
    "decide",
]

Verdict = Literal["promote", "wait", "reject"]
GateVerdict = Literal["pass", "undecided", "fail"]
Mode = Literal["auto", "ask"]
Off = Literal["off"]
Proper = Annotated[float, Meta(gt=0, lt=1)]

MOST_EVIDENCE: Final = 1e12


class Gates(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`gates:` of promotion.yaml: a bound each, or `off`."""

    well_formed: Proper | Off = 0.98
    success_parity: Proper | Off = 0.95
    latency_increase: Annotated[float, Meta(gt=-1, lt=2)] | Off = 0.10
    cost_saving: Proper | Off = 0.30
    escalations: Proper | Off = 0.05
    accepted_wrong: Proper | Off = 0.05

    def bound(self, gate: GateName) -> float | None:
        """Return a gate's bound; None when it is off."""
        value: float | Off = getattr(self, gate)
        return None if value == "off" else value


class Kind(Struct, frozen=True):
    """How a gate's shown quantity comes from the tested one: shown = offset + sign * tested."""

    least: bool
    """The quantity shown must be at least the bound; else at most."""
    offset: float = 0.0
    sign: Literal[1, -1] = 1

    @property
    def proof(self) -> Side:
        """The side of the tested bound on which the gate holds."""
        return "above" if self.least == (self.sign == 1) else "below"

    def shown(self, tested: float) -> float:
        """Return the quantity as people know it."""
        return self.offset + self.sign * tested

    def tested(self, shown: float) -> float:
        """Return the bound as it is tested."""
        return (shown - self.offset) * self.sign


GATES: Final[dict[GateName, Kind]] = {
    "well_formed": Kind(least=True),
    "success_parity": Kind(least=True),
    "latency_increase": Kind(least=False, offset=-1.0),
    "cost_saving": Kind(least=True, offset=1.0, sign=-1),
    "escalations": Kind(least=False),
    "accepted_wrong": Kind(least=False),
}


class Step(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step of the way up: what it takes to leave this stage for the next step's."""

    stage: Literal["shadow", "canary"]
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Of the clusters' traffic that the specialist answers in this step."""
    min_calls: Annotated[int, Meta(ge=1)] = 300
    """Never left sooner, whatever the evidence."""
    prove: Literal["all"] | tuple[GateName, ...] = ()
    """Gates that must be proven; the others must not have failed."""
    mode: Mode = "auto"
    """auto: the move is made; ask: it waits for a person."""


STEPS: Final = (
    Step(stage="shadow", min_calls=300, prove="all"),
    Step(stage="canary", share=0.01, min_calls=50),
    Step(stage="canary", share=0.1, min_calls=100),
    Step(stage="canary", share=0.5, min_calls=300),
    Step(stage="canary", share=1.0, min_calls=300, prove=("well_formed",)),
)


class PromotionPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of promotion.yaml."""

    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    """Most probability of a wrong promotion out of a step that proves its gates."""
    gates: Gates = field(default_factory=Gates)
    steps: tuple[Step, ...] = STEPS
    """In order; after the last one the specialist is active."""
    demotion: DemotionPolicy = field(default_factory=DemotionPolicy)

    def __post_init__(self) -> None:
        """Raise ValueError, which strict loading turns into a finding, for steps that lead nowhere or prove nothing."""
        if not self.steps or self.steps[0].stage != "shadow":
            raise ValueError("`steps` must begin with one of stage shadow: nothing serves callers unproven")
        if not self.proven_in(self.steps[0]):
            raise ValueError("the step `shadow` proves no gate: name some in its `prove`, or `all`, and leave them on")
        shares = [step.share for step in self.steps[1:]]
        if any(step.stage == "shadow" for step in self.steps[1:]) or self.steps[0].share != 0.0:
            raise ValueError("only the first of `steps` is of stage shadow, and its share is 0")
        if shares != sorted(set(shares)) or 0.0 in shares:
            raise ValueError("the shares of the canary steps must rise, above 0")

    @property
    def gates_on(self) -> tuple[GateName, ...]:
        """The gates that are not switched off."""
        return tuple(gate for gate in GATES if self.gates.bound(gate) is not None)

    def proven_in(self, step: Step) -> tuple[GateName, ...]:
        """Return the gates that must be proven to leave a step."""
        return self.gates_on if step.prove == "all" else tuple(g for g in self.gates_on if g in step.prove)

    def step_of(self, state: TrialState) -> int:
        """Return the index of a trial's step. Raises BadInputError when the policy has none like it."""
        for index, step in enumerate(self.steps):
            if step.stage == state.stage and math.isclose(step.share, state.share, abs_tol=1e-9):
                return index
        known = ", ".join(f"{step.stage} {step.share:.0%}" for step in self.steps)
        raise BadInputError(f"No step `{state.stage} {state.share:.0%}` in promotion.yaml. It has: {known}.")


class GateResult(Struct, frozen=True, kw_only=True):
    """A gate, in the units of its bound."""

    name: GateName
    value: float | None
    """In the calls seen; None: none bears on it."""
    lower: float
    upper: float
    """Limits that hold at all times: the one towards the bound's wrong side (where the proof must clear it) with
    probability 1 - alpha, the other with 1 - alpha / gates."""
    bound: float
    at_least: bool
    """The quantity must be at least the bound; else at most."""
    n: int
    verdict: GateVerdict
    evidence: float
    """E-value for the gate: 1 / alpha proves it. At most 1e12 is shown."""
    required: bool
    """This step must prove it."""
    calls_more: int | None
    """Calls until it is proven if they go on as so far; None: never."""


class Move(Struct, frozen=True):
    """Where the specialist goes next."""

    stage: Stage
    share: float
    mode: Mode


class PromotionDecision(Struct, frozen=True, kw_only=True):
    """What a trial's evidence says now."""

    verdict: Verdict
    gates: tuple[GateResult, ...]
    reasons: tuple[str, ...]
    """In plain sentences, the decisive one first."""
    calls: int
    calls_more: int | None
    """Calls until promotion if they go on as so far; None: it would not come."""
    move: Move | None
    """For `promote`: where to. For `reject`: back. None: stay."""


def decide(state: TrialState, policy: PromotionPolicy) -> PromotionDecision:
    """Say whether a trial's specialist moves up, waits or is turned away. Raises BadInputError without such a step."""
    index = policy.step_of(state)
    step = policy.steps[index]
    required = policy.proven_in(step)
    gates = tuple(_judged(gate, state, policy, required=gate in required) for gate in policy.gates_on)
    stopped = _stops(state, gates)
    waiting = _waits(state, step, gates)
    verdict: Verdict = "reject" if stopped else "wait" if waiting else "promote"
    more = {"reject": None, "wait": _calls_more(state, step, gates), "promote": 0}
    back = Move("candidate" if step.stage == "shadow" else "shadow", 0.0, "auto")
    return PromotionDecision(
        verdict=verdict,
        gates=gates,
        reasons=stopped or waiting or (_proof(gates, policy),),
        calls=state.calls,
        calls_more=more[verdict],
        move={"reject": back, "wait": None, "promote": _next(policy, index)}[verdict],
    )


def _judged(gate: GateName, state: TrialState, policy: PromotionPolicy, *, required: bool) -> GateResult:
    kind, bound, evidence = GATES[gate], policy.gates.bound(gate), state.evidence(gate)
    assert bound is not None
    tested = kind.tested(bound)
    log_e = log_evidence(evidence, tested, kind.proof)
    lower, upper = _limits(evidence, kind, policy)
    verdict: GateVerdict = "undecided"
    if log_e >= -math.log(policy.alpha):
        verdict = "pass"
    elif upper < bound if kind.least else lower > bound:
        verdict = "fail"
    return GateResult(
        name=gate,
        value=None if evidence.value is None else kind.shown(evidence.value),
        lower=lower,
        upper=upper,
        bound=bound,
        at_least=kind.least,
        n=evidence.n,
        verdict=verdict,
        evidence=min(math.exp(min(log_e, 50.0)), MOST_EVIDENCE),
        required=required,
        calls_more=calls_until(evidence, tested, kind.proof, policy.alpha),
    )


def _limits(evidence: Evidence, kind: Kind, policy: PromotionPolicy) -> tuple[float, float]:
    """Limits of the quantity shown: alpha where the proof is, a gate's part of it where a failure would be."""
    apart = policy.alpha / len(policy.gates_on)
    above, below = (policy.alpha, apart) if kind.proof == "above" else (apart, policy.alpha)
    ends = (kind.shown(lower_limit(evidence, above)), kind.shown(upper_limit(evidence, below)))
    return min(ends), max(ends)


def _stops(state: TrialState, gates: tuple[GateResult, ...]) -> tuple[str, ...]:
    failed = [_failure(gate) for gate in gates if gate.verdict == "fail"]
    if state.safety_incidents:
        count = state.safety_incidents
        failed.insert(0, f"{count} safety incident{'s' if count > 1 else ''}: one is enough.")
    return tuple(failed)


def _waits(state: TrialState, step: Step, gates: tuple[GateResult, ...]) -> tuple[str, ...]:
    open_gates = tuple(_openness(gate) for gate in gates if gate.required and gate.verdict != "pass")
    if state.calls < step.min_calls:
        return (f"{state.calls} of at least {step.min_calls} calls seen.", *open_gates)
    return open_gates


def _calls_more(state: TrialState, step: Step, gates: tuple[GateResult, ...]) -> int | None:
    """Return the calls until the slowest gate is proven; a gate that only some calls bear on needs more of them."""
    most = max(0, step.min_calls - state.calls)
    for gate in gates:
        if gate.required and gate.verdict != "pass":
            if gate.calls_more is None:
                return None
            most = max(most, math.ceil(gate.calls_more * state.calls / gate.n))
    return most


def _next(policy: PromotionPolicy, index: int) -> Move:
    if index + 1 == len(policy.steps):
        return Move("active", 1.0, policy.steps[index].mode)
    return Move(policy.steps[index + 1].stage, policy.steps[index + 1].share, policy.steps[index].mode)


def _proof(gates: tuple[GateResult, ...], policy: PromotionPolicy) -> str:
    proven = [gate.name for gate in gates if gate.required]
    if not proven:
        return "Enough calls, and no gate has failed."
    rest = "" if len(proven) == len(gates) else ", and no other has failed"
    return f"Proven at level {policy.alpha:g}: {', '.join(proven)}{rest}."


def _failure(gate: GateResult) -> str:
    limit, where = (gate.upper, "at most") if gate.at_least else (gate.lower, "at least")
    return f"{gate.name} has failed: it is {where} {limit:.1%}, and {_wanted(gate)} is wanted (n = {gate.n})."


def _openness(gate: GateResult) -> str:
    if gate.value is None:
        return f"{gate.name}: no call bears on it yet."
    seen = f"{gate.name} is not proven: {gate.value:.1%} seen, {gate.lower:.1%} to {gate.upper:.1%}; {_wanted(gate)}"
    if gate.calls_more is None:
        return f"{seen} is wanted, and would never be proven as it goes."
    return f"{seen} is wanted, about {gate.calls_more} more calls as it goes."


def _wanted(gate: GateResult) -> str:
    return f"{'at least' if gate.at_least else 'at most'} {gate.bound:.1%}"
