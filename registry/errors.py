"""The one error tree. Classes carry what a caller must know; HTTP status and log level are tables at the edge.

JourneymanError
├── BadInputError              the caller's or operator's text is wrong
│   ├── InvalidRequestError    a request that cannot be served as it stands
│   ├── ConfigError            registry.yaml, a policy file or a setting
│   ├── UnknownModelError
│   ├── NotFoundError          no such record, plan, cluster, route
│   └── WorkloadError          a workload folder or row that cannot be read
├── AuthenticationError
├── PermissionDeniedError
├── RateLimitedError
├── BudgetExceededError
├── PayloadTooLargeError
├── NoCandidateError           every candidate was rejected; the reasons are in the message
├── VerificationFailedError    the chain is spent and no answer was believed
├── BackendError
│   ├── BackendUnavailableError   refused, reset, 5xx, died
│   ├── BackendTimeoutError       a deadline passed; `phase` says which
│   ├── BackendRejectedError      the backend answered 4xx
│   ├── BackendOverloadedError    429 or 503 with a wait
│   ├── BreakerOpenError          not tried: it failed too often just now
│   └── StreamCutError            the stream ended without its end
├── StorageError
│   ├── StoreLockedError
│   └── IntegrityError         signed or content-addressed data is not what was signed
├── RedactionError             fails closed: nothing is written
├── EnvironmentFaultError      a missing program, package, folder or port
└── GateFailedError            a check that is meant to fail did
"""

from __future__ import annotations


class JourneymanError(Exception):
    """Base of every error we raise on purpose. `code` is stable and machine-readable."""

    code: str = "internal_error"
    retryable: bool = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadInputError(JourneymanError):
    """What was given is wrong; the message names the place and the mend."""

    code = "bad_input"


class InvalidRequestError(BadInputError):
    """A request that cannot be served as it stands. `param` is the path of the offending field."""

    code = "invalid_request"


class ConfigError(BadInputError):
    """A registry, policy or settings file is wrong. The message holds every finding, one a line."""

    code = "invalid_config"


class UnknownModelError(BadInputError):
    """No model, specialist or alias has this name."""

    code = "model_not_found"


class NotFoundError(BadInputError):
    """No such record, plan, cluster or route."""

    code = "not_found"


class WorkloadError(BadInputError):
    """A workload folder or row cannot be read."""

    code = "invalid_workload"


class AuthenticationError(JourneymanError):
    """No key, or a key that is not known."""

    code = "invalid_api_key"


class PermissionDeniedError(JourneymanError):
    """A known key that may not do this."""

    code = "permission_denied"


class RateLimitedError(JourneymanError):
    """Too many requests; `retry_after_s` says when to try again."""

    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetExceededError(JourneymanError):
    """The caller's or tenant's money is spent."""

    code = "insufficient_quota"


class PayloadTooLargeError(JourneymanError):
    """The body is over the limit that the settings name."""

    code = "payload_too_large"


class NoCandidateError(JourneymanError):
    """Every candidate was rejected; the message lists the reasons."""

    code = "no_candidate"


class VerificationFailedError(JourneymanError):
    """The whole chain was tried and no answer was believed."""

    code = "verification_failed"


class BackendError(JourneymanError):
    """A backend did not answer as it should."""

    code = "backend_error"
    retryable = True

    def __init__(self, message: str, *, backend: str = "") -> None:
        super().__init__(message)
        self.backend = backend


class BackendUnavailableError(BackendError):
    """Connection refused or reset, a 5xx, or a dead process."""

    code = "backend_unavailable"


class BackendTimeoutError(BackendError):
    """A deadline passed. `phase` is one of connect, first_token, between_tokens, total."""

    code = "backend_timeout"

    def __init__(self, message: str, *, backend: str = "", phase: str = "total") -> None:
        super().__init__(message, backend=backend)
        self.phase = phase


class BackendRejectedError(BackendError):
    """The backend refused the request itself (4xx); sending it again will not help."""

    code = "backend_rejected"
    retryable = False

    def __init__(self, message: str, *, backend: str = "", status: int = 400) -> None:
        super().__init__(message, backend=backend)
        self.status = status


class BackendOverloadedError(BackendError):
    """The backend asked for patience (429, 503)."""

    code = "backend_overloaded"

    def __init__(self, message: str, *, backend: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, backend=backend)
        self.retry_after_s = retry_after_s


class BreakerOpenError(BackendError):
    """Not tried: the backend failed too often a moment ago; `retry_after_s` says when it is tried again."""

    code = "backend_breaker_open"

    def __init__(self, message: str, *, backend: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, backend=backend)
        self.retry_after_s = retry_after_s


class StreamCutError(BackendError):
    """The backend's stream ended without its closing event."""

    code = "stream_cut"


class StorageError(JourneymanError):
    """The spool or the store cannot be read or written."""

    code = "storage_error"


class StoreLockedError(StorageError):
    """Another process holds the store open for writing."""

    code = "store_locked"


class IntegrityError(StorageError):
    """Data that was signed, or is named by its digest, is not what it was; the message names the file."""

    code = "integrity_error"


class RedactionError(JourneymanError):
    """The text could not be redacted, so nothing was written."""

    code = "redaction_failed"


class EnvironmentFaultError(JourneymanError):
    """A program, package, folder or port that is needed is missing; the message says how to get it."""

    code = "environment"


class GateFailedError(JourneymanError):
    """A gate was evaluated and did not pass."""

    code = "gate_failed"
