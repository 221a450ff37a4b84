"""What trials may cost: an allowance in dollars under a spend ceiling, so that a dear model is tried in proportion.

A share of the calls alone would not do: one trial of a model that costs a hundred ceilings eats what a hundred calls
may spend. Knows nothing of who is tried.
"""

from __future__ import annotations

from typing import Final

START_CALLS: Final = 20.0
"""What may be spent on trials from the start, in ceilings of one call."""
SHARE: Final = 0.05
"""Of the ceiling, what goes into the purse with each call."""
MOST_CALLS: Final = 40.0


class Purse:
    """Dollars that may be spent beyond what the best choices cost, to learn about others."""

    def __init__(self, ceiling_usd_per_call: float) -> None:
        self._usd = START_CALLS * ceiling_usd_per_call

    @property
    def usd(self) -> float:
        """What a trial may cost now beyond the best choice."""
        return self._usd

    def fill(self, ceiling_usd_per_call: float) -> None:
        """Count a call under this ceiling."""
        self._usd = min(self._usd + SHARE * ceiling_usd_per_call, MOST_CALLS * ceiling_usd_per_call)

    def pay(self, usd: float) -> None:
        """Count what a trial was expected to cost beyond the best choice."""
        self._usd = max(0.0, self._usd - max(0.0, usd))
