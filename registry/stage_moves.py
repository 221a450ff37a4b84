"""Who is in which stage after a series of moves, and which moves a promotion, a demotion or a rollback consists of.

Pure: knows nothing of files, signatures, manifests or clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct, structs

from .entries import Fraction
from .errors import BadInputError
from .stages import MOVES, Stage, may_move, serves_callers

CANARY_SHARES: Final = (0.01, 0.1, 0.5, 1.0)
"""The steps of a canary: the share of its clusters' calls that it may answer."""


class Move(Struct, frozen=True, forbid_unknown_fields=True):
    """One specialist's move from one stage to another; `share` counts while it is a canary."""

    specialist: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}@[0-9a-f]{12}\Z")]
    before: Stage | None
    """None: it was registered."""
    after: Stage
    share: Fraction = 1.0


class Place(Struct, frozen=True):
    """A stage, and the share of a canary."""

    stage: Stage
    share: float = 1.0

    def __str__(self) -> str:
        return f"canary at {100 * self.share:.3g} % of calls" if self.stage == "canary" else self.stage


class Step(Struct, frozen=True):
    """A move that was made: where its specialist came from, where it went, and by which entry (its number)."""

    seq: int
    before: Place
    after: Place
    undoing: bool = False


class StageNow(Struct, frozen=True):
    """Where a specialist stands, and how it came there."""

    specialist: str
    place: Place
    steps: tuple[Step, ...] = ()
    displaced_by: str | None = None
    """The version of the same name that took its place, until either moves again."""

    @property
    def stage(self) -> Stage:
        """The stage by itself."""
        return self.place.stage

    @property
    def name(self) -> str:
        """The specialist's name without its digest."""
        return name_of(self.specialist)


Stages = Mapping[str, StageNow]


def name_of(specialist: str) -> str:
    """Return the short name in `name@digest12`."""
    return specialist.partition("@")[0]


def after_moves(stages: Stages, moves: Iterable[Move], seq: int, *, undoing: bool = False) -> dict[str, StageNow]:
    """Return the stages after an entry's moves, which count together.

    Raises BadInputError for a move that the stages or the table do not allow. With `undoing`, a specialist may go back
    to wherever it was before.
    """
    made = dict(stages)
    listed = tuple(moves)
    for move in listed:
        made[move.specialist] = _after(made.get(move.specialist), move, seq, undoing)
    _note_displaced(made, listed)
    for move in listed:
        _refuse_twins(made, move)
    return made


def _note_displaced(made: dict[str, StageNow], moves: tuple[Move, ...]) -> None:
    """Remember whose place a version took, for as long as it keeps it."""
    first, *others = moves
    for other in others:
        if first.after == "active" and other.after == "deprecated":
            made[other.specialist] = structs.replace(made[other.specialist], displaced_by=first.specialist)
    if first.before == "active":
        for name, now in made.items():
            if now.displaced_by == first.specialist:
                made[name] = structs.replace(now, displaced_by=None)


def _after(now: StageNow | None, move: Move, seq: int, undoing: bool) -> StageNow:
    after = Place(move.after, move.share if move.after == "canary" else 1.0)
    if now is None:
        if move.before is not None or move.after != "candidate":
            raise BadInputError(f"{move.specialist} is not registered, so it cannot move to {move.after}.")
        return StageNow(move.specialist, after)
    if move.before is None:
        raise BadInputError(f"{move.specialist} is registered already, as {now.place}.")
    if move.before != now.stage:
        raise BadInputError(f"{move.specialist} is {now.place}, not {move.before}: look again and repeat the command.")
    been_there = undoing and any(after in (step.before, step.after) for step in now.steps)
    another_share = now.stage == move.after == "canary" and now.place != after
    if not (may_move(now.stage, move.after) or another_share or been_there):
        raise BadInputError(impossible(now, after))
    return StageNow(move.specialist, after, (*now.steps, Step(seq, now.place, after, undoing)))


def impossible(now: StageNow, wanted: Place) -> str:
    """Return the sentence that refuses a move and names those that are allowed."""
    allowed = sorted(MOVES[now.stage]) + (["canary with another share"] if now.stage == "canary" else [])
    return f"{now.specialist} is {now.place} and cannot become {wanted}. From here: {', '.join(allowed)}."


def _refuse_twins(stages: Stages, move: Move) -> None:
    """One version of a name is active, and one is a canary."""
    if not serves_callers(move.after):
        return
    for other in stages.values():
        twin = other.specialist != move.specialist and other.name == name_of(move.specialist)
        if twin and other.stage == move.after:
            raise BadInputError(
                f"{other.specialist} is {other.place} under the name {other.name}: move it first, "
                f"e.g. journeyman registry demote {other.specialist}."
            )


