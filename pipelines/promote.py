"""Looks at every specialist on its way up and makes the moves that its evidence allows. Every look is safe.

The gates and what they prove are `policies.promotion`'s; the signed moves are the registrar's. Looking is free: the
evidence may be looked at at any time without making a wrong promotion likelier. Every look leaves a report, and the
report of a move is there before the ledger names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.erasure import erased_among
from observations.state import StatePaths
from pipelines.promotion_archive import REPORTS, drop_examples, evidence_of, file_report, withdraw
from pipelines.promotion_examples import NOT_KEPT, examples_of
from pipelines.promotion_report import Examples, report_of
from pipelines.register import ACTOR
from pipelines.trials import step_began_ms, trial_of
from policies.promotion import PromotionDecision, PromotionPolicy, decide
from policies.promotion_trial import TrialState
from registry.errors import BadInputError, IntegrityError, JourneymanError, NotFoundError
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
    report: str = ""
    """The folder of its report; empty when none was written."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


class _Looker(Struct, frozen=True):
    """What every look of one round needs."""

    state: StatePaths
    policy: PromotionPolicy
    registrar: Registrar
    move: bool
    reports: Path | None


def look_at_all(
    state: StatePaths,
    policy: PromotionPolicy,
    *,
    move: bool = True,
    only: str | None = None,
    report: bool = True,
    reports: Path | None = None,
) -> list[Look]:
    """Judge every specialist in shadow or canary (or `only` one), and make the moves whose mode is `auto`.

    Unless `report` says no, each look is reported in `reports`, which is the state's own folder when None.

    One whose files or signatures do not hold is passed over with the reason.

    Raises:
        NotFoundError: nothing was recorded yet, or `only` names no specialist on its way up.
        BadInputError: a specialist's canary share is none of the policy's steps.
        StorageError: the record or the ledger cannot be read, or a report not written.
    """
    registrar = Registrar(state.root)
    history = registrar.history()
    standing = [now for now in history.stages.values() if now.stage in ON_THE_WAY]
    if only is not None:
        standing = [now for now in standing if only in (now.specialist, now.name)]
        if not standing:
            raise NotFoundError(f"No specialist {only} is in shadow or canary; see `journeyman registry ledger`.")
    looker = _Looker(state, policy, registrar, move, (reports or state.root / REPORTS) if report else None)
    return [_look_or_pass(looker, now, step_began_ms(history, now.specialist)) for now in standing]


def _look_or_pass(looker: _Looker, now: StageNow, since_ms: int) -> Look:
    """One whose files do not hold is passed over, with the reason, so that the others move."""
    try:
        return _look(looker, now, since_ms)
    except IntegrityError as error:
        trial = TrialState(specialist=now.specialist, stage=now.stage, share=now.place.share)
        why = f"Passed over: {error.message}"
        stays = PromotionDecision(verdict="wait", gates=(), reasons=(why,), calls=0, calls_more=None, move=None)
        return Look(now.specialist, now.stage, now.place.share, trial, stays)


def _look(looker: _Looker, now: StageNow, since_ms: int) -> Look:
    trial = trial_of(looker.state, now, since_ms)
    decision = decide(trial, looker.policy)
    look = Look(now.specialist, now.stage, trial.share, trial, decision)
    to = decision.move
    asks = to is not None and to.mode == "ask" and decision.verdict == "promote"
    moves = to is not None and looker.move and not asks
    folder = _report(looker, look, now, since_ms, for_ever=moves)
    if to is None:
        return msgspec.structs.replace(look, report=folder)
    place = f"{to.stage} {to.share:.0%}"
    if asks:
        ask = f"journeyman registry promote {now.specialist} --to {to.stage} --share {to.share}"
        return msgspec.structs.replace(look, report=folder, waits_for=ask)
    if moves:
        _carry_out(looker.registrar, look, folder)
    return msgspec.structs.replace(look, report=folder, moved_to=place if moves else "")


def _report(looker: _Looker, look: Look, now: StageNow, since_ms: int, *, for_ever: bool) -> str:
    """Write a look's report, before its move: what the ledger names is there. Returns the folder."""
    if looker.reports is None:
        return ""
    made_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    examples = examples_of(looker.state, now, since_ms)
    report = report_of(look.trial, look.decision, looker.policy, examples, made_at)
    folder = file_report(looker.reports, report, look.as_json(), for_ever=for_ever)
    _unquote_erased(looker.state, looker.reports, examples)
    return str(folder)


def _unquote_erased(state: StatePaths, reports: Path, examples: Examples) -> None:
    """After a report is written: an erasure that comes later finds it, one that came while it was made could not."""
    every = (*examples.fixed, *examples.broken)
    quoted = {one.call_id for one in every if {one.input, one.served, one.answered} != {NOT_KEPT}}
    if quoted and (gone := erased_among(state, quoted)):
        drop_examples(reports, gone)


def _carry_out(registrar: Registrar, look: Look, folder: str) -> None:
    assert look.decision.move is not None
    note = Note(ACTOR, look.decision.reasons[0], evidence_of(look.as_json())[1])
    share = look.decision.move.share if look.decision.move.stage == "canary" else None
    act: Callable[..., Any] = registrar.promote if look.decision.verdict == "promote" else registrar.demote
    try:
        act(look.specialist, note, look.decision.move.stage, share)
    except JourneymanError:
        if folder:
            withdraw(Path(folder))
        raise


def policy_of(text: str | None, source: str) -> PromotionPolicy:
    """Return promotion.yaml's policy from its text; the defaults without one. Raises ConfigError with all findings."""
    from registry.strict_yaml import load_strict  # noqa: PLC0415

    if text is None:
        return PromotionPolicy()
    if not text.strip():
        raise BadInputError(f"{source} is empty; delete it to use the defaults.", param="policy")
    return load_strict(text, PromotionPolicy, source)
