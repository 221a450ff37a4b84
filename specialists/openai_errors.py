"""What an upstream's status or error object means, as one of our errors.

The upstream's own words are passed on cut short, without control characters and without our key.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct

from registry.entries import BackendEntry
from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendRejectedError,
    BackendUnavailableError,
)

MAX_MESSAGE_CHARS = 400
LONGEST_RETRY_AFTER_S = 3600.0


class Upstream(Struct, frozen=True):
    """Who answered, and what must not be repeated."""

    entry: BackendEntry
    secret: str | None = None


def status_error(upstream: Upstream, status: int, headers: dict[bytes, bytes], body: bytes) -> BackendError:
    """Return the error for an answer whose status is not 2xx."""
    said = clean(_message_in(body), upstream.secret)
    entry = upstream.entry
    where = f"backend {entry.name!r} answered {status}"
    if status in (401, 403):
        return never_again(
            BackendUnavailableError(f"{where}: {_key_advice(entry)} It said: {said}", backend=entry.name)
        )
    if 300 <= status < 400:
        advice = f"redirects are not followed; correct the `url` of the backend ({entry.url})."
        return never_again(BackendUnavailableError(f"{where}: {advice}", backend=entry.name))
    if status in (429, 503):
        wait_s = _retry_after_s(headers.get(b"retry-after", b""))
        return BackendOverloadedError(f"{where}: {said}", backend=entry.name, retry_after_s=wait_s)
    if status >= 500 or status in (408, 425):
        return BackendUnavailableError(f"{where}: {said}", backend=entry.name)
    return BackendRejectedError(f"{where}: {said}", backend=entry.name, status=status)


def event_error(upstream: Upstream, error: Any) -> BackendError:
    """Return the error for an `error` object that came with a status of 200."""
    name = upstream.entry.name
    said = clean(_words(error), upstream.secret)
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        body = msgspec.json.encode({"error": {"message": said}})
        return status_error(upstream, code, {}, body)
    return BackendError(f"backend {name!r} reported an error: {said}", backend=name)


def never_again(error: BackendError) -> BackendError:
    """Mark an error that the same backend would repeat until its operator mends something."""
    error.retryable = False
    return error


def clean(text: str, secret: str | None = None) -> str:
    """Return foreign text fit for a message: one line, printable, short, without the secret."""
    if secret:
        text = text.replace(secret, "***")
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_MESSAGE_CHARS]).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[:MAX_MESSAGE_CHARS] + "..."


def _key_advice(entry: BackendEntry) -> str:
    if entry.api_key_env:
        return f"the key in ${entry.api_key_env} was refused."
    return "it wants a key; name its environment variable as `api_key_env` of the backend."


def _message_in(body: bytes) -> str:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return body[:2000].decode("utf-8", "replace") or "(no body)"
    if isinstance(value, dict) and "error" in value:
        return _words(value["error"])
    return _words(value)


def _words(error: Any) -> str:
    """Find the message in the shapes that servers use: OpenAI's, FastAPI's `detail`, plain text."""
    if isinstance(error, dict):
        for key in ("message", "detail", "error"):
            if isinstance(error.get(key), str):
                return str(error[key])
    return error if isinstance(error, str) else str(error)[:2000]


def _retry_after_s(header: bytes) -> float:
    """Read Retry-After in seconds; the date form, and nonsense, count as one second."""
    try:
        wait_s = float(header)
    except ValueError:
        return 1.0
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(wait_s) else 1.0