def promotion(stages: Stages, specialist: str, to: Stage | None = None, share: float | None = None) -> tuple[Move, ...]:
    """Return the moves of the next step up, or of the one that was asked for.

    candidate, shadow, canary at 1, 10, 50 and 100 % of calls, active. A version that becomes active displaces the
    active one of its name. Raises BadInputError when there is no such step.
    """
    now = stages[specialist]
    wanted = _next_up(now) if to is None and share is None else _asked_for(to, share, CANARY_SHARES[0])
    if _height(wanted) <= _height(now.place):
        raise BadInputError(
            f"{specialist} is {now.place}, so {wanted} is no promotion. Use journeyman registry demote."
        )
    moves = [_move(now, wanted)]
    if wanted.stage == "active":
        others = (o for o in stages.values() if o.name == now.name and o.stage == "active")
        moves += [_move(other, Place("deprecated")) for other in others]
    return _checked(stages, moves)


def demotion(stages: Stages, specialist: str, to: Stage | None = None, share: float | None = None) -> tuple[Move, ...]:
    """Return the moves of a step down: out of service into shadow unless another place was asked for.

    From shadow it is `candidate`, from there `deprecated`. Raises BadInputError when there is no such step.
    """
    now = stages[specialist]
    if now.stage == "deprecated":
        raise BadInputError(f"{specialist} is deprecated already; nothing is below that.")
    below: dict[Stage, Stage] = {"candidate": "deprecated", "shadow": "candidate"}
    default = Place(below.get(now.stage, "shadow"))
    wanted = default if to is None and share is None else _asked_for(to, share, now.place.share)
    if _height(wanted) >= _height(now.place):
        raise BadInputError(
            f"{specialist} is {now.place}, so {wanted} is no demotion. Use journeyman registry promote."
        )
    return _checked(stages, [_move(now, wanted)])


def rollback(stages: Stages, specialist: str) -> tuple[tuple[Move, ...], int]:
    """Return the moves that undo a specialist's last ascent, and the number of the entry that began it.

    One that serves callers goes back to where it stood before it did, and the version that it displaced is active
    again; one in shadow goes back to where it came from. Raises BadInputError when its last move was not upward.
    """
    now = stages[specialist]
    step = _ascent(now)
    if step is None:
        last = now.steps[-1] if now.steps else None
        how = f"its last move was from {last.before} to {last.after}" if last else "it has not moved yet"
        raise BadInputError(
            f"{specialist} is {now.place} and {how}, so there is no promotion to undo. "
            f"To bring it up: journeyman registry promote {specialist}."
        )
    moves = [_move(now, step.before)]
    displaced = [other for other in stages.values() if other.displaced_by == specialist]
    moves += [_move(other, other.steps[-1].before) for other in displaced]
    return _checked(stages, moves, undoing=True), step.seq


def _ascent(now: StageNow) -> Step | None:
    """The step by which it came to serve, or else its last one if that led upward."""
    if serves_callers(now.stage):
        entered = (
            s for s in reversed(now.steps) if serves_callers(s.after.stage) and not serves_callers(s.before.stage)
        )
        return next(entered)
    last = now.steps[-1] if now.steps else None
    return last if last and not last.undoing and _height(last.after) > _height(last.before) else None


def _next_up(now: StageNow) -> Place:
    if now.stage == "active":
        raise BadInputError(f"{now.specialist} is active already; nothing is above that.")
    if now.stage == "canary":
        more = [share for share in CANARY_SHARES if share > now.place.share]
        return Place("canary", more[0]) if more else Place("active")
    return {"candidate": Place("shadow"), "deprecated": Place("shadow"), "shadow": Place("canary", CANARY_SHARES[0])}[
        now.stage
    ]


def _asked_for(to: Stage | None, share: float | None, usual: float) -> Place:
    if share is not None and to not in (None, "canary"):
        raise BadInputError(f"only a canary has a share of calls; leave --share out for {to}", param="share")
    if share is not None and not 0 < share <= 1:
        raise BadInputError(f"a canary's share is above 0 and at most 1, not {share:g}", param="share")
    if to is None or to == "canary":
        return Place("canary", usual if share is None else share)
    return Place(to)


def _height(place: Place) -> tuple[int, float]:
    order: tuple[Stage, ...] = ("deprecated", "candidate", "shadow", "canary", "active")
    return order.index(place.stage), place.share


def _move(now: StageNow, to: Place) -> Move:
    return Move(now.specialist, now.stage, to.stage, to.share)


def _checked(stages: Stages, moves: list[Move], *, undoing: bool = False) -> tuple[Move, ...]:
    after_moves(stages, moves, 0, undoing=undoing)
    return tuple(moves)
