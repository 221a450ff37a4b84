"""The application: routes on services, errors in OpenAI's body, start and stop.

`create_app(settings)` builds a gateway of its own; tests may pass ready services.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, asgi
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import Receive, Scope, Send

from registry.errors import InvalidRequestError, JourneymanError

from .error_responses import edge_of, error_body, error_headers, http_error_body
from .exchange import send_json
from .log import get
from .routes import calls, operations, resources
from .services import Services
from .settings import Settings

_log = get("app")


def create_app(settings: Settings, services: Services | None = None) -> Litestar:
    """Return the ASGI application; its life span starts and stops the services."""
    parts = services or Services(settings)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        await parts.start()
        try:
            yield
        finally:
            await parts.stop()

    def provide_services() -> Services:
        return parts

    return Litestar(
        route_handlers=[
            _call_route("/v1/chat/completions", parts, calls.CHAT),
            _call_route("/v1/ask", parts, calls.ASK),
            resources.list_models,
            resources.show_model,
            resources.show_plan,
            resources.take_feedback,
            operations.health,
            operations.ready,
            operations.metrics,
        ],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers={
            JourneymanError: _on_error,
            HTTPException: _on_http_error,
            Exception: _on_error,
        },
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=parts.settings.max_body_bytes,
    )


def _call_route(path: str, services: Services, endpoint: calls.Endpoint) -> Any:
    """A bare ASGI route: the hot path reads and writes for itself."""

    @asgi(path, copy_scope=False)
    async def call_route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            await send_json(send, 405, http_error_body(405, f"Send {path} as POST."), {"allow": "POST"})
            return
        await calls.serve_call(services, endpoint, scope, receive, send)  # type: ignore[arg-type]

    return call_route


def _on_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    edge = edge_of(error)
    if not isinstance(error, JourneymanError):
        _log.error("request failed", exc_info=error)
    return _json(edge.status, error_body(error), error_headers(error))


def _on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code == 400:
        return _json(400, error_body(InvalidRequestError(error.detail)), {})
    return _json(error.status_code, http_error_body(error.status_code, error.detail), dict(error.headers or {}))


def _json(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type=MediaType.JSON)
