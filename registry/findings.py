"""What is wrong with an operator's file, and where. Knows nothing of YAML or of the registry's rules."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from .errors import ConfigError

MAX_FINDINGS = 200

Severity = Literal["error", "warning"]


class Spot(Struct, frozen=True, order=True):
    """A place in a file; both counted from one, as editors do."""

    line: int
    column: int


class Finding(Struct, frozen=True):
    """One thing that is wrong: where, at which path, what, and how to mend it."""

    line: int
    column: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"

    def render(self, source_name: str) -> str:
        """Return `registry.yaml:14: $.models[2].contxt_len: unknown key; did you mean context_len?`."""
        return f"{source_name}:{self.line}: {self.text()}"

    def text(self) -> str:
        """Return the path, the message and the hint, without the place."""
        return f"{self.path}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class ConfigFileError(ConfigError):
    """A file is wrong. `findings` holds every error found; the message has them one a line."""

    def __init__(self, findings: Sequence[Finding], source_name: str) -> None:
        shown = [finding.render(source_name) for finding in findings[:MAX_FINDINGS]]
        if len(findings) > MAX_FINDINGS:
            shown.append(f"{source_name}: and {len(findings) - MAX_FINDINGS} more")
        super().__init__("\n".join(shown), param=findings[0].path if findings else None)
        self.findings = tuple(findings)
        self.source_name = source_name


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that looks most like this one, or None when none comes near."""
    by_folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold()[:200], by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Return a hint: the nearest known word, or else the list of them."""
    match = nearest(word, known, cutoff)
    if match is not None:
        return f"did you mean {match}?"
    if not known:
        return "there are none"
    return "known: " + ", ".join(known[:16]) + (", ..." if len(known) > 16 else "")
