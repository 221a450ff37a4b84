"""What one decision draws: standard normals out of one fixed table, and a uniform number, all said by the call's id.

Making a generator for each call takes longer than all of its draws. The place in the table and the uniform number come
from different bytes of a hash, so that what is drawn last owes nothing to the normals before it. Calls whose places are
near each other share normals; each still sees a fair sample, and nothing compares one call's draws with another's.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

_SIZE: Final = 1 << 16
_SEED: Final = 20_261_121
_TABLE: Final = np.random.Generator(np.random.Philox(_SEED)).standard_normal(_SIZE)
_TABLE.flags.writeable = False  # what is drawn is a view of it


class Source(Protocol):
    """What a decision may be drawn from; numpy's generators are such."""

    def random(self) -> float:
        """Return a number in [0, 1), evenly spread."""
        ...

    def standard_normal(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return standard normals of this shape."""
        ...


class CallDraws:
    """The draws of one call: the same whenever they are asked for."""

    __slots__ = ("_place", "_uniform")

    def __init__(self, call_id: str) -> None:
        digest = hashlib.blake2b(call_id.encode(), digest_size=16).digest()
        self._place = int.from_bytes(digest[:8], "little")
        self._uniform = (int.from_bytes(digest[8:], "little") >> 11) / 2.0**53

    def random(self) -> float:
        """Return the call's number in [0, 1)."""
        return self._uniform

    def standard_normal(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return standard normals of this shape; above 65,536 of them they repeat themselves."""
        count = size[0] * size[1]
        if count > _SIZE:
            return np.resize(_TABLE, size)
        start = self._place % (_SIZE - count + 1)
        return _TABLE[start : start + count].reshape(size)
