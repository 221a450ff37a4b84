"""Outcome matrices: what every model would have earned and cost on every prompt, read strictly from JSON lines.

It knows the two file forms and their errors. What is done with the rows (replays, baselines) is not its business.

    {"prompt": "...", "source": "...", "arms": {"model": {"reward": 0..1, "cost_usd": 0.0004}}}
    {"prompt": "...", "subject": "...", "correct": {"model": true}}        costs come from the caller
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from registry.errors import WorkloadError

_FINDINGS_SHOWN: Final = 20
_ARMS_NAMED: Final = 8
MOST_USD: Final = 1e6
"""No prompt costs more; whoever writes more has another unit in mind."""


class OutcomeRow(Struct, frozen=True):
    """One prompt and what each arm would have given for it. `rewards` are 0..1, `costs_usd` at least 0."""

    prompt: str
    rewards: dict[str, float]
    costs_usd: dict[str, float]
    group: str = ""
    """Where the prompt is from (`source` or `subject`); reports use it, a router never sees it."""


class Outcomes(Struct, frozen=True):
    """Rows as arrays: `rewards[i, k]` and `costs_usd[i, k]` are arm k's on prompt i."""

    arms: tuple[str, ...]
    prompts: tuple[str, ...]
    rewards: NDArray[np.float64]
    costs_usd: NDArray[np.float64]

    def take(self, order: Sequence[int] | NDArray[np.int64]) -> Outcomes:
        """These rows in this order."""
        index = np.asarray(order, dtype=np.int64)
        prompts = tuple(self.prompts[i] for i in index)
        return Outcomes(self.arms, prompts, self.rewards[index], self.costs_usd[index])


def as_arrays(rows: Sequence[OutcomeRow]) -> Outcomes:
    """The rows as arrays, arms in the order of the first row; `rows` are not empty and have the same arms."""
    arms = tuple(rows[0].rewards)
    return Outcomes(
        arms=arms,
        prompts=tuple(row.prompt for row in rows),
        rewards=np.array([[row.rewards[arm] for arm in arms] for row in rows], dtype=np.float64),
        costs_usd=np.array([[row.costs_usd[arm] for arm in arms] for row in rows], dtype=np.float64),
    )


def read_outcomes(path: Path, costs_usd: Mapping[str, float] | None = None) -> list[OutcomeRow]:
    """Every row of an outcomes file; `costs_usd` are flat costs a prompt for files that carry none.

    Raises:
        WorkloadError: the file or some of its lines cannot be used; file, line, field and mend are named.
    """
    lines = _numbered_lines(path)
    rows: list[OutcomeRow] = []
    findings: list[str] = []
    arms: tuple[int, tuple[str, ...]] | None = None
    for number, line in lines:
        try:
            wire = _wire(line)
            if arms is None:
                arms = (number, _first_arms(wire))
                _check_costs(wire, arms[1], costs_usd)
            rows.append(_row(wire, arms, costs_usd))
        except _FileWideError as error:
            raise WorkloadError(f"{path}: {error}") from None
        except ValueError as error:
            findings.append(f"{path}:{number}: {error}")
    if findings:
        hidden = len(findings) - _FINDINGS_SHOWN
        more = [f"{path}: and {hidden} more bad lines"] if hidden > 0 else []
        raise WorkloadError("\n".join(findings[:_FINDINGS_SHOWN] + more))
    if not rows:
        raise WorkloadError(f"{path}: no rows; an outcomes file has one JSON object a line")
    return rows


def check_same_arms(path: Path, rows: Sequence[OutcomeRow], other: Path, other_rows: Sequence[OutcomeRow]) -> None:
    """Refuse a second file whose arms differ from the first's.

    Raises:
        WorkloadError: which arms are missing or extra.
    """
    difference = _difference(other_rows[0].rewards, rows[0].rewards)
    if difference:
        raise WorkloadError(f"{other}: its arms are not those of {path}: {difference}; both files need the same models")


