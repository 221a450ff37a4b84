"""registry.yaml to a catalog, strictly; and the holder that swaps catalogs and keeps the last good one.

Knows nothing of who listens or how a failure is shown: `ReloadStatus` carries what a log line, a metric and
`/readyz` need.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from .catalog import Catalog
from .checks import check_registry
from .entries import RegistryFile
from .errors import ConfigError
from .findings import ConfigFileError, Finding, Spot
from .strict_yaml import parse_strict
from .yaml_positions import MAX_BYTES


class Loaded(Struct, frozen=True):
    """A good catalog, what is worth a warning, and where each entry stands (`$.models[0]` to its line)."""

    catalog: Catalog
    warnings: tuple[Finding, ...]
    spots: Mapping[str, Spot]
    source_name: str


class ReloadStatus(Struct, frozen=True):
    """How the last load went. `digest` and `loaded_at_ms` (epoch) are those of the catalog in use."""

    ok: bool
    error: str | None
    """Every finding, one a line; None when the file as it stands is in use."""
    loaded_at_ms: int
    digest: str
    reloads_total: int = 0
    """Times that a changed file was taken over."""
    failures_total: int = 0
    """Times that a changed file was refused."""
    warnings: tuple[str, ...] = ()


class Attempt(Struct, frozen=True):
    """One reading of the file: what came of it, not yet in use."""

    content_digest: str
    loaded: Loaded | None = None
    error: str | None = None


Listener = Callable[[Catalog], None]


def load_catalog(path: Path | str, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a registry file.

    `environ` (the process's own when None) is where `${NAME}` and `api_key_env` are looked up. Raises
    ConfigFileError, a ConfigError, with every error found.
    """
    path = Path(path)
    return parse_catalog(read_text(path), path, environ)


def parse_catalog(text: str, path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Check a registry's text as if it stood at the path. Raises ConfigFileError."""
    environ = os.environ if environ is None else environ
    parsed = parse_strict(text, RegistryFile, path.name, environ)
    findings = check_registry(parsed.value, parsed.spots, path.parent, environ)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigFileError(findings, path.name)
    return Loaded(Catalog.of(parsed.value), tuple(findings), parsed.spots, path.name)


def read_text(path: Path) -> str:
    """Return a file's text. Raises ConfigFileError when it is missing, too large or not UTF-8."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise _whole_file(path, f"cannot be read: {error.strerror}", f"looked for {path}") from None
    except UnicodeDecodeError as error:
        raise _whole_file(path, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None


def _whole_file(path: Path, message: str, hint: str) -> ConfigFileError:
    return ConfigFileError([Finding(1, 1, "$", message, hint)], path.name)


class CatalogHolder:
    """The catalog in use. `reload` swaps it as a whole, or leaves it alone and says why.

    Readers take `.catalog` once per request and never see a mixture. The first load raises ConfigFileError.
    """

    def __init__(self, path: Path | str, environ: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self._environ = environ
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        text = read_text(self.path)
        self._last = Attempt(_content_digest(text), parse_catalog(text, self.path, environ))
        assert self._last.loaded is not None
        self._catalog = self._last.loaded.catalog
        self._status = ReloadStatus(
            ok=True,
            error=None,
            loaded_at_ms=_now_ms(),
            digest=self._catalog.digest,
            warnings=_rendered(self._last.loaded),
        )

    @property
    def catalog(self) -> Catalog:
        """The last good catalog; immutable."""
        return self._catalog

    @property
    def status(self) -> ReloadStatus:
        """How the last load went."""
        return self._status

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have the listener called with each new catalog, after the swap; return what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def reload(self) -> ReloadStatus:
        """Read the file again now. Never raises for what the file holds."""
        return self.take(self.attempt())

    def attempt(self) -> Attempt:
        """Read and check the file without putting it in use; may run in another thread."""
        try:
            text = read_text(self.path)
        except ConfigError as error:
            return Attempt("", error=error.message)
        try:
            return Attempt(_content_digest(text), parse_catalog(text, self.path, self._environ))
        except ConfigError as error:
            return Attempt(_content_digest(text), error=error.message)

    def is_news(self, attempt: Attempt) -> bool:
        """Say whether an attempt differs from the one before: other content, or another outcome."""
        before = self._last
        return (attempt.content_digest, attempt.error) != (before.content_digest, before.error)

    def take(self, attempt: Attempt) -> ReloadStatus:
        """Put an attempt in use when it is good, and return the new status.

        A listener that fails does not stop the swap or the other listeners; the status then says so.
        """
        with self._lock:
            before = self._status
            self._last = attempt
            if attempt.loaded is None:
                self._status = replace(before, ok=False, error=attempt.error, failures_total=before.failures_total + 1)
                return self._status
            catalog = attempt.loaded.catalog
            changed = catalog.digest != self._catalog.digest
            self._catalog = catalog
            problem = self._tell(catalog) if changed else None
            self._status = ReloadStatus(
                ok=problem is None,
                error=problem,
                loaded_at_ms=_now_ms(),
                digest=catalog.digest,
                reloads_total=before.reloads_total + 1,
                failures_total=before.failures_total + (problem is not None),
                warnings=_rendered(attempt.loaded),
            )
            return self._status

    def _tell(self, catalog: Catalog) -> str | None:
        problem = None
        for listener in tuple(self._listeners):
            try:
                listener(catalog)
            except Exception as error:  # the boundary to code we do not know; named in the status
                problem = f"the new catalog is in use, but a listener failed: {type(error).__name__}: {error}"
        return problem


def _rendered(loaded: Loaded) -> tuple[str, ...]:
    return tuple(finding.render(loaded.source_name) for finding in loaded.warnings)


def _content_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _now_ms() -> int:
    return int(time.time() * 1000)
