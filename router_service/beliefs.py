"""What this process has learned: how good each candidate is, how sure a specialist must be, what money is worth now.

The planner's candidates are seen through it; attempts, feedback and bills teach it. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from observations.records import AttemptRecord, CallRecord
from policies.bandit import Bandit, Belief, Context
from policies.bandit_posterior import PRIOR_INTERCEPT
from policies.bandit_standing import REWARD
from policies.confidence_book import ConfidenceBook, JudgedAnswer
from policies.plan import Plan
from policies.reward import Reward, Silence, reward_of_confidence, reward_of_feedback
from policies.selection import LEAST_LAM, Chance, chance_for
from policies.terms import PlannerPolicy
from registry.identifiers import UNKNOWN_CLUSTER

from .belief_store import Learned
from .log import get
from .pace import Menu, Pace
from .sampling import LengthSampler
from .wire.chat import FeedbackRequest

_log = get("beliefs")

REMEMBERED: Final = 20_000
"""Calls whose vectors are kept for feedback; what is said of older ones still counts for their cluster."""

CLUSTERS_REMEMBERED: Final = 10_000
FORGOTTEN_AFTER_S: Final = 3_600.0
"""How long a candidate may be missing from the registry: an edit that is taken back loses nothing."""


class Vectors(Protocol):
    """What turns a call into the bandit's vector."""

    @property
    def name(self) -> str:
        """The vector's version."""
        ...

    @property
    def dimension(self) -> int:
        """Its length."""
        ...

    def of(self, text: str) -> NDArray[np.floating]:
        """The vector of a call's text; its first entry is 1."""
        ...


class _Decided(Struct, frozen=True, eq=False):
    """What is kept of a decision until its feedback comes."""

    context: Context
    menu: Menu | None


