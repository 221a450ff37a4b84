"""Decides which part of a dataset an example belongs to: train, dev (early stopping) or test (evaluation).

The part follows from the example's own words and its template alone, so it is the same in every version of a dataset
and on every machine, whatever else is in it. Texts that differ only in case, punctuation or spaces count as the same,
so that no test example is a trained one written a little differently.

Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from registry.errors import BadInputError

Part = Literal["train", "dev", "test"]

PARTS: Final[tuple[Part, ...]] = ("train", "dev", "test")
_SPAN: Final = 1 << 64


class SplitShares(Struct, frozen=True, forbid_unknown_fields=True):
    """Expected share of each part; train gets the rest."""

    dev: float = 0.1
    test: float = 0.15

    def check(self) -> SplitShares:
        """Return itself. Raises BadInputError unless each part gets something, and train at least half."""
        if not (self.dev > 0 and self.test > 0 and self.dev + self.test <= 0.5):
            raise BadInputError(
                f"The shares of dev ({self.dev}) and test ({self.test}) must be above 0 and at most 0.5 together."
            )
        return self


def normal_form(text: str) -> str:
    """Return what two texts must share to fall into the same part: lower-case words and digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (char if char.isalnum() else " " for char in folded)
    return " ".join("".join(kept).split()) or folded


def part_of(template_key: str, text: str, shares: SplitShares) -> Part:
    """Return the part of a text. `template_key` salts the hash, so each template has a split of its own.

    Consistent hashing: a call's place in 0..1 is fixed, and the parts are intervals of it.
    """
    key = f"{template_key}\0{normal_form(text)}".encode()
    place = int.from_bytes(hashlib.sha256(key).digest()[:8]) / _SPAN
    if place < shares.test:
        return "test"
    return "dev" if place < shares.test + shares.dev else "train"


def settled_part(wanted: Part, earlier: Mapping[str, Part], call_ids: tuple[str, ...]) -> Part:
    """Return the part that an earlier version gave one of the calls, else the wanted one.

    A call whose text changed since (redacted anew) must not move from test to train: where the calls disagree, the
    part furthest from training wins.
    """
    known = {earlier[call_id] for call_id in call_ids if call_id in earlier}
    for part in ("test", "dev", "train"):
        if part in known:
            return part
    return wanted
