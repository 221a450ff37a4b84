"""What a specialist's trial has shown so far: one outcome a call goes in, sums of fixed size are kept.

A trial belongs to one step of the way up (shadow, or canary at one share of the traffic) and starts anew with the next.
Knows no bounds and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from registry.errors import BadInputError
from registry.stages import Stage

from .sequential import Amounts, Count, Evidence, Ratio, Share

GateName = Literal["well_formed", "success_parity", "latency_increase", "cost_saving", "escalations", "accepted_wrong"]

LATENCY_CLIP: Final = 3.0
"""A call that takes longer than this many times the reference counts as so many times."""
COST_CLIP: Final = 2.0
"""Likewise for money. An escalated call costs the specialist's share more than the reference, so hardly ever more."""


class ShadowOutcome(Struct, frozen=True, kw_only=True):
    """One call of a trial: the specialist's chain beside what was served on the same call.

    The chain is the specialist and, where its answer is not believed, the frontier: `success`, `latency_ms` and
    `cost_usd` are those of the whole chain, so what escalations cost is in them. Give each call once.
    """

    call_id: str
    well_formed: bool | None
    """The specialist's own answer, before any escalation. A failed or timed-out attempt is not well-formed."""
    success: bool | None = None
    """Whether the chain's answer is right; None: nobody judged."""
    reference_success: bool | None = None
    latency_ms: float | None = None
    reference_latency_ms: float | None = None
    cost_usd: float | None = None
    reference_cost_usd: float | None = None
    """What the frontier took, or would have taken, for the same call. None in a canary, where it was not asked."""
    escalated: bool | None = None
    accepted_wrong: bool | None = None
    """Believed and wrong. False when it was not believed. None: not judged. Whether a call is judged must not depend on
    whether its answer was believed: where only some calls are judged, leave those out whose turn it was not, escalated
    or not; else the share comes out too low."""
    safety_incident: bool = False


class TrialState(Struct, forbid_unknown_fields=True, kw_only=True):
    """The sums of one trial. `observe` adds a call; `exported` and `from_exported` carry it over a restart."""

    version: Literal[1] = 1
    specialist: str
    stage: Stage = "shadow"
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Of its clusters' traffic that it answers."""
    calls: Count = 0
    last_call_id: str = ""
    well_formed: Share = field(default_factory=Share)
    success_parity: Ratio = field(default_factory=Ratio)
    """Rights of the chain against rights of the reference, over calls where both were judged."""
    latency: Amounts = field(default_factory=lambda: Amounts(clip=LATENCY_CLIP))
    cost: Amounts = field(default_factory=lambda: Amounts(clip=COST_CLIP))
    escalations: Share = field(default_factory=Share)
    accepted_wrong: Share = field(default_factory=Share)
    safety_incidents: Count = 0
    fixed: Count = 0
    """Calls that the reference had wrong and the chain right."""
    broken: Count = 0
    """Calls that the reference had right and the chain wrong."""

    def observe(self, outcome: ShadowOutcome) -> None:
        """Take in one call. Raises BadInputError, and takes in nothing, for amounts or claims that cannot be."""
        _check(outcome)
        self.calls += 1
        self.last_call_id = outcome.call_id
        self.safety_incidents += outcome.safety_incident
        for share, so in (
            (self.well_formed, outcome.well_formed),
            (self.escalations, outcome.escalated),
            (self.accepted_wrong, outcome.accepted_wrong),
        ):
            if so is not None:
                share.observe(so)
        self._compare(outcome)

    def _compare(self, outcome: ShadowOutcome) -> None:
        if outcome.success is not None and outcome.reference_success is not None:
            self.success_parity.observe(float(outcome.success), float(outcome.reference_success))
            self.fixed += outcome.success and not outcome.reference_success
            self.broken += outcome.reference_success and not outcome.success
        if outcome.latency_ms is not None and outcome.reference_latency_ms is not None:
            self.latency.observe(outcome.latency_ms, outcome.reference_latency_ms)
        if outcome.cost_usd is not None and outcome.reference_cost_usd is not None:
            self.cost.observe(outcome.cost_usd, outcome.reference_cost_usd)

    def evidence(self, gate: GateName) -> Evidence:
        """Return what the trial says of a gate's quantity."""
        table: dict[GateName, Evidence] = {
            "well_formed": self.well_formed,
            "success_parity": self.success_parity,
            "latency_increase": self.latency,
            "cost_saving": self.cost,
            "escalations": self.escalations,
            "accepted_wrong": self.accepted_wrong,
        }
        return table[gate]

    @property
    def saved_usd(self) -> float:
        """What the calls seen cost less than the reference, uncut; below 0 if they cost more."""
        return self.cost.reference_total - self.cost.total

    def exported(self) -> dict[str, Any]:
        """Return the state as plain values, for JSON."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_exported(cls, exported: Mapping[str, Any]) -> TrialState:
        """Return the state that was exported. Raises BadInputError when it is not one."""
        try:
            state = msgspec.convert(dict(exported), cls)
        except msgspec.ValidationError as error:
            raise BadInputError(f"Not the state of a trial: {error}. Start the trial anew.") from None
        _check_sums(state)
        return state


def _check(outcome: ShadowOutcome) -> None:
    for name in ("latency_ms", "reference_latency_ms", "cost_usd", "reference_cost_usd"):
        amount = getattr(outcome, name)
        if amount is not None and not 0.0 <= amount < math.inf:
            raise BadInputError(f"Call {outcome.call_id}: `{name}` must be finite and not negative, and is {amount}.")
    if outcome.escalated and outcome.accepted_wrong:
        raise BadInputError(f"Call {outcome.call_id}: an answer that was escalated was not accepted.")


def _check_sums(state: TrialState) -> None:
    """Refuse what no calls can have added up to: a state that was edited, cut or mixed up."""
    fresh = TrialState(specialist="")
    alike = all(
        (amounts.clip, amounts.ratio.weighted, len(amounts.ratio.masses), amounts.ratio.nodes)
        == (start.clip, start.ratio.weighted, len(start.ratio.masses), start.ratio.nodes)
        for amounts, start in ((state.latency, fresh.latency), (state.cost, fresh.cost))
    )
    parity = state.success_parity
    shares = (state.well_formed, state.escalations, state.accepted_wrong)
    counts = (*(share.n for share in shares), parity.n, state.latency.seen, state.cost.seen)
    sound = not parity.weighted and max(counts) <= state.calls and all(share.ones <= share.n for share in shares)
    masses = all(abs(sum(r.masses) - r.n) < 1e-6 * (r.n + 1) for r in (parity, state.latency.ratio, state.cost.ratio))
    if not (alike and sound and masses):
        raise BadInputError("The sums of the trial contradict each other. Start the trial anew.")
