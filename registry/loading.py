"""registry.yaml, with the made specialists, to a catalog, strictly; and the holder that keeps the last good one.

Knows nothing of who listens or how a failure is shown: `ReloadStatus` carries what a log line, a metric and
`/readyz` need.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from .catalog import Catalog
from .checks import check_registry
from .entries import RegistryFile
from .errors import ConfigError
from .findings import ConfigFileError, Finding, Spot
from .strict_yaml import parse_strict
from .yaml_positions import MAX_BYTES

if TYPE_CHECKING:
    from .managed import Made  # and with it the signatures' library, which a registry without made ones needs not


class Loaded(Struct, frozen=True):
    """A good catalog, what is worth a warning, and where each entry stands (`$.models[0]` to its line)."""

    catalog: Catalog
    warnings: tuple[Finding, ...]
    spots: Mapping[str, Spot]
    source_name: str
    left_out: tuple[str, ...] = ()
    """Made specialists that are not in the catalog, and why, one line each."""
    alone: RegistryFile | None = None
    """The file without them."""


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
    left_out: tuple[str, ...] = ()
    """What is wrong with made specialists or their ledger, one line each; the catalog in use does without it."""


class Attempt(Struct, frozen=True):
    """One reading of the files: what came of it, not yet in use."""

    content_digest: str
    loaded: Loaded | None = None
    """With an error: the last good file, with the made specialists as they are now."""
    error: str | None = None


Listener = Callable[[Catalog], None]


class MadeSource(Protocol):
    """Where made specialists come from: `registry.managed.MadeSpecialists`."""

    def look(self) -> Made:
        """What should be served now; never raises for what is on the disk."""

    def watched(self) -> list[Path]:
        """The files whose change may change that."""


def load_catalog(path: Path | str, environ: Mapping[str, str] | None = None, made: Made | None = None) -> Loaded:
    """Read and check a registry file, and add the made specialists.

    `environ` (the process's own when None) is where `${NAME}` and `api_key_env` are looked up. Raises
    ConfigFileError, a ConfigError, with every error found in the file; a made specialist that does not fit is left out.
    """
    path = Path(path)
    return parse_catalog(read_text(path), path, environ, made)


def parse_catalog(text: str, path: Path, environ: Mapping[str, str] | None = None, made: Made | None = None) -> Loaded:
    """Check a registry's text as if it stood at the path. Raises ConfigFileError."""
    environ = os.environ if environ is None else environ
    parsed = parse_strict(text, RegistryFile, path.name, environ)
    findings = check_registry(parsed.value, parsed.spots, path.parent, environ)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigFileError(findings, path.name)
    if made is None:
        return Loaded(Catalog.of(parsed.value), tuple(findings), parsed.spots, path.name)
    file, misfits = _with_made(parsed.value, made, path.parent, environ)
    left_out = (*made.left_out, *misfits)
    return Loaded(Catalog.of(file), tuple(findings), parsed.spots, path.name, left_out, parsed.value)


def _with_made(
    file: RegistryFile, made: Made, folder: Path, environ: Mapping[str, str]
) -> tuple[RegistryFile, tuple[str, ...]]:
    """The file with the made specialists that fit to it, and why others do not; what the file says comes first."""
    first = len(file.specialists)
    whole = replace(file, specialists=file.specialists + made.entries)
    wrong: dict[int, list[str]] = {}
    for finding in check_registry(whole, {}, folder, environ):
        match = _SPECIALIST.match(finding.path)
        if finding.severity == "error" and match and int(match[1]) >= first:
            text = finding.message + (f" ({finding.hint})" if finding.hint else "")
            wrong.setdefault(int(match[1]) - first, []).append(text)
    kept = tuple(entry for index, entry in enumerate(made.entries) if index not in wrong)
    misfits = (f"specialist {made.entries[i].id} is left out: {'; '.join(texts)}" for i, texts in wrong.items())
    return replace(file, specialists=file.specialists + kept), tuple(misfits)


_SPECIALIST = re.compile(r"\$\.specialists\[(\d+)\]")


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

    def __init__(
        self, path: Path | str, environ: Mapping[str, str] | None = None, made: MadeSource | None = None
    ) -> None:
        self.path = Path(path)
        self._environ = environ
        self._made = made
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        text, now = read_text(self.path), made.look() if made else None
        self._good = parse_catalog(text, self.path, environ, now)
        self._last = Attempt(_content_digest(text, now), self._good)
        self._catalog = self._good.catalog
        self._status = ReloadStatus(
            ok=True,
            error=None,
            loaded_at_ms=_now_ms(),
            digest=self._catalog.digest,
            warnings=_rendered(self._good),
            left_out=self._good.left_out,
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
        made = self._made.look() if self._made else None
        digest = _content_digest("", made)
        try:
            text = read_text(self.path)
            digest = _content_digest(text, made)
            return Attempt(digest, parse_catalog(text, self.path, self._environ, made))
        except ConfigError as error:
            return Attempt(digest, self._without_the_edit(made), error.message)

    def watched(self) -> list[Path]:
        """The files that the catalog is made from."""
        return [self.path] + (self._made.watched() if self._made else [])

    def _without_the_edit(self, made: Made | None) -> Loaded | None:
        """The last good file with the specialists of now: a broken edit must not hold up a rollback."""
        good = self._good
        if made is None or good.alone is None:
            return None
        environ = os.environ if self._environ is None else self._environ
        file, misfits = _with_made(good.alone, made, self.path.parent, environ)
        return replace(good, catalog=Catalog.of(file), left_out=(*made.left_out, *misfits))

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
            self._catalog, self._good = catalog, attempt.loaded
            problem = (self._tell(catalog) if changed else None) or attempt.error
            taken = changed or attempt.error is None
            self._status = ReloadStatus(
                ok=problem is None,
                error=problem,
                loaded_at_ms=_now_ms() if taken else before.loaded_at_ms,
                digest=catalog.digest,
                reloads_total=before.reloads_total + taken,
                failures_total=before.failures_total + (problem is not None),
                warnings=_rendered(attempt.loaded),
                left_out=attempt.loaded.left_out,
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


def _content_digest(text: str, made: Made | None) -> str:
    content = text.encode("utf-8", "surrogatepass") + (made.digest.encode() if made else b"")
    return hashlib.sha256(content).hexdigest()


def _now_ms() -> int:
    return int(time.time() * 1000)
