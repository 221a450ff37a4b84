"""Looks at every specialist on its way up and makes the moves that its evidence allows. Every look is safe.

The gates and what they prove are `policies.promotion`'s; the signed moves are the registrar's. Looking is free: the
evidence may be looked at at any time without making a wrong promotion likelier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.state import StatePaths
from pipelines.register import ACTOR
from pipelines.trials import step_began_ms, trial_of
from policies.promotion import PromotionDecision, PromotionPolicy, decide
from policies.promotion_trial import TrialState
from registry.errors import BadInputError, NotFoundError
from registry.identifiers import digest_of
from registry.registrar import Note, Registrar
from registry.stage_moves import StageNow

ON_THE_WAY: Final = ("shadow", "canary")


class Look(Struct, frozen=True):
    """What one look at a specialist found and did."""

    specialist: str
    stage: str
    share: float
    trial: TrialState
    decision: PromotionDecision
    moved_to: str = ""
    """The place it was moved to; empty when it stayed."""
    waits_for: str = ""
    """What a person has to say, where the step's mode is `ask`."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def look_at_all(
    state: StatePaths, policy: PromotionPolicy, *, move: bool = True, only: str | None = None
) -> list[Look]:
    """Judge every specialist in shadow or canary (or `only` one), and make the moves whose mode is `auto`.

    Raises:
        NotFoundError: nothing was recorded yet, or `only` names no specialist on its way up.
        BadInputError: a specialist's canary share is none of the policy's steps.
        StorageError: the record or the ledger cannot be read.
    """
    registrar = Registrar(state.root)
    history = registrar.history()
    standing = [now for now in history.stages.values() if now.stage in ON_THE_WAY]
    if only is not None:
        standing = [now for now in standing if only in (now.specialist, now.name)]
        if not standing:
            raise NotFoundError(f"No specialist {only} is in shadow or canary; see `journeyman registry ledger`.")
    return [_look(state, policy, now, step_began_ms(history, now.specialist), registrar, move) for now in standing]


def _look(
    state: StatePaths, policy: PromotionPolicy, now: StageNow, since_ms: int, registrar: Registrar, move: bool
) -> Look:
    trial = trial_of(state, now, since_ms)
    decision = decide(trial, policy)
    look = Look(now.specialist, now.stage, trial.share, trial, decision)
    if decision.move is None:
        return look
    if decision.move.mode == "ask" and decision.verdict == "promote":
        ask = f"journeyman registry promote {now.specialist} --to {decision.move.stage} --share {decision.move.share}"
        return msgspec.structs.replace(look, waits_for=ask)
    if not move:
        return look
    _carry_out(registrar, look, decision)
    return msgspec.structs.replace(look, moved_to=f"{decision.move.stage} {decision.move.share:.0%}")


def _carry_out(registrar: Registrar, look: Look, decision: PromotionDecision) -> None:
    assert decision.move is not None
    note = Note(ACTOR, decision.reasons[0], digest_of(look.as_json()))
    share = decision.move.share if decision.move.stage == "canary" else None
    act: Callable[..., Any] = registrar.promote if decision.verdict == "promote" else registrar.demote
    act(look.specialist, note, decision.move.stage, share)


def policy_of(text: str | None, source: str) -> PromotionPolicy:
    """Return promotion.yaml's policy from its text; the defaults without one. Raises ConfigError with all findings."""
    from registry.strict_yaml import load_strict  # noqa: PLC0415

    if text is None:
        return PromotionPolicy()
    if not text.strip():
        raise BadInputError(f"{source} is empty; delete it to use the defaults.", param="policy")
    return load_strict(text, PromotionPolicy, source)
