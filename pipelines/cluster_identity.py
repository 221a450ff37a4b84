"""Keeps a task's id from run to run: clusters are matched by members, by signatures, or by their looks.

A found cluster is named by the digest of its first run's content. The next run's clusters take over the ids of those
they match (Hungarian assignment over the best of the likenesses), so that specialists and dashboards keep their task.
Where most members carry a name of the operator's own (clusters.yaml), that is the id. Drift is one minus the Jaccard
index. Members are kept as 64 bits of a digest: no id can be read back. It knows no files of calls and no clustering.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal
from zipfile import BadZipFile

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from registry.identifiers import UNKNOWN_CLUSTER

FOUND_PREFIX: Final = "t-"
_ID_DIGITS: Final = 10
_OPERATORS_SOURCES: Final = frozenset({"signature", "pattern", "keyword"})
_CONTENT_MEMBERS: Final = 64
_MIN_COMMON: Final = 20
"""Fewer common calls say little of who is who."""
_LEAST_LIKENESS: Final = 0.25
_LEAST_COMMON_TERMS: Final = 0.5
_CERTAIN: Final = 2.0
_MIN_CALLS_OF_SIGNATURE: Final = 3
"""On average."""

Basis = Literal["members", "signatures", "terms"]


class Sketch(Struct, frozen=True):
    """A cluster as far as its identity is concerned."""

    members: NDArray[np.uint64]
    """Digests of its calls' ids, sorted (`cluster.rank_of`)."""
    signatures: frozenset[str]
    terms: frozenset[str] = frozenset()
    """Its keys, tools and most telling words: all that is left when neither calls nor signatures are the same."""
    operators_name: str = ""
    """What clusters.yaml calls most of its calls; "" when nothing."""
    kept_id: str = ""
    """The id that the model knows it by: then nothing is matched. "" for one that was found anew."""


class Known(Struct, frozen=True):
    """A cluster of the run before, with the id it has."""

    id: str
    sketch: Sketch


class Calls(Struct, frozen=True):
    """What two runs saw, as digests of calls' ids: drift is judged on the calls that both saw."""

    before: NDArray[np.uint64]
    now: NDArray[np.uint64]


class Drift(Struct, frozen=True):
    """How far a cluster moved since the run before."""

    id: str
    drift: float
    """1 - Jaccard index: 0 for the same, 1 for nothing in common."""
    basis: Basis
    alert: bool


class Identities(Struct, frozen=True):
    """The ids of this run's clusters, in their order, and how they moved."""

    ids: tuple[str, ...]
    drifts: tuple[Drift, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]


def identify(found: Sequence[Sketch], known: Sequence[Known], calls: Calls, alert_above: float = 0.3) -> Identities:
    """Give each found cluster its id; no two get the same one. `calls` holds all calls of both runs, noise too."""
    both = np.intersect1d(calls.before, calls.now)
    now = [_seen_by_both(sketch, both) for sketch in found]
    before = [_seen_by_both(one.sketch, both) for one in known]
    matches = _matches(now, before, [one.id for one in known])
    ids: list[str] = [""] * len(found)
    order = sorted(range(len(found)), key=lambda at: (-len(found[at].members), content_id(found[at])))
    taken: set[str] = set()
    for at in order:
        if (name := found[at].operators_name) and name not in taken:
            ids[at] = name
            taken.add(name)
    for at in order:
        if not ids[at]:
            old = found[at].kept_id or (known[matches[at]].id if at in matches else "")
            ids[at] = old if old and old not in taken else _free_id(found[at], taken)
            taken.add(ids[at])
    drifts = tuple(
        _drift(
            ids[at], _Move(now[at], before[matches[at]], _is_steady(found[at], known[matches[at]].sketch)), alert_above
        )
        for at in sorted(matches)
    )
    old_ids = {one.id for one in known}
    return Identities(
        ids=tuple(ids),
        drifts=drifts,
        new=tuple(one for one in ids if one not in old_ids),
        gone=tuple(sorted(old_ids - set(ids))),
    )


def content_id(sketch: Sketch) -> str:
    """Return `t-` and 10 hex digits of a digest of signatures and members."""
    digest = hashlib.sha256("\n".join(sorted(sketch.signatures)).encode())
    digest.update(np.sort(sketch.members)[:_CONTENT_MEMBERS].tobytes())
    return FOUND_PREFIX + digest.hexdigest()[:_ID_DIGITS]


