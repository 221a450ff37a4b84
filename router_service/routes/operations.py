"""GET /healthz, GET /readyz, GET /metrics: for orchestrators and Prometheus, without a key."""

from typing import Any

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from ..services import Services

Gateway = NamedDependency[SkipValidation[Services]]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@get("/healthz", sync_to_thread=False)
def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@get("/readyz", sync_to_thread=False)
def ready(services: Gateway) -> Response[dict[str, Any]]:
    """Whether calls can be answered, and what is not as it should be."""
    report = services.readiness()
    return Response(report, status_code=200 if report["status"] != "unavailable" else 503)


@get("/metrics", media_type=MediaType.TEXT, sync_to_thread=False)
def metrics(services: Gateway) -> Response[bytes]:
    """Prometheus text."""
    services.sample_gauges()
    return Response(services.metrics.exposition(), headers={"content-type": _PROMETHEUS})
