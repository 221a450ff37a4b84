"""What the learner has seen, as a value: additive sums that travel as bytes and add up over routers and restarts.

The sums are those of two regressions an arm (head 0: reward, head 1: log of the amount used) and of every pair of arm
and cluster. They hold no prior, so the states of several routers merge by adding. Knows nothing of how they are used.

Bytes: `JMBS`, a version byte, msgpack of `_Wire`; arrays are little-endian, pairs are sparse.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import StorageError

from .bandit_drift import MEMORIES

HEADS: Final = 2
"""Reward, and log of the amount used."""
PAIR_SUMS: Final = 3
"""Weight, sum of y, sum of y squared."""

_MAGIC: Final = b"JMBS"
_VERSION: Final = 1


class BanditState(Struct, frozen=True, eq=False):
    """Sums of weighted outcomes, decayed to `now_h`. A is the number of arms, d the vector's dimension."""

    features: str
    """Version of the feature vector; only states of the same one share their regressions."""
    now_h: float
    arms: tuple[str, ...]
    clusters: tuple[str, ...]
    design: NDArray[np.float64]
    """Sum of w x x', shape (A, HEADS, d, d)."""
    moment: NDArray[np.float64]
    """Sum of w x y, shape (A, HEADS, d)."""
    square: NDArray[np.float64]
    """Sum of w y y, shape (A, HEADS)."""
    late: NDArray[np.float64]
    """Short memories of each arm, shape (A, HEADS, MEMORIES, d + 1): sum of w x, then of w y."""
    centre: NDArray[np.float64]
    """Sum of w x of a cluster, whichever arm answered, shape (clusters, d)."""
    pair_index: NDArray[np.int32]
    """(cluster, arm) of every pair that was seen, shape (n, 2)."""
    pairs: NDArray[np.float64]
    """Their sums, shape (n, HEADS, PAIR_SUMS)."""

    @property
    def dimension(self) -> int:
        """Length of the feature vector."""
        return int(self.moment.shape[2])

    def to_bytes(self) -> bytes:
        """Return the state as bytes, the same for the same state."""
        wire = _Wire(
            features=self.features,
            now_h=float(self.now_h),
            dimension=self.dimension,
            arms=self.arms,
            clusters=self.clusters,
            design=_packed(self.design),
            moment=_packed(self.moment),
            square=_packed(self.square),
            late=_packed(self.late),
            centre=_packed(self.centre),
            pair_index=np.ascontiguousarray(self.pair_index, dtype="<i4").tobytes(),
            pairs=_packed(self.pairs),
        )
        return _MAGIC + bytes([_VERSION]) + msgspec.msgpack.encode(wire)

    @staticmethod
    def from_bytes(content: bytes) -> BanditState:
        """Return the state that `to_bytes` wrote.

        Raises StorageError that names what is wrong: other content, another version, cut short, not numbers.
        """
        if content[: len(_MAGIC)] != _MAGIC:
            raise StorageError("The learner's state does not start with `JMBS`: this is another file. Delete it.")
        if len(content) <= len(_MAGIC) or content[len(_MAGIC)] != _VERSION:
            found = content[len(_MAGIC)] if len(content) > len(_MAGIC) else "none"
            raise StorageError(f"The learner's state has version {found}; this program reads {_VERSION}.")
        try:
            wire = msgspec.msgpack.decode(content[len(_MAGIC) + 1 :], type=_Wire)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"The learner's state is damaged: {error}. Restore a backup or delete it.") from error
        return _unpacked(wire)


class _Wire(Struct, frozen=True):
    features: str
    now_h: float
    dimension: int
    arms: tuple[str, ...]
    clusters: tuple[str, ...]
    design: bytes
    moment: bytes
    square: bytes
    centre: bytes
    pair_index: bytes
    pairs: bytes
    late: bytes | None = None
    """None in states of before there was a memory."""


def _packed(array: NDArray[np.float64]) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _unpacked(wire: _Wire) -> BanditState:
    """Shapes and values checked."""
    a, c, d = len(wire.arms), len(wire.clusters), wire.dimension
    if d < 1 or not np.isfinite(wire.now_h):
        raise _damaged(f"`dimension` is {d} and `now_h` is {wire.now_h}")
    if len(set(wire.arms)) != a or len(set(wire.clusters)) != c:
        raise _damaged("an arm or a cluster is named twice")
    if len(wire.pair_index) % 8:
        raise _damaged("`pair_index` is cut short")
    index = np.frombuffer(wire.pair_index, dtype="<i4").reshape(-1, 2).astype(np.int32)
    if index.size and (index.min() < 0 or index[:, 0].max() >= c or index[:, 1].max() >= a):
        raise _damaged("`pair_index` names an arm or a cluster that is not there")
    return BanditState(
        features=wire.features,
        now_h=wire.now_h,
        arms=wire.arms,
        clusters=wire.clusters,
        design=_array("design", wire.design, (a, HEADS, d, d)),
        moment=_array("moment", wire.moment, (a, HEADS, d)),
        square=_array("square", wire.square, (a, HEADS)),
        late=_late(wire.late, (a, HEADS, len(MEMORIES), d + 1)),
        centre=_array("centre", wire.centre, (c, d)),
        pair_index=index,
        pairs=_array("pairs", wire.pairs, (len(index), HEADS, PAIR_SUMS)),
    )


def _late(content: bytes | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.zeros(shape) if content is None else _array("late", content, shape)


def _array(name: str, content: bytes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    expected = 8 * int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise _damaged(f"`{name}` has {len(content)} bytes where {expected} belong")
    array = np.frombuffer(content, dtype="<f8").astype(np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise _damaged(f"`{name}` holds values that are not finite")
    return array


def _damaged(what: str) -> StorageError:
    return StorageError(f"The learner's state is damaged: {what}. Restore a backup or delete it.")
