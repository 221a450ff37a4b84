"""The product's own router over an outcome matrix: beliefs, planner and pacer as they decide live, one call at a time.

It sees a prompt's text, its own picks, and what they earned and cost. Warm-up rows, whose outcomes are all known, teach
it before the first call. The text becomes a vector (`policies.text_features` beside an embedding); the embedding is
fitted again whenever the texts seen have doubled, as a nightly job would do it, and the outcomes so far are learned
again in it. A replay has no verifier, so chains have one step, and the best quality that the ceiling buys is wanted.

What is explored is limited twice: a share of the calls that falls as outcomes come in, and a purse of dollars, so that
a dear model is tried in proportion to the ceiling. Knows nothing of files, of the loop, or of what other arms would
have earned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.fit_embedder import fit_embedder
from pipelines.outcomes import OutcomeRow
from policies.bandit import Bandit, Belief, Context
from policies.learning import LearningPolicy
from policies.pacer import Pacer
from policies.plan import Candidate, PlanRequest, TaskFeatures, Terms
from policies.planner import plan
from policies.purse import Purse
from policies.selection import Chance
from policies.terms import PlannerPolicy
from policies.text_features import VERSION, text_features
from registry.entries import Prices
from registry.errors import BadInputError
from registry.identifiers import UNKNOWN_CLUSTER
from specialists.embedder import Embedder, hashing_embedder

HASHED_DIMENSION: Final = 64
"""Of the embedding that serves until there are texts to fit one on."""
FITTED_DIMENSION: Final = 32
FIRST_FIT_TEXTS: Final = 150
MOST_TEXTS: Final = 20_000
"""Texts kept for fitting again; the embedding stays as it is from there on."""

EXPLORED_FREELY: Final = 250.0
"""Faded outcomes at which the policy's exploration share is in force; it falls with one over their number."""
PURSE_OF_SAVINGS: Final = 0.1
"""Of what the ceiling has left over so far, what a trial may cost besides, where outcomes fade: prices may have too."""

_MOST_OUTCOMES: Final = 100_000
_LEAST_COST_USD: Final = 1e-12


class Decision(Struct, frozen=True, eq=False):
    """A pick, and what it was made of."""

    arm: str
    propensities: Mapping[str, float]
    """P(picked) of each arm; 0 of one that is left out."""
    lam: float
    """Quality that a US dollar had to buy."""
    prompt: str
    vector: NDArray[np.float64]
    qualities: tuple[float, ...]
    """Believed, in the order of the router's arms."""
    costs_usd: tuple[float, ...]
    """Expected; empty while nothing is known of some arm's costs."""


class _Outcome(Struct, frozen=True):
    prompt: str
    arm: str
    reward: float
    cost_usd: float
    call: float


