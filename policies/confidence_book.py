"""The judged answers of each specialist, and the thresholds they justify. In memory, bounded; the caller brings time.

A threshold belongs to a specialist, not to a specialist in a cluster: `verify` checks one, the bound is stated over all
of a specialist's calls, and a cluster's own share of a window is mostly too small to justify anything.

**Who was judged.** A bound on all calls needs answers that were judged whatever their score, or a record of which were
not. Each `JudgedAnswer` says with what chance an answer such as it was judged. With t the threshold in force at the
call, and believed answers drawn for judging with chance a:

| situation | right | chance | least_chance | judged_from |
|---|---|---|---|---|
| shadow, or every answer compared with the frontier's | yes/no | 1 | 1 | None |
| believed, drawn, judged; escalated ones are compared as well | yes/no | a | a | None |
| escalated, compared | yes/no | 1 | a | None |
| believed, drawn, judged; escalated ones are not | yes/no | a | a | t |
| escalated, not judged | None | 1 | a | t |
| feedback on a believed answer, and nobody knows how often it comes | yes/no | 1 | 1 | t |

An answer is kept with probability least_chance / chance, so that what is kept is an even share of the calls whatever
their score; with a = 0 nothing of an escalated call is kept, since nothing is known of the believed ones beside it.
The draw is a hash of the answer's id: the same in every replica and every replay. Answers judged only from some score
on can hold a threshold or tighten it; below that score they do not count, so they never loosen it (confidence.py).
The last row is conservative: it takes feedback as an even share of the believed answers and knows no others. But where
praise of right answers is likelier than complaint about wrong ones, the bound is no better than the feedback, and where
only complaints come, they close the specialist.

**What is guaranteed.** Calibration number k (k = 1, 2, ...) is made at a count of kept answers that does not depend on
what they say, at level delta_k = delta * 6 / (pi^2 k^2); these sum to delta. So with probability at least 1 - delta,
every threshold that this book ever puts in force has a risk of at most alpha over the calls of the window it was made
from: for all calibrations together, not for each. If traffic does not change, that is the risk from then on. If it
does, nothing promises the time until the next calibration. In between, every eighth of a window, the window is looked
at again and may make the threshold stricter, never looser, so that costs no delta. And there is an alarm: when the
newest 100 answers hold far too many accepted and wrong ones, older ones are forgotten, the threshold is tightened and
the next calibration comes sooner. That one's time does depend on what the answers say, on the strict side: it keeps the
wrong answers that rang the alarm. Books that calibrate apart spend delta each.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from registry.errors import BadInputError, StorageError

from .confidence import (
    Calibration,
    Sample,
    binomial_cdf,
    calibrate,
    least_sample,
    sample_of,
    tally_of,
    upper_limit,
)
from .learning import ConfidencePolicy

ACCEPT_NOTHING: Final = math.inf
"""The threshold when none can be justified: no answer reaches it."""
STATE_VERSION: Final = 1

_ALARM_SAMPLE: Final = 100
_ALARM_EVERY: Final = 25
_ALARM_P: Final = 0.001
"""The alarm rings when so many accepted and wrong answers would come by chance with less than this probability."""
_BASEL: Final = 6.0 / math.pi**2


class JudgedAnswer(Struct, frozen=True, kw_only=True):
    """A specialist's answer, and whether it was right. The module's table says how to fill it in."""

    id: str
    """The call's: one answer counts once, and later judgements of it are ignored."""
    at_ms: int
    """When it was judged."""
    score: float | None
    """Sum of its token log-probabilities; None: it is never believed, having none or having failed another check."""
    right: bool | None
    """None: not judged, because its score is below `judged_from`."""
    chance: float = 1.0
    """Probability that an answer with this score was judged at that time."""
    least_chance: float = 1.0
    """The least such probability of any score (from `judged_from` on)."""
    judged_from: float | None = None
    """At that time, answers with a lower score were not judged; None: they were."""


class Rate(Struct, frozen=True):
    """A share of a specialist's calls."""

    share: float
    upper: float
    """Exact upper limit at level 1 - delta, for this moment alone."""
    sample: int


class _Kept(Struct, frozen=True, array_like=True):
    id: str
    at_ms: int
    score: float | None
    right: bool
    judged_from: float | None


class _Shelf(Struct):
    """What is known of one specialist."""

    answers: list[_Kept] = msgspec.field(default_factory=list)
    """Oldest first."""
    seen: int = 0
    """Answers ever kept."""
    due: int = 0
    """The next calibration is due at this `seen`; 0: at the least sample."""
    rounds: int = 0
    """Calibrations that have spent their part of delta."""
    calibration: Calibration | None = None


class _State(Struct):
    version: int
    specialists: dict[str, _Shelf]


