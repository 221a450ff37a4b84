"""Replicas as operators see them: on /readyz and as metrics. Label values come from registry.yaml alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specialists.replica import Replica
from specialists.replicas import ReplicatedBackend

from .metrics import Metrics
from .roster import Roster


def replicas_of(roster: Roster) -> Iterator[tuple[str, Replica]]:
    """Yield every replica with its backend's name."""
    for name, backend in roster.backends().items():
        if isinstance(backend, ReplicatedBackend):
            for replica in backend.replicas:
                yield name, replica


def shown(roster: Roster) -> dict[str, dict[str, Any]]:
    """What is known of each replica, by backend and `host:port`."""
    found: dict[str, dict[str, Any]] = {}
    for name, replica in replicas_of(roster):
        health = replica.health()
        found.setdefault(name, {})[replica.name] = {
            "ok": health.ok,
            "reason": health.reason,
            "draining": replica.draining,
            "calls_in_flight": replica.outstanding,
            "adapters": sorted(replica.ready),
        }
    return found


def troubles(roster: Roster) -> list[str]:
    """A line for each replica that should take calls and cannot."""
    return [
        f"backend {name}, replica {replica.name}: {replica.health().reason}"
        for name, replica in replicas_of(roster)
        if not replica.draining and not replica.health().ok
    ]


def sample(metrics: Metrics, roster: Roster) -> None:
    """Bring the replicas' metrics up to date."""
    there = {(name, replica.name): replica for name, replica in replicas_of(roster)}
    for metric in ("up", "calls_in_flight", "failovers_total"):
        metrics.keep_only(f"journeyman_replica_{metric}", there.keys())
    for labels, replica in there.items():
        metrics.set("journeyman_replica_up", *labels, value=float(replica.health().ok))
        metrics.set("journeyman_replica_calls_in_flight", *labels, value=float(replica.outstanding))
        metrics.count_to("journeyman_replica_failovers_total", *labels, total=float(replica.failovers))