class OutcomeRouter:
    """Picks one of `arms` for each prompt at a mean cost of `budget_usd`; `policy.half_life_h` is in calls here."""

    def __init__(
        self,
        arms: Sequence[str],
        budget_usd: float,
        seed: int,
        policy: LearningPolicy | None = None,
        warmup: Sequence[OutcomeRow] | None = None,
    ) -> None:
        self._arms = tuple(arms)
        if not self._arms or len(set(self._arms)) != len(self._arms):
            raise BadInputError(f"A router needs arms of different names, not {list(arms)}.")
        self._policy = policy or LearningPolicy(half_life_h=math.inf)
        self._planner = PlannerPolicy(learning=self._policy, max_escalations=1)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._pacer = Pacer(budget_usd)
        self._budget_usd = budget_usd
        self._purse = Purse(budget_usd)
        self._history: list[_Outcome] = []
        self._texts: dict[str, None] = {}
        self._fitted_on = 0
        self._calls = 0.0
        self._embedder: Embedder = hashing_embedder(HASHED_DIMENSION)
        self._bandit = self._new_bandit()
        if warmup:
            self._warm_up(warmup)

    def decide(self, prompt: str) -> Decision:
        """Pick an arm."""
        vector = self._vector(prompt)
        context = Context(vector, "")
        beliefs = self._bandit.beliefs(self._arms, context, [None] * len(self._arms), self._calls)
        usage = self._bandit.usage(self._arms, context, self._calls)
        costs = [cost for cost in usage if cost is not None]
        qualities = tuple(belief.mean for belief in beliefs)
        if len(costs) < len(self._arms):
            return self._first_try(Decision("", {}, 0.0, prompt, vector, qualities, ()), usage)
        lam = self._pacer.lam
        wanted = plan(
            _request(),
            self._candidates(beliefs, costs, lam),
            self._explorer(),
            Chance(self._rng, lam),
        )
        chances = {estimate.candidate: estimate.propensity for estimate in wanted.estimates}
        return Decision(wanted.primary_model, chances, lam, prompt, vector, qualities, tuple(costs))

    def learn(self, decision: Decision, reward: float, cost_usd: float) -> None:
        """Take in what the pick earned and cost."""
        self._learn(_Outcome(decision.prompt, decision.arm, reward, cost_usd, self._calls), decision.vector)
        self._pacer.observe(decision.qualities if decision.costs_usd else (), decision.costs_usd, cost_usd)
        if decision.costs_usd:
            self._pay_for_exploring(decision)
        self._calls += 1.0
        self._fit_when_due()

    def _first_try(self, decision: Decision, usage: Sequence[float | None]) -> Decision:
        """An arm that has no bill yet: what it costs cannot be known otherwise."""
        arm = self._arms[usage.index(None)]
        return msgspec.structs.replace(decision, arm=arm, propensities={arm: 1.0})

    def _candidates(self, beliefs: Sequence[Belief], costs: Sequence[float], lam: float) -> list[Candidate]:
        """The arms; those whose trial the purse cannot pay are taken at their mean, so that none is made."""
        best = max(range(len(costs)), key=lambda arm: beliefs[arm].mean - lam * costs[arm])
        forgets = math.isfinite(self._policy.half_life_h)
        saved_usd = PURSE_OF_SAVINGS * max(0.0, self._pacer.balance_usd) if forgets else 0.0
        reach_usd = costs[best] + self._purse.usd + saved_usd
        return [
            _candidate(name, belief, cost, belief.sd if cost <= reach_usd else 0.0)
            for name, belief, cost in zip(self._arms, beliefs, costs, strict=True)
        ]

    def _explorer(self) -> PlannerPolicy:
        """The policy with the share for now: a new router knows nothing and must try, a taught one need not."""
        half_life = self._policy.half_life_h
        known = self._calls if math.isinf(half_life) else min(self._calls, half_life / math.log(2.0))
        share = min(1.0, self._policy.exploration_share * EXPLORED_FREELY / max(1.0, known))
        learning = msgspec.structs.replace(self._policy, exploration_share=share)
        return msgspec.structs.replace(self._planner, learning=learning)

    def _pay_for_exploring(self, decision: Decision) -> None:
        costs = decision.costs_usd
        best = max(range(len(costs)), key=lambda arm: decision.qualities[arm] - decision.lam * costs[arm])
        extra_usd = max(0.0, costs[self._arms.index(decision.arm)] - costs[best])
        self._purse.fill(self._budget_usd)
        self._purse.pay(extra_usd)

    def _warm_up(self, rows: Sequence[OutcomeRow]) -> None:
        """Learn every arm's outcome of every row, each row a call; then plan on the menus that they would have made."""
        for row in rows:
            for arm in self._arms:
                if arm not in row.rewards or arm not in row.costs_usd:
                    raise BadInputError(f"A warm-up row knows nothing of arm {arm!r}: it needs every arm's outcome.")
                outcome = _Outcome(row.prompt, arm, row.rewards[arm], row.costs_usd[arm], self._calls)
                self._keep(outcome)
            self._calls += 1.0
        self._fit()
        latest = [Context(self._vector(row.prompt), "") for row in rows[-512:]]
        unmeasured = [None] * len(self._arms)
        values = [
            [belief.mean for belief in self._bandit.beliefs(self._arms, context, unmeasured, self._calls)]
            for context in latest
        ]
        costs = [self._bandit.usage(self._arms, context, self._calls) for context in latest]
        self._pacer.prime(np.array(values), np.array(costs, dtype=np.float64))

    def _learn(self, outcome: _Outcome, vector: NDArray[np.float64]) -> None:
        self._keep(outcome)
        self._teach(outcome, vector)

    def _keep(self, outcome: _Outcome) -> None:
        if len(self._texts) < MOST_TEXTS and len(self._history) < _MOST_OUTCOMES:
            self._texts[outcome.prompt] = None
            self._history.append(outcome)

    def _teach(self, outcome: _Outcome, vector: NDArray[np.float64]) -> None:
        context = Context(vector, "")
        self._bandit.learn(outcome.arm, context, outcome.reward, outcome.call)
        self._bandit.learn_usage(outcome.arm, context, max(outcome.cost_usd, _LEAST_COST_USD), outcome.call)

    def _fit_when_due(self) -> None:
        texts = len(self._texts)
        if texts < MOST_TEXTS and texts >= max(FIRST_FIT_TEXTS, 2 * self._fitted_on):
            self._fit()

    def _fit(self) -> None:
        """A new embedding of the texts so far, and all outcomes so far learned in it."""
        self._fitted_on = len(self._texts)
        if self._fitted_on >= FIRST_FIT_TEXTS:
            self._embedder = fit_embedder(self._texts, FITTED_DIMENSION)
        self._bandit = self._new_bandit()
        vectors = {text: self._vector(text) for text in self._texts}
        for outcome in self._history:
            self._teach(outcome, vectors[outcome.prompt])

    def _new_bandit(self) -> Bandit:
        return Bandit(self._policy, f"{VERSION}+{self._embedder.name}", len(self._vector("")))

    def _vector(self, prompt: str) -> NDArray[np.float64]:
        return np.concatenate(((1.0,), text_features(prompt), self._embedder.embed(prompt)))


def _request() -> PlanRequest:
    """No limit binds: a replay has one tier, all of it quality, and the ceiling is the pacer's business."""
    features = TaskFeatures(signature="", prompt_tokens=0, max_tokens=0, expected_output_tokens=0)
    terms = Terms("replay", math.inf, math.inf, "D", quality_sla=1.0)
    return PlanRequest(features, UNKNOWN_CLUSTER, terms, cluster_matched=False)


def _candidate(name: str, belief: Belief, cost_usd: float, sd: float) -> Candidate:
    return Candidate(
        name=name,
        kind="model",
        backend="outcomes",
        stage="active",
        safety_grade="A",
        context_len=1,
        prices=_FREE,
        clusters=("*",),
        tools=True,
        response_formats=True,
        first_token_ms=0.0,
        tokens_per_s=1.0,
        quality=belief.mean,
        quality_sd=sd,
        evidence=belief.evidence,
        expected_cost_usd=cost_usd,
        quality_if_believed=belief.mean,
        p_believed=1.0,
    )


_FREE: Final = Prices()