class _ArmWire(Struct):
    reward: Annotated[float, Meta(ge=0, le=1)]
    cost_usd: Annotated[float, Meta(ge=0, le=MOST_USD)]


class _RowWire(Struct):
    prompt: Annotated[str, Meta(min_length=1)]
    source: str = ""
    subject: str = ""
    arms: dict[str, _ArmWire] | None = None
    correct: dict[str, bool] | None = None


_DECODER: Final = msgspec.json.Decoder(_RowWire)


class _FileWideError(Exception):
    """Wrong with every row, so said once."""


def _numbered_lines(path: Path) -> Iterable[tuple[int, bytes]]:
    if path.is_dir():
        raise WorkloadError(f"{path}: a folder; name a JSON-lines file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror or error}") from None
    return [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]


def _wire(line: bytes) -> _RowWire:
    try:
        wire = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{error}{_mend(str(error))}") from None
    if (wire.arms is None) == (wire.correct is None):
        raise ValueError('a row needs either `arms`: {model: {"reward", "cost_usd"}} or `correct`: {model: true}')
    return wire


def _mend(message: str) -> str:
    if ".reward" in message:
        return "; rewards are numbers from 0 to 1 (scale them)"
    if ".cost_usd" in message:
        return "; costs are US dollars for the prompt, from 0 to 1,000,000"
    if ".correct" in message:
        return "; write true or false"
    if "malformed" in message or "truncated" in message:
        return "; each line is one complete JSON object"
    return ""


def _first_arms(wire: _RowWire) -> tuple[str, ...]:
    arms = tuple(wire.arms or wire.correct or ())
    if len(arms) < 2:
        raise _FileWideError(f"{len(arms)} model a row; there is nothing to route with fewer than two")
    return arms


def _check_costs(wire: _RowWire, arms: tuple[str, ...], costs_usd: Mapping[str, float] | None) -> None:
    if wire.arms is not None and costs_usd:
        raise _FileWideError("its rows carry costs of their own (`cost_usd`); leave --costs out")
    if wire.correct is None:
        return
    wanted = "--costs " + ",".join(f"{arm}=USD" for arm in arms)
    if not costs_usd:
        raise _FileWideError(f"its rows carry no costs; say what a prompt costs with {wanted}")
    difference = _difference(costs_usd, arms)
    if difference:
        raise _FileWideError(f"--costs does not fit the file's models: {difference}; write {wanted}")


def _row(wire: _RowWire, first: tuple[int, tuple[str, ...]], costs_usd: Mapping[str, float] | None) -> OutcomeRow:
    number, arms = first
    given = wire.arms if wire.arms is not None else wire.correct or {}
    difference = _difference(given, arms)
    if difference:
        raise ValueError(
            f"other models than on line {number}: {difference}; a replay may pick any model on any row, "
            "so give every row the same models or leave the row out"
        )
    group = wire.source or wire.subject
    if wire.arms is not None:
        rewards = {arm: wire.arms[arm].reward for arm in arms}
        return OutcomeRow(wire.prompt, rewards, {arm: wire.arms[arm].cost_usd for arm in arms}, group)
    if costs_usd is None or wire.correct is None:
        raise ValueError(f"`correct` where line {number} has `arms`; a file has one form")
    return OutcomeRow(
        wire.prompt, {arm: float(wire.correct[arm]) for arm in arms}, {arm: costs_usd[arm] for arm in arms}, group
    )


def _difference(given: Iterable[str], wanted: Iterable[str]) -> str:
    given, wanted = set(given), set(wanted)
    parts = []
    for label, names in (("missing", sorted(wanted - given)), ("unknown", sorted(given - wanted))):
        if names:
            more = f" and {len(names) - _ARMS_NAMED} more" if len(names) > _ARMS_NAMED else ""
            parts.append(f"{label} {', '.join(repr(name) for name in names[:_ARMS_NAMED])}{more}")
    return ", ".join(parts)
