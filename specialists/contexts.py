"""How near an agent's fixed part (system prompt, tool names, answer keys) is to those each cluster was seen with.

For calls whose exact signature is not known: an edited prompt is still its own agent's, another agent's is not. Stored
as hashes of words, so that no prompt can be read back. Knows nothing of users' texts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .words import words_of

MAX_REMEMBERED: Final = 512
"""Contexts whose likeness is kept: an agent sends the same one on every call."""


class Fixed(Struct, frozen=True):
    """What an agent sends the same way on every call."""

    system: str = ""
    tool_names: tuple[str, ...] = ()
    json_keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.system or self.tool_names or self.json_keys)


class ContextModel:
    """Contexts as unit vectors: row r is `values[starts[r]:starts[r + 1]]` and belongs to cluster `owners[r]`."""

    def __init__(self, arrays: dict[str, NDArray[Any]], cluster_count: int) -> None:
        self._arrays = arrays
        self._cluster_count = cluster_count
        self._keys = arrays["keys"]
        self._idf = arrays["idf"].astype(np.float64)
        self._owners = arrays["owners"].astype(np.int64)
        self._rows = np.repeat(np.arange(len(self._owners)), np.diff(arrays["starts"]))
        self._remembered: dict[Fixed, NDArray[np.float64]] = {}

    @classmethod
    def of_contexts(cls, contexts: Sequence[tuple[Fixed, int]], cluster_count: int) -> ContextModel:
        """Make the model of (context, number of its cluster), each pair once."""
        found = [hashes_of(fixed) for fixed, _ in contexts]
        keys, df = np.unique(np.concatenate([*found, _NONE]), return_counts=True)
        idf = np.log((1 + len(found)) / (1 + df)) + 1.0
        weights = [idf[np.searchsorted(keys, one)] for one in found]
        units = [weight / max(float(np.sqrt(weight @ weight)), 1e-12) for weight in weights]
        return cls(
            {
                "keys": keys,
                "idf": idf.astype(np.float32),
                "starts": np.cumsum([0, *map(len, found)]).astype(np.int64),
                "columns": np.concatenate([*(np.searchsorted(keys, one) for one in found), _NONE]).astype(np.uint32),
                "values": np.concatenate([*units, _NO_WEIGHTS]).astype(np.float32),
                "owners": np.array([owner for _, owner in contexts], dtype=np.uint32),
            },
            cluster_count,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored."""
        return self._arrays

    def likeness(self, fixed: Fixed) -> NDArray[np.float64]:
        """Return the cosine to the nearest context of each cluster, 0..1, shape (clusters,). Remembered by value."""
        known = self._remembered.get(fixed)
        if known is None:
            known = self._measure(fixed)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[fixed] = known
        return known

    def _measure(self, fixed: Fixed) -> NDArray[np.float64]:
        nearest = np.zeros(self._cluster_count)
        hashes = hashes_of(fixed)
        if len(hashes) == 0 or len(self._keys) == 0:
            return nearest
        at = np.minimum(np.searchsorted(self._keys, hashes), len(self._keys) - 1)
        known = self._keys[at] == hashes
        unseen_idf = np.log(1.0 + len(self._owners)) + 1.0
        weights = np.where(known, self._idf[at], unseen_idf)
        query = np.zeros(len(self._keys))
        query[at[known]] = weights[known] / np.sqrt(weights @ weights)
        products = query[self._arrays["columns"]] * self._arrays["values"]
        cosines = np.bincount(self._rows, weights=products, minlength=len(self._owners))
        np.maximum.at(nearest, self._owners, cosines)
        return np.minimum(nearest, 1.0)


def hashes_of(fixed: Fixed) -> NDArray[np.int64]:
    """Return the different words, tool names and keys as sorted 32-bit hashes."""
    named = _marked("tool:", fixed.tool_names) | _marked("key:", fixed.json_keys)
    found = {zlib.crc32(word.encode("utf-8", "replace")) for word in named.union(words_of(fixed.system))}
    return np.array(sorted(found), dtype=np.int64)


def json_keys_of(response_format: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the sorted top-level keys that a `json_schema` response format asks for; () for any other."""
    schema: Any = (response_format or {}).get("json_schema")
    for name in ("schema", "properties"):
        schema = schema.get(name) if isinstance(schema, Mapping) else None
    return tuple(sorted(map(str, schema))) if isinstance(schema, Mapping) else ()


def _marked(mark: str, names: Iterable[str]) -> set[str]:
    return {mark + name for name in names}


_NONE: Final = np.empty(0, dtype=np.int64)
_NO_WEIGHTS: Final = np.empty(0)
