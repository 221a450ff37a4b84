"""What an operator sets about learning: how fast beliefs fade, how much may be explored, what may be spent.

Parts of planner.yaml. Knows nothing of how the learning is done.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]
Dollars = Annotated[float, Meta(ge=1e-12, le=1e12)]
"""Beyond these lies no money, but the end of floating point."""
Share = Annotated[float, Meta(ge=0, le=1)]


class LearningPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`learning:` of planner.yaml."""

    enabled: bool = True
    """False: beliefs stay what the registry says, and nothing is explored."""
    exploration_share: Share = 0.05
    """Most of the calls of a cluster that may go to a candidate only in order to learn about it."""
    under_evaluated_calls: Positive = 100.0
    """A specialist with fewer outcomes than this in the cluster is explored even if nothing speaks for it yet."""
    half_life_h: Positive = 168.0
    """Hours after which an outcome counts half."""
    prior_calls: Positive = 20.0
    """How many outcomes the registry's eval score is worth."""


class SpendPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`spend:` of planner.yaml: a ceiling over time for the whole gateway. Absent: none."""

    usd_per_call: Dollars | None = None
    """Mean US dollars a call."""
    usd_per_hour: Dollars | None = None


class ConfidencePolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`confidence:` of planner.yaml: how often a specialist's believed answer may be wrong."""

    max_accepted_wrong: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Bound on P(accepted and wrong) over a specialist's calls."""
    delta: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """The bound may fail with at most this probability over the calibration sample."""
    min_sample: Annotated[int, Meta(ge=1)] = 300
    """Fewer judged answers than this: the registry's threshold stays."""
    window: Annotated[int, Meta(ge=50, le=100_000)] = 2_000
    """The newest judged answers that a calibration looks at."""