def operators_name_of(names: Mapping[tuple[str, str], int], members: int) -> str:
    """Return the operator's name of more than half of the members, given counts of (cluster, who said so)."""
    for (name, source), count in names.items():
        own = name not in ("", UNKNOWN_CLUSTER, "noise") and not name.startswith(FOUND_PREFIX)
        if own and source in _OPERATORS_SOURCES and 2 * count > members:
            return name
    return ""


def _free_id(sketch: Sketch, taken: set[str]) -> str:
    """Return the id by content; should it be taken by another, by the digest of that, and so on."""
    name = content_id(sketch)
    while name in taken:
        name = FOUND_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS]
    return name


def _matches(found: Sequence[Sketch], known: Sequence[Sketch], ids: Sequence[str]) -> dict[int, int]:
    """Return which known cluster each found one is: at most one each, with the most likeness in all."""
    if not found or not known:
        return {}
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    common = _common_members(found, known)
    likeness = np.array(
        [
            [_likeness(new, old, int(common[row, column])) for column, old in enumerate(known)]
            for row, new in enumerate(found)
        ]
    )
    for row, new in enumerate(found):
        if new.kept_id:
            likeness[row] = [_CERTAIN if new.kept_id == name else 0.0 for name in ids]
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return {
        int(row): int(column)
        for row, column in zip(rows, columns, strict=True)
        if likeness[row, column] >= _LEAST_LIKENESS
    }


def _common_members(found: Sequence[Sketch], known: Sequence[Sketch]) -> NDArray[np.int64]:
    """Return how many members each pair has in common, in one sort of all of them; no call is in two clusters."""
    members = np.concatenate([one.members for one in known])
    owners = np.repeat(np.arange(len(known)), [len(one.members) for one in known])
    order = np.argsort(members)
    members, owners = members[order], owners[order]
    common = np.zeros((len(found), len(known)), dtype=np.int64)
    for row, one in enumerate(found):
        _, _, at = np.intersect1d(one.members, members, assume_unique=True, return_indices=True)
        common[row] = np.bincount(owners[at], minlength=len(known))
    return common


def _likeness(new: Sketch, old: Sketch, common: int) -> float:
    """Return the better of the two Jaccard indices; common terms count half, and only where they are most of them."""
    of_members = common / max(1, len(new.members) + len(old.members) - common)
    best = max(of_members, _jaccard(new.signatures, old.signatures))
    terms = _jaccard(new.terms, old.terms)
    return max(best, terms / 2 if terms >= _LEAST_COMMON_TERMS else 0.0)


def _of_members(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(1, len(one) + len(other) - common)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _seen_by_both(sketch: Sketch, both: NDArray[np.uint64]) -> Sketch:
    """Return the sketch without calls that came or went since: that is no drift."""
    return replace(sketch, members=np.intersect1d(sketch.members, both))


class _Move(Struct, frozen=True):
    """A cluster now and before, with members that both runs saw."""

    new: Sketch
    old: Sketch
    is_steady: bool


def _is_steady(*sketches: Sketch) -> bool:
    """Return whether signatures come again: those of an agent that writes something new each time say nothing."""
    return all(0 < _MIN_CALLS_OF_SIGNATURE * len(one.signatures) <= len(one.members) for one in sketches)


def _drift(name: str, move: _Move, alert_above: float) -> Drift:
    """Judge by common calls, else by signatures, else by looks, which differ from sample to sample."""
    basis: Basis = "terms"
    new, old = move.new, move.old
    if max(len(new.members), len(old.members)) >= _MIN_COMMON:
        basis, likeness = "members", _of_members(new.members, old.members)
    elif move.is_steady:
        basis, likeness = "signatures", _jaccard(new.signatures, old.signatures)
    else:
        likeness = _jaccard(new.terms, old.terms)
    drift = round(1.0 - likeness, 4)
    alert_above = max(alert_above, 1.0 - _LEAST_LIKENESS) if basis == "terms" else alert_above
    return Drift(name, drift, basis, drift > alert_above)


def pack_members(members: Mapping[str, NDArray[np.uint64]]) -> bytes:
    """Return the file that the next run matches against."""
    ids = sorted(members)
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        ids=np.array(ids, dtype=np.str_),
        counts=np.array([len(members[one]) for one in ids], dtype=np.int64),
        members=np.concatenate([members[one] for one in ids]) if ids else np.empty(0, dtype=np.uint64),
    )
    return packed.getvalue()


def read_members(path: Path) -> dict[str, NDArray[np.uint64]]:
    """Return the members of the run before. {} when there is no such file or it is damaged: then signatures decide."""
    try:
        with np.load(path, allow_pickle=False) as packed:
            ends = np.cumsum(packed["counts"])[:-1]
            return dict(zip(packed["ids"].tolist(), np.split(packed["members"], ends), strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}