class ConfidenceBook:
    """The newest `policy.window` judged answers of the last `max_specialists` specialists."""

    def __init__(self, policy: ConfidencePolicy, max_specialists: int = 1_000) -> None:
        self._policy = policy
        self._max_specialists = max_specialists
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self._ids: dict[str, set[str]] = {}
        self._least = max(policy.min_sample, least_sample(policy.max_accepted_wrong, policy.delta * _BASEL))

    def observe(self, specialist: str, answer: JudgedAnswer) -> Calibration | None:
        """Count a judged answer. Returns the new calibration when it was the occasion of one.

        Raises BadInputError when its chances or its limit contradict each other.
        """
        _check(specialist, answer)
        says_nothing = answer.judged_from == ACCEPT_NOTHING
        if says_nothing or _luck(answer.id) >= answer.least_chance / answer.chance:
            return None
        score, right = (None, True) if answer.right is None else (_finite(answer.score), answer.right)
        kept = _Kept(answer.id, answer.at_ms, score, right, _finite(answer.judged_from))
        shelf = self._shelf(specialist)
        if not self._put(specialist, shelf, [kept]):
            return None
        return self._calibrated(shelf) or self._tightened(specialist, shelf)

    def threshold(self, specialist: str, fallback: float | None) -> float | None:
        """Return the least score to believe: the fallback (the registry's) until there is a calibration.

        `ACCEPT_NOTHING` (+inf) when no threshold can be justified; None, from the fallback alone, means unchecked.
        """
        calibration = self.calibration(specialist)
        if calibration is None:
            return fallback
        return ACCEPT_NOTHING if calibration.threshold is None else calibration.threshold

    def calibration(self, specialist: str) -> Calibration | None:
        """Return what is in force; None: too few judged answers so far."""
        shelf = self._shelves.get(specialist)
        return None if shelf is None else shelf.calibration

    def coverage(self, specialist: str, fallback: float | None = None) -> Rate | None:
        """Return the share of its calls that the threshold in force accepts, by the window; None: nothing judged."""
        tally = tally_of(self.sample(specialist), _floor(self.threshold(specialist, fallback)))
        return self._rate(int(tally.accepted.sum()), tally.counted)

    def risk(self, specialist: str, fallback: float | None = None) -> Rate | None:
        """Return the share of its calls that are accepted and wrong, by the window as it is now."""
        tally = tally_of(self.sample(specialist), _floor(self.threshold(specialist, fallback)))
        return self._rate(tally.wrong, tally.counted)

    def p_right(self, specialist: str, score: float) -> float | None:
        """Return P(right | score) as of the calibration in force; None before the first."""
        calibration = self.calibration(specialist)
        return None if calibration is None else calibration.reliability.at(score)

    def sample(self, specialist: str) -> Sample:
        """Return the window of one specialist."""
        shelf = self._shelves.get(specialist)
        return _sample(shelf.answers if shelf is not None else [])

    def keep_only(self, specialists: Collection[str]) -> None:
        """Forget every other specialist."""
        for name in [name for name in self._shelves if name not in specialists]:
            self._forget(name)

    def state(self) -> dict[str, Any]:
        """Return all of it as plain builtins, fit for JSON."""
        exported: dict[str, Any] = msgspec.to_builtins(_State(STATE_VERSION, dict(self._shelves)))
        return exported

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state in place of what is here; one made for another bound is calibrated anew.

        Raises StorageError naming what is wrong; then nothing changes.
        """
        read = read_state(state)
        self._shelves.clear()
        self._ids.clear()
        for name, theirs in read.specialists.items():
            shelf = self._shelf(name)
            shelf.answers = theirs.answers[-self._policy.window :]
            self._ids[name] = {kept.id for kept in shelf.answers}
            shelf.seen, shelf.due, shelf.rounds = theirs.seen, theirs.due, theirs.rounds
            shelf.calibration = theirs.calibration
            if theirs.calibration is not None and theirs.calibration.alpha != self._policy.max_accepted_wrong:
                shelf.calibration, shelf.due = None, 0
                self._calibrated(shelf)

    def absorb(self, state: Mapping[str, Any]) -> list[str]:
        """Add another book's judged answers; absorbing the same again changes nothing. Returns who was recalibrated.

        Thresholds stay this book's own: the other's answers count from the next calibration on, which may be now.
        Raises StorageError naming what is wrong with the state; then nothing changes.
        """
        read = read_state(state)
        changed = []
        for name, theirs in read.specialists.items():
            shelf = self._shelf(name)
            shelf.rounds = max(shelf.rounds, theirs.rounds)
            if self._put(name, shelf, theirs.answers) and self._calibrated(shelf) is not None:
                changed.append(name)
        return changed

    def _rate(self, some: int, of: int) -> Rate | None:
        return Rate(some / of, upper_limit(some, of, self._policy.delta), of) if of else None

    def _shelf(self, specialist: str) -> _Shelf:
        shelf = self._shelves.get(specialist)
        if shelf is None:
            shelf = self._shelves[specialist] = _Shelf()
            self._ids[specialist] = set()
            if len(self._shelves) > self._max_specialists:
                self._forget(next(iter(self._shelves)))
        self._shelves.move_to_end(specialist)
        return shelf

    def _forget(self, specialist: str) -> None:
        del self._shelves[specialist]
        del self._ids[specialist]

    def _put(self, specialist: str, shelf: _Shelf, answers: list[_Kept]) -> int:
        """Add what is new, drop what is oldest; return how many stayed."""
        ids = self._ids[specialist]
        fresh = {kept.id: kept for kept in answers if kept.id not in ids}
        in_order = not shelf.answers or all(kept.at_ms >= shelf.answers[-1].at_ms for kept in fresh.values())
        shelf.answers.extend(fresh.values())
        if not in_order or len(fresh) > 1:
            shelf.answers.sort(key=lambda kept: (kept.at_ms, kept.id))
        dropped = shelf.answers[: -self._policy.window]
        del shelf.answers[: len(dropped)]
        ids.update(fresh)
        ids.difference_update(kept.id for kept in dropped)
        stayed = len(fresh) - sum(kept.id in fresh for kept in dropped)
        shelf.seen += stayed
        return stayed

    def _calibrated(self, shelf: _Shelf) -> Calibration | None:
        """Calibrate if it is time: at the least sample, at four times as many, ... then after every full window.

        Seldom is better: every calibration makes delta_k of the later ones smaller.
        """
        if shelf.seen < max(shelf.due, self._least) or len(shelf.answers) < self._least:
            return None
        shelf.rounds += 1
        shelf.calibration = self._calibrate(shelf, self._policy.delta * _BASEL / shelf.rounds**2)
        shelf.due = shelf.seen + min(3 * len(shelf.answers), self._policy.window)
        return shelf.calibration

    def _tightened(self, specialist: str, shelf: _Shelf) -> Calibration | None:
        """Make the threshold stricter if the window, or the alarm, says so. A stricter one has no more risk."""
        before = shelf.calibration
        if before is None or before.threshold is None:
            return None
        if shelf.seen % _ALARM_EVERY == 0 and self._rings(shelf, before.threshold):
            shelf.answers = shelf.answers[-_ALARM_SAMPLE:]
            self._ids[specialist] = {kept.id for kept in shelf.answers}
            shelf.due = min(shelf.due, shelf.seen + self._policy.min_sample)
        elif shelf.seen % max(1, self._policy.window // 8):
            return None
        now = self._calibrate(shelf, self._policy.delta)
        if now.threshold is not None and now.threshold <= before.threshold:
            return None
        shelf.calibration = now
        return now

    def _rings(self, shelf: _Shelf, threshold: float) -> bool:
        tally = tally_of(_sample(shelf.answers[-_ALARM_SAMPLE:]), threshold)
        return 1.0 - binomial_cdf(tally.wrong - 1, tally.counted, self._policy.max_accepted_wrong) < _ALARM_P

    def _calibrate(self, shelf: _Shelf, delta: float) -> Calibration:
        at_ms = shelf.answers[-1].at_ms
        return calibrate(_sample(shelf.answers), self._policy.max_accepted_wrong, delta, at_ms)


def _sample(answers: list[_Kept]) -> Sample:
    return sample_of([a.score for a in answers], [a.right for a in answers], [a.judged_from for a in answers])


def read_state(state: Mapping[str, Any]) -> _State:
    """Return what `ConfidenceBook.state` gave, checked. Raises StorageError naming what is wrong."""
    try:
        read = msgspec.convert(state, _State)
    except msgspec.ValidationError as error:
        raise StorageError(
            f"The confidence book's state cannot be read: {error}. Without it, thresholds start afresh."
        ) from None
    if read.version != STATE_VERSION:
        raise StorageError(f"The confidence book's state has version {read.version}; {STATE_VERSION} can be read.")
    for name, shelf in read.specialists.items():
        try:
            _sample(shelf.answers)
        except BadInputError as error:
            raise StorageError(f"The confidence book's state of `{name}` cannot be read: {error}") from None
    return read


def _check(specialist: str, answer: JudgedAnswer) -> None:
    if not 0.0 <= answer.least_chance <= answer.chance <= 1.0 or answer.chance <= 0.0:
        raise BadInputError(
            f"A judged answer of `{specialist}`: `least_chance` {answer.least_chance} and `chance` {answer.chance} "
            "must be probabilities, the first not above the second."
        )
    score, since = _finite(answer.score), _finite(answer.judged_from)
    above = score is not None and (since is None or score >= since)
    fits = not above and since is not None if answer.right is None else above or (score is None and since is None)
    if score == math.inf or not fits:
        raise BadInputError(
            f"A judged answer of `{specialist}`: a score of {answer.score} with `judged_from` {since} cannot have "
            f"`right` {answer.right}: what lies below is not judged, and all else is."
        )


def _finite(score: float | None) -> float | None:
    """A score that never passes a check is none."""
    return None if score is None or math.isnan(score) or score == -math.inf else score


def _floor(threshold: float | None) -> float:
    return -math.inf if threshold is None else threshold


def _luck(answer_id: str) -> float:
    """A number in [0, 1), the same for the same id."""
    return int.from_bytes(hashlib.blake2b(answer_id.encode(), digest_size=7).digest()) / 2.0**56
