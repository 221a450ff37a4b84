"""Errors at the edge: which HTTP status, which OpenAI error type and which log level each class of error has.

One body on every route: `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from registry import errors
from registry.errors import JourneymanError


class EdgeError(Struct, frozen=True):
    """How one class of error looks from outside."""

    status: int
    type: str
    log_level: str


TABLE: dict[type[JourneymanError], EdgeError] = {
    errors.JourneymanError: EdgeError(500, "server_error", "error"),
    errors.BadInputError: EdgeError(400, "invalid_request_error", "info"),
    errors.InvalidRequestError: EdgeError(400, "invalid_request_error", "info"),
    errors.ConfigError: EdgeError(500, "server_error", "error"),
    errors.UnknownModelError: EdgeError(404, "invalid_request_error", "info"),
    errors.NotFoundError: EdgeError(404, "invalid_request_error", "info"),
    errors.WorkloadError: EdgeError(400, "invalid_request_error", "info"),
    errors.AuthenticationError: EdgeError(401, "authentication_error", "warning"),
    errors.PermissionDeniedError: EdgeError(403, "permission_error", "warning"),
    errors.RateLimitedError: EdgeError(429, "rate_limit_error", "info"),
    errors.BudgetExceededError: EdgeError(429, "insufficient_quota", "warning"),
    errors.PayloadTooLargeError: EdgeError(413, "invalid_request_error", "info"),
    errors.NoCandidateError: EdgeError(422, "no_candidate", "warning"),
    errors.VerificationFailedError: EdgeError(502, "verification_error", "warning"),
    errors.BackendError: EdgeError(502, "upstream_error", "warning"),
    errors.BackendUnavailableError: EdgeError(502, "upstream_error", "warning"),
    errors.BackendTimeoutError: EdgeError(504, "upstream_timeout", "warning"),
    errors.BackendRejectedError: EdgeError(400, "invalid_request_error", "info"),
    errors.BackendOverloadedError: EdgeError(503, "upstream_error", "warning"),
    errors.BreakerOpenError: EdgeError(503, "upstream_error", "warning"),
    errors.StreamCutError: EdgeError(502, "upstream_error", "warning"),
    errors.StorageError: EdgeError(503, "server_error", "error"),
    errors.StoreLockedError: EdgeError(503, "server_error", "warning"),
    errors.IntegrityError: EdgeError(503, "server_error", "error"),
    errors.RedactionError: EdgeError(500, "server_error", "error"),
    errors.EnvironmentFaultError: EdgeError(500, "server_error", "error"),
    errors.GateFailedError: EdgeError(500, "server_error", "warning"),
}


def edge_of(error: BaseException) -> EdgeError:
    """The row for an error; a stranger's error is a 500."""
    return TABLE.get(type(error), TABLE[JourneymanError])  # type: ignore[arg-type]


def error_body(error: BaseException) -> dict[str, Any]:
    """OpenAI's error body. A stranger's message is never shown: it may hold what must not leave."""
    edge = edge_of(error)
    if isinstance(error, JourneymanError):
        return _body(error.message, edge.type, error.param, error.code)
    return _body("Something broke on our side; the log has it under this call's id.", edge.type, None, "internal_error")


def http_error_body(status: int, message: str) -> dict[str, Any]:
    """The same body for what the framework refuses by itself: unknown routes, methods, media types."""
    code = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}.get(status, "invalid_request")
    return _body(message, "server_error" if status >= 500 else "invalid_request_error", None, code)


def error_headers(error: BaseException) -> dict[str, str]:
    """`retry-after` where the error knows it."""
    wait_s = getattr(error, "retry_after_s", None)
    return {} if wait_s is None else {"retry-after": str(max(1, round(wait_s)))}


def _body(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