class Beliefs:
    """One for each process."""

    def __init__(self, policy: PlannerPolicy, vectors: Vectors) -> None:
        self._policy = policy
        self._vectors = vectors
        self.bandit = Bandit(policy.learning, vectors.name, vectors.dimension)
        self.confidence = ConfidenceBook(policy.confidence)
        self.pace = Pace(policy.spend)
        self._lengths = LengthSampler()
        self._silence = Silence(policy.learning.half_life_h, policy.learning.prior_calls)
        self._decided: OrderedDict[str, _Decided] = OrderedDict()
        self._judged: OrderedDict[int, None] = OrderedDict()
        self._clusters: OrderedDict[str, None] = OrderedDict()
        self._listed: dict[str, float] = {}

    def learned(self) -> Learned:
        """What this process has learned by itself, to be kept."""
        silence = self._silence.state()
        return Learned(self.bandit.state(now_h()), self.confidence.state(), tuple(self._judged), silence)

    def remember(self, learned: Learned) -> None:
        """Take over what this router had learned before."""
        self.bandit.restore(learned.bandit)
        self.confidence.restore(learned.confidence)
        self._judged = OrderedDict.fromkeys(learned.judged)
        self._silence.restore(learned.silence)
        self._noticed(learned.bandit.arms)
        self._noticed(learned.confidence["specialists"])

    def hear(self, others: Sequence[Learned]) -> None:
        """Believe other routers too; their bandits replace what was heard before."""
        self.bandit.absorb([other.bandit for other in others], now_h())
        self._silence.absorb([other.silence for other in others])
        for other in others:
            self.confidence.absorb(other.confidence)

    def listed(self, candidates: Collection[str]) -> None:
        """Tell which candidates the registry names; those missing for `FORGOTTEN_AFTER_S` are forgotten."""
        now_s = time.monotonic()
        self._listed.update(dict.fromkeys(candidates, now_s))
        stale = [name for name, at_s in self._listed.items() if now_s - at_s > FORGOTTEN_AFTER_S]
        if stale:
            for name in stale:
                del self._listed[name]
                self._lengths.forget(name)
            self.bandit.keep_only(self._listed)
            self.confidence.keep_only(self._listed)
            self._silence.keep_only(self._listed)

    def _noticed(self, candidates: Iterable[str]) -> None:
        """Something is known of them, whether the registry names them or not: they can be forgotten."""
        for name in candidates:
            self._listed.setdefault(name, time.monotonic())

    def context(self, text: str, cluster: str) -> Context:
        """What the bandit sees of a call."""
        return Context(self._vectors.of(text), _bandit_cluster(cluster))

    def middle_of(self, cluster: str) -> Context:
        """The context of a call of which only the cluster is known."""
        vector = np.zeros(self._vectors.dimension)
        vector[0] = 1.0
        return Context(vector, _bandit_cluster(cluster))

    def recent_clusters(self, most: int | None = None) -> list[str]:
        """The known clusters of the latest calls, the latest last."""
        names = list(self._clusters)
        return names if most is None else names[-most:]

    def qualities(self, arms: Sequence[str], context: Context, priors: Sequence[float | None]) -> list[Belief]:
        """Predicted P(right) of each arm's believed answers; the priors as they are when learning is switched off."""
        if not self._policy.learning.enabled:
            return [Belief(PRIOR_INTERCEPT[REWARD] if prior is None else prior, 0.0, 0.0) for prior in priors]
        at_h = now_h()
        believed = self.bandit.beliefs(arms, context, priors, at_h)
        return [self._as_judged(arm, context, one, at_h) for arm, one in zip(arms, believed, strict=True)]

    def _as_judged(self, arm: str, context: Context, belief: Belief, at_h: float) -> Belief:
        """The belief with only the outcomes that somebody judged for its evidence."""
        silent = self._silence.silent(arm, context.cluster, at_h)
        return belief if silent == 0.0 else Belief(belief.mean, belief.sd, max(0.0, belief.evidence - silent))

    def output_tokens(self, arms: Sequence[str], context: Context) -> list[float | None]:
        """Expected length of each arm's answer; None where too little was seen."""
        return self.bandit.usage(arms, context, now_h())

    def chance(self, call_id: str) -> Chance | None:
        """What the decision on this call draws from."""
        return chance_for(call_id, self._policy.learning, self.pace.lam, self.pace.trial_usd)

    def decided(self, call_id: str, context: Context, plan: Plan) -> None:
        """Remember a decision for the outcomes that come later."""
        menu = _menu(plan) if self.pace.has_ceiling else None
        if plan.explored:
            self.pace.tried(_beyond_best_usd(plan))
        self._decided[call_id] = _Decided(context, menu)
        self._see(plan.cluster_id)
        if len(self._decided) > REMEMBERED:
            self._decided.popitem(last=False)

    def _see(self, cluster: str) -> None:
        if cluster == UNKNOWN_CLUSTER:
            return
        self._clusters[cluster] = None
        self._clusters.move_to_end(cluster)
        if len(self._clusters) > CLUSTERS_REMEMBERED:
            self._clusters.popitem(last=False)

    def attempted(self, call_id: str, attempt: AttemptRecord) -> None:
        """An attempt ended: learn its length, and what its confidence says of its answer."""
        if attempt.outcome in ("failed", "timed_out"):
            return
        decided = self._decided.get(call_id)
        if decided is None:
            return
        if attempt.completion_tokens > 0 and self._lengths.takes(attempt.candidate):
            self.bandit.learn_usage(attempt.candidate, decided.context, attempt.completion_tokens, now_h())
        if attempt.outcome == "verified" and attempt.confidence is not None:
            p_right = self.confidence.p_right(attempt.candidate, attempt.confidence)
            at_h, said = now_h(), reward_of_confidence(p_right)
            reward = self._silence.admitted(attempt.candidate, decided.context.cluster, said, at_h)
            if reward is not None:
                self.bandit.learn(attempt.candidate, decided.context, reward.value, at_h, reward.weight)

    def ended(self, call: CallRecord) -> None:
        """A call ended; one that was refused, or that nobody answered for money, saves nothing for the others."""
        decided = self._decided.get(call.id)
        if decided is None or decided.menu is None:
            return
        self._decided[call.id] = _Decided(decided.context, None)
        if call.served_by or call.cost_usd > 0.0:
            self.pace.paid(decided.menu, call.cost_usd)

    def judged(self, call: CallRecord, feedback: FeedbackRequest) -> None:
        """Somebody said how right an answer was. The first word on a call teaches; later ones are only recorded."""
        reward = reward_of_feedback(feedback.outcome, feedback.score)
        if reward is None or not call.served_by or (known_as := _digest(call.id)) in self._judged:
            return
        self._judged[known_as] = None
        if len(self._judged) > REMEMBERED:
            self._judged.popitem(last=False)
        decided = self._decided.get(call.id)
        context = decided.context if decided is not None else self.middle_of(call.cluster)
        at_h = now_h()
        self.bandit.learn(call.served_by, context, reward.value, at_h, reward.weight)
        self._silence.judged(call.served_by, context.cluster, reward.weight, at_h)
        self._noticed((call.served_by,))
        self._calibrate(call, reward)

    def _calibrate(self, call: CallRecord, reward: Reward) -> None:
        """A judged specialist's answer that was believed is a sample for its threshold, from that threshold on."""
        served = next((a for a in call.attempts if a.candidate == call.served_by and a.outcome == "verified"), None)
        if served is None or served.confidence is None or served.threshold is None:
            return
        answer = JudgedAnswer(
            id=call.id,
            at_ms=int(time.time() * 1000),
            score=served.confidence,
            right=reward.value >= 0.5,
            judged_from=served.threshold,
        )
        self.compared(served.candidate, answer)

    def compared(self, specialist: str, answer: JudgedAnswer) -> None:
        """A specialist's answer was judged: it may move its threshold."""
        made = self.confidence.observe(specialist, answer)
        if made is not None:
            _log.info(
                "confidence calibrated",
                specialist=specialist,
                threshold=made.threshold,
                coverage=made.coverage,
                risk_upper=made.risk_upper,
                sample=made.sample,
            )


def now_h() -> float:
    """The bandit's clock: hours since 1970, the same for all routers."""
    return time.time() / 3600.0


def _digest(call_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest())


def _bandit_cluster(cluster: str) -> str:
    """Calls of no known task share no intercept."""
    return "" if cluster == UNKNOWN_CLUSTER else cluster


def _beyond_best_usd(plan: Plan) -> float:
    heads = [one for one in plan.estimates if one.chain]
    best = max(heads, key=lambda one: one.value)
    return next(one.chain_cost_usd for one in heads if one.candidate == plan.primary_model) - best.chain_cost_usd


def _menu(plan: Plan) -> Menu:
    heads = [one for one in plan.estimates if one.chain]
    costs = np.array([one.chain_cost_usd for one in heads])
    return Menu(np.array([one.value for one in heads]) + max(plan.lam, LEAST_LAM) * costs, costs)
