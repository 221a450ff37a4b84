"""The rows between the loop's steps: JSON lines of frozen structs, one struct a line.

curate writes `CuratedCall` (curated.jsonl), cluster writes `Assignment` (assignments.jsonl). Formats only grow: a field
may be added with a default, never renamed or removed. Knows files of rows; nothing of what a step does with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from registry.errors import BadInputError

AnswerSource = Literal["verified", "feedback", "correction"]

CURATED: Final = "curated.jsonl"
ASSIGNMENTS: Final = "assignments.jsonl"
NOISE: Final = "noise"
"""The cluster of a call that belongs to none."""


class CuratedCall(Struct, frozen=True):
    """One recorded call worth learning from."""

    call_id: str
    at_ms: int
    tenant: str
    end_user: str
    signature: str
    cluster: str
    cluster_source: str
    input: str
    """The last user message; redacted spans are replaced by surrogates, so that it is natural text."""
    system: str
    tool_names: tuple[str, ...]
    tools: list[dict[str, Any]] | None
    response_format: dict[str, Any] | None
    answer_text: str | None
    answer_tool_calls: list[dict[str, Any]] | None
    """{"name", "arguments"}: the believed answer, or feedback's correction of it."""
    answer_source: AnswerSource
    """Who believed it: the verifier, somebody's feedback, or somebody who wrote it anew."""
    served_by: str
    frontier: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    frontier_cost_usd: float
    latency_ms: float


class Assignment(Struct, frozen=True):
    """Which task a call belongs to."""

    call_id: str
    cluster: str
    """A cluster's id, or `NOISE`."""
    strength: float
    """0 to 1."""


Row = TypeVar("Row", bound=Struct)


def write_rows(path: Path, rows: Iterable[Struct]) -> int:
    """Write rows as JSON lines (mode 0600), on the disk when it returns. Returns how many."""
    encoder = msgspec.json.Encoder()
    count = 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(encoder.encode(row) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return count


def read_rows(path: Path, row: type[Row]) -> Iterator[Row]:
    """Yield the rows of a file, one line at a time.

    Raises BadInputError that names the file and the line, for a line that is no such row and for a missing file.
    """
    decoder = msgspec.json.Decoder(row)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _decoded(decoder, line, f"{path}:{number}")
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}. Run the step that writes it first.") from error


def _decoded(decoder: msgspec.json.Decoder[Row], line: bytes, place: str) -> Row:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{place}: {error}. Run the step that wrote it again.") from error
