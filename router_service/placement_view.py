"""Loaded adapters as operators see them: on /readyz and as metrics. Label values come from registry.yaml alone."""

from __future__ import annotations

from typing import Any

from specialists.placed import PlacedBackend

from .metrics import Metrics
from .roster import Roster


def shown(roster: Roster) -> dict[str, dict[str, Any]]:
    """For each backend on which not every adapter fits: who is loaded, and the demand of all, in calls of late."""
    found = {}
    for name, backend in roster.backends().items():
        if isinstance(backend, PlacedBackend) and not backend.placement.all_fit:
            placement = backend.placement
            demand = {one: round(placement.demand(one), 1) for one in sorted(placement.competing())}
            found[name] = {"limit": placement.limit, "resident": sorted(placement.resident()), "demand": demand}
    return found


def sample(metrics: Metrics, roster: Roster) -> None:
    """Bring the adapters' metrics up to date."""
    sets = roster.adapter_sets()
    for gauge in ("adapters_ready", "adapters_resident", "adapter_load_seconds"):
        metrics.keep_only(f"journeyman_{gauge}", set(sets))
    outcomes = {(name, outcome) for name in sets for outcome in ("loaded", "failed")}
    metrics.keep_only("journeyman_adapter_loads_total", outcomes)
    for name, adapters in sets.items():
        loading = adapters.loading
        metrics.set("journeyman_adapters_ready", name, value=float(len(adapters.ready_names())))
        metrics.set("journeyman_adapters_resident", name, value=float(len(adapters.wanted())))
        metrics.set("journeyman_adapter_load_seconds", name, value=loading.load_ms / 1e3)
        metrics.count_to("journeyman_adapter_loads_total", name, "loaded", total=float(loading.loaded))
        metrics.count_to("journeyman_adapter_loads_total", name, "failed", total=float(loading.failed))
