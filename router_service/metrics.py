"""Every Prometheus metric of the gateway. Label values come from the roster, so a caller cannot make new series.

The table METRICS is what the README documents and what the dashboards are checked against.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TRAINING_SECONDS = (10, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400)
_DECISION_SECONDS = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.0025, 0.005, 0.01)

METRICS: dict[str, tuple[type[Any], str, tuple[str, ...]]] = {
    "journeyman_calls_total": (Counter, "Calls by how they ended.", ("route", "cluster", "served_by", "outcome")),
    "journeyman_call_seconds": (Histogram, "From admission to the answer's end.", ("route", "served_by")),
    "journeyman_first_token_seconds": (Histogram, "From admission to the first token of a stream.", ("served_by",)),
    "journeyman_decision_seconds": (Histogram, "Signature, classification, constraints and plan.", ()),
    "journeyman_classified_total": (Counter, "Calls by what found their cluster.", ("source",)),
    "journeyman_decisions_total": (Counter, "Plans by primary; explored: drawn to learn.", ("primary", "choice")),
    "journeyman_regret_quality_total": (
        Counter,
        "Predicted quality of the best available less that of the primary, summed over plans.",
        ("cluster",),
    ),
    "journeyman_belief_quality_ratio": (Gauge, "Posterior mean of P(right).", ("candidate", "cluster")),
    "journeyman_belief_quality_sd_ratio": (Gauge, "Standard deviation of that posterior.", ("candidate", "cluster")),
    "journeyman_belief_outcomes": (Gauge, "Outcomes behind it, old ones counting less.", ("candidate", "cluster")),
    "journeyman_specialist_coverage_ratio": (Gauge, "Share of its answers that are sure enough.", ("specialist",)),
    "journeyman_specialist_risk_ratio": (Gauge, "Share of its calls accepted and wrong.", ("specialist",)),
    "journeyman_specialist_risk_upper_ratio": (Gauge, "Upper limit of that share.", ("specialist",)),
    "journeyman_specialist_threshold_logprob": (Gauge, "Least confidence that is believed.", ("specialist",)),
    "journeyman_shadow_total": (Counter, "Calls mirrored to a shadow, by what came of it.", ("specialist", "outcome")),
    "journeyman_demotions_total": (Counter, "Specialists taken out of service, by why.", ("specialist", "cause")),
    "journeyman_cluster_coverage_ratio": (Gauge, "Share of the clusters seen that a live specialist serves.", ()),
    "journeyman_spend_ceiling_usd_per_call": (Gauge, "What a call may cost on average; absent without a ceiling.", ()),
    "journeyman_spend_balance_usd": (Gauge, "Allowed by the ceiling since the start, less what was spent.", ()),
    "journeyman_spend_lam_quality_per_usd": (Gauge, "Quality that a dollar must buy; 0 while no ceiling binds.", ()),
    "journeyman_attempts_total": (Counter, "Attempts by what came of them.", ("candidate", "outcome")),
    "journeyman_attempt_seconds": (Histogram, "One attempt's latency.", ("candidate",)),
    "journeyman_escalations_total": (Counter, "Calls that needed more than the primary.", ("cluster",)),
    "journeyman_tokens_total": (Counter, "Tokens by direction: prompt or completion.", ("candidate", "direction")),
    "journeyman_cost_usd_total": (Counter, "US dollars spent, every attempt counted.", ("cluster", "served_by")),
    "journeyman_frontier_cost_usd_total": (Counter, "What the frontier alone would have cost.", ("cluster",)),
    "journeyman_rejections_total": (Counter, "Candidates turned down by a hard constraint.", ("candidate", "code")),
    "journeyman_errors_total": (Counter, "Calls that ended in an error, by its code.", ("route", "code")),
    "journeyman_calls_in_flight": (Gauge, "Calls being answered now.", ()),
    "journeyman_feedback_total": (Counter, "Feedback received.", ("outcome",)),
    "journeyman_records_total": (Counter, "Records by fate: written, shed or failed.", ("fate",)),
    "journeyman_records_withheld_total": (Counter, "Records whose content was withheld, by the reason.", ("reason",)),
    "journeyman_redactions_total": (Counter, "Spans redacted before anything was written.", ("kind",)),
    "journeyman_spool_bytes": (Gauge, "Bytes in the spool that the store does not hold yet.", ()),
    "journeyman_backend_up": (Gauge, "1 when the backend can be asked, 0 while its breaker is open.", ("backend",)),
    "journeyman_replica_up": (Gauge, "1 when the replica can be asked, by its host:port.", ("backend", "replica")),
    "journeyman_replica_calls_in_flight": (Gauge, "Calls under way on the replica.", ("backend", "replica")),
    "journeyman_replica_failovers_total": (
        Counter,
        "Calls that failed on the replica and were tried on another.",
        ("backend", "replica"),
    ),
    "journeyman_adapters_ready": (Gauge, "Adapters that are loaded and have answered.", ("backend",)),
    "journeyman_adapters_resident": (Gauge, "Adapters that have a place: loaded, or on their way.", ("backend",)),
    "journeyman_adapter_loads_total": (Counter, "Loads of adapters: loaded or failed.", ("backend", "outcome")),
    "journeyman_adapter_load_seconds": (Gauge, "What a cold load takes, the latest counting most.", ("backend",)),
    "journeyman_training_jobs_total": (Counter, "Trainings on this state by how they ended.", ("outcome",)),
    "journeyman_training_seconds": (Histogram, "One training, from its first step to its end.", ("outcome",)),
    "journeyman_registry_reloads_total": (Counter, "Edits of registry.yaml by result: taken or refused.", ("result",)),
    "journeyman_registry_ok": (Gauge, "1 when the file on disk is the catalog in force.", ()),
}

_BUCKETS = {"journeyman_decision_seconds": _DECISION_SECONDS, "journeyman_training_seconds": _TRAINING_SECONDS}


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics = {name: self._make(name, *row) for name, row in METRICS.items()}
        self._children: dict[tuple[str, ...], Any] = {}
        self._totals: dict[tuple[str, ...], float] = {}

    def _make(self, name: str, kind: type[Any], text: str, labels: tuple[str, ...]) -> Any:
        if kind is Histogram:
            return Histogram(name, text, labels, buckets=_BUCKETS.get(name, _SECONDS), registry=self.registry)
        return kind(name, text, labels, registry=self.registry)

    def _child(self, *key: str) -> Any:
        child = self._children.get(key)
        if child is None:
            metric = self._metrics[key[0]]
            child = self._children[key] = metric.labels(*key[1:]) if len(key) > 1 else metric
        return child

    def add(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Count."""
        self._child(name, *labels).inc(amount)

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add a value to a histogram."""
        self._child(name, *labels).observe(value)

    def set(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        self._child(name, *labels).set(value)

    def count_to(self, name: str, *labels: str, total: float) -> None:
        """Bring a counter up to what was counted elsewhere; a total that fell began anew."""
        key = (name, *labels)
        before = self._totals.get(key, 0.0)
        self._totals[key] = total
        self.add(name, *labels, amount=total - before if total >= before else total)

    def keep_only(self, name: str, labels: Collection[str | tuple[str, ...]]) -> None:
        """Forget the series of a metric whose label values are not among these."""
        kept = {(label,) if isinstance(label, str) else label for label in labels}
        for key in [k for k in self._children if k[0] == name and k[1:] not in kept]:
            del self._children[key]
            self._totals.pop(key, None)
            self._metrics[name].remove(*key[1:])

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
