"""Whether a backend's urls can be right: scheme, host, secrets in them, who could listen on the way, and duplicates."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult, urlsplit

from .entries import BackendKind
from .findings import Severity

Problem = tuple[Severity, str, str]


def url_problems(url: str, kind: BackendKind) -> Iterator[Problem]:
    """Yield (severity, message, hint) for everything that is wrong with a backend's url."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may quote a password, so it is not repeated
        yield "error", "not a url", "e.g. http://127.0.0.1:8000/v1"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in url):
        yield "error", "must be an http:// or https:// url with a host", "e.g. http://127.0.0.1:8000/v1"
        return
    if parts.username is not None or parts.password is not None:
        yield "error", "holds credentials", "name a variable under api_key_env instead"
    if parts.query or parts.fragment:
        yield "error", "may have neither a query nor a fragment", "write it up to and including /v1"
    yield from _exposure(parts, kind)
    if kind == "vllm" and not parts.path.rstrip("/").endswith("/v1"):
        yield "warning", "does not end in /v1", "vLLM's OpenAI routes are below /v1"


def replica_problems(urls: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (index, message, hint) for urls that cannot be replicas of one server: the same one twice, other paths.

    A url that is wrong by itself is left to `url_problems`.
    """
    first: dict[tuple[str, int], int] = {}
    path: str | None = None
    for index, url in enumerate(urls):
        try:
            parts = urlsplit(url)
            at = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        except ValueError:
            continue
        if first.setdefault(at, index) != index:
            yield index, f"{at[0]}:{at[1]} is there already, as urls[{first[at]}]", "each replica once"
        path = parts.path.rstrip("/") if path is None else path
        if parts.path.rstrip("/") != path:
            said = f"its path is {parts.path or '/'!r}, and that of urls[0] is {path or '/'!r}"
            yield index, said, "replicas serve the same models under the same path"


def is_loopback(host: str) -> bool:
    """Say whether a host name or address stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _exposure(parts: SplitResult, kind: BackendKind) -> Iterator[Problem]:
    if is_loopback(parts.hostname or ""):
        return
    if kind == "vllm":
        hint = "vLLM's key guards only some routes: bind it to 127.0.0.1, or to a private network"
        yield "warning", "is not on this machine", hint
    elif parts.scheme == "http":
        yield "warning", "sends prompts and the key in the clear", "use https"
