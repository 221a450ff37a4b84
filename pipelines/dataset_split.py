"""Decides which part of a dataset an example belongs to: train, dev (early stopping), test (evaluation) or shadow.

`shadow` is asked only of a registered specialist, when it proves itself by replay: neither its training nor its
threshold has seen it. The part follows from the example's own words and its template, so it is the same in every
version of a dataset and on every machine. What else is in it counts in one way alone: where enough examples are judged
by people, those are held back for test and shadow (`held_back_share`). Texts that differ only in case, punctuation or
spaces count as the same, so that no test example is a trained one written a little differently.

Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from registry.errors import BadInputError

Part = Literal["train", "dev", "test", "shadow"]

PARTS: Final[tuple[Part, ...]] = ("train", "dev", "test", "shadow")
LEAST_JUDGED: Final = 150
"""From so many judged examples on, test and shadow are drawn from these alone. A person's word is worth far more than
agreement with a large model that is itself wrong at times, and fewer would say too little."""
JUDGED_TEST_SHARE: Final = 0.4
"""Of the judged examples that are held back; the rest are the shadow's, which has more to prove."""
MOST_HELD_BACK: Final = 0.5
"""Of all examples: where more than so many are judged, the others of these are learnt from as well."""
_MOST_NOT_TRAINED: Final = 0.6
_SPAN: Final = 1 << 64


class SplitShares(Struct, frozen=True, forbid_unknown_fields=True):
    """Expected share of each part; train gets the rest.

    From `LEAST_JUDGED` judged examples on, the shares of test and shadow count for nothing but being 0 or not: both are
    drawn from the judged alone, `JUDGED_TEST_SHARE` of them for test, and dev from the others.
    """

    dev: float = 0.1
    test: float = 0.15
    shadow: float = 0.2
    """0: nothing is held back for a replay, so live calls alone prove the specialist."""

    def check(self) -> SplitShares:
        """Return itself. Raises BadInputError unless dev and test get something, and train two fifths."""
        total = round(self.dev + self.test + self.shadow, 9)
        if not (self.dev > 0 and self.test > 0 and self.shadow >= 0 and total <= _MOST_NOT_TRAINED):
            raise BadInputError(
                f"The shares of dev ({self.dev}) and test ({self.test}) must be above 0, and together with shadow "
                f"({self.shadow}) at most {_MOST_NOT_TRAINED}."
            )
        return self


def normal_form(text: str) -> str:
    """Return what two texts must share to fall into the same part: lower-case words and digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (char if char.isalnum() else " " for char in folded)
    return " ".join("".join(kept).split()) or folded


def held_back_share(judged: int, total: int) -> float:
    """Return which share of the judged examples is held back for test and shadow; 0: everyone is drawn alike."""
    if judged < LEAST_JUDGED:
        return 0.0
    return min(1.0, MOST_HELD_BACK * total / judged)


def part_of(template_key: str, text: str, shares: SplitShares) -> Part:
    """Return the part of a text. `template_key` salts the hash, so each template has a split of its own.

    Consistent hashing: a call's place in 0..1 is fixed, and the parts are intervals of it.
    """
    place = _place(template_key, text)
    if place < shares.test:
        return "test"
    if place >= 1.0 - shares.shadow:
        return "shadow"
    return "dev" if place < shares.test + shares.dev else "train"


def judged_part_of(template_key: str, text: str, shares: SplitShares, held_back: float) -> Part:
    """Return the part of a judged text where test and shadow are drawn from the judged alone.

    `held_back` is `held_back_share`'s; what is not held back is drawn as the unjudged are.
    """
    place = _place(template_key, text)
    test = held_back * (JUDGED_TEST_SHARE if shares.shadow > 0 else 1.0)
    if place < test:
        return "test"
    if place >= 1.0 - (held_back - test):
        return "shadow"
    return "dev" if place < test + (1.0 - held_back) * shares.dev else "train"


def unjudged_part_of(template_key: str, text: str, shares: SplitShares) -> Part:
    """Return the part of an unjudged text where test and shadow are drawn from the judged alone: dev or train."""
    return "dev" if part_of(template_key, text, shares) == "dev" else "train"


def settled_part(wanted: Part, earlier: Mapping[str, Part], call_ids: tuple[str, ...]) -> Part:
    """Return the part that an earlier version gave one of the calls, else the wanted one.

    A call whose text changed since (redacted anew) must not move towards training: where the calls disagree, the part
    furthest from it wins, shadow before test before dev.
    """
    known = {earlier[call_id] for call_id in call_ids if call_id in earlier}
    return next((part for part in reversed(PARTS) if part in known), wanted)


def _place(template_key: str, text: str) -> float:
    key = f"{template_key}\0{normal_form(text)}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / _SPAN
