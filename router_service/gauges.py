"""Brings up to date what is only known when somebody asks: backends, beliefs, the spend ceiling, trainings."""

from __future__ import annotations

import math
from typing import Final

from observations.spool import Spool
from observations.training_jobs import JobsReader
from registry.stages import serves_callers

from . import placement_view, replica_view
from .beliefs import Beliefs
from .metrics import Metrics
from .roster import Roster

CLUSTERS_SHOWN: Final = 50
"""Beliefs are shown for the clusters of the latest calls; with thousands of them Prometheus would choke."""


def sample(metrics: Metrics, roster: Roster, beliefs: Beliefs, spool: Spool) -> None:
    """Set every gauge."""
    _backends(metrics, roster)
    replica_view.sample(metrics, roster)
    placement_view.sample(metrics, roster)
    _beliefs(metrics, roster, beliefs)
    _specialists(metrics, roster, beliefs)
    _spend(metrics, beliefs)
    metrics.set("journeyman_spool_bytes", value=float(spool.stats().used_bytes))


def count_trainings(metrics: Metrics, jobs: JobsReader) -> None:
    """Count the trainings that ended since the last time, all those of the state at the first."""
    for job in jobs.new_jobs():
        metrics.add("journeyman_training_jobs_total", job.outcome)
        metrics.observe("journeyman_training_seconds", job.outcome, value=job.seconds)


def _backends(metrics: Metrics, roster: Roster) -> None:
    metrics.keep_only("journeyman_backend_up", set(roster.backends()))
    for name, backend in roster.backends().items():
        metrics.set("journeyman_backend_up", name, value=float(backend.health().ok))


def _beliefs(metrics: Metrics, roster: Roster, beliefs: Beliefs) -> None:
    """One posterior for each candidate and recent cluster of which something was learned."""
    shown: set[tuple[str, ...]] = set()
    for cluster in beliefs.recent_clusters(CLUSTERS_SHOWN):
        for name, belief in roster.beliefs_in(cluster).items():
            if belief.evidence < 1.0:
                continue
            shown.add((name, cluster))
            metrics.set("journeyman_belief_quality_ratio", name, cluster, value=belief.mean)
            metrics.set("journeyman_belief_quality_sd_ratio", name, cluster, value=belief.sd)
            metrics.set("journeyman_belief_outcomes", name, cluster, value=belief.evidence)
    for gauge in ("quality_ratio", "quality_sd_ratio", "outcomes"):
        metrics.keep_only(f"journeyman_belief_{gauge}", shown)


def _specialists(metrics: Metrics, roster: Roster, beliefs: Beliefs) -> None:
    """Coverage and risk of each specialist's threshold, and the share of clusters that one serves."""
    specialists = [c for c in roster.contenders.values() if c.candidate.kind == "specialist"]
    shown: dict[str, set[str | tuple[str, ...]]] = {}

    def show(gauge: str, name: str, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            shown.setdefault(gauge, set()).add(name)
            metrics.set(gauge, name, value=value)

    for one in specialists:
        coverage = beliefs.confidence.coverage(one.name, one.threshold)
        risk = beliefs.confidence.risk(one.name, one.threshold)
        show("journeyman_specialist_threshold_logprob", one.name, roster.threshold(one))
        show("journeyman_specialist_coverage_ratio", one.name, coverage.share if coverage else None)
        show("journeyman_specialist_risk_ratio", one.name, risk.share if risk else None)
        show("journeyman_specialist_risk_upper_ratio", one.name, risk.upper if risk else None)
    for gauge in ("threshold_logprob", "coverage_ratio", "risk_ratio", "risk_upper_ratio"):
        metrics.keep_only(f"journeyman_specialist_{gauge}", shown.get(f"journeyman_specialist_{gauge}", set()))
    served = {
        cluster for one in specialists if serves_callers(one.candidate.stage) for cluster in one.candidate.clusters
    }
    seen = set(beliefs.recent_clusters())
    metrics.set("journeyman_cluster_coverage_ratio", value=len(seen & served) / len(seen) if seen else 0.0)


def _spend(metrics: Metrics, beliefs: Beliefs) -> None:
    pace = beliefs.pace
    ceiling_usd = pace.ceiling_usd_per_call
    if ceiling_usd is not None:
        metrics.set("journeyman_spend_ceiling_usd_per_call", value=ceiling_usd)
    metrics.set("journeyman_spend_balance_usd", value=pace.balance_usd)
    metrics.set("journeyman_spend_lam_quality_per_usd", value=pace.lam)
