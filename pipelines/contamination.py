"""Whether a call's text is, or holds a good part of, an input that specialists are judged on.

A call is out when its words are an evaluation input's, or when half of the runs of eight words of the shorter of both
are in the other. Runs that many inputs of one set share are boilerplate and do not count. Evaluation texts are redacted
as calls are, so that `<EMAIL_1>` meets the address. A call that is itself in an evaluation split stays: datasets hold a
call in the part that it once had. Knows files of inputs; nothing of models.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.near_duplicates import words_in
from pipelines.surrogates import PLACEHOLDER
from policies.redaction import Redactor
from registry.errors import BadInputError, RedactionError

RUN_WORDS: Final = 8
LEAST_SHARE: Final = 0.5

_FIELDS: Final = ("input", "text", "prompt", "question")
_EVALUATED: Final = ("dev.jsonl", "test.jsonl", "shadow.jsonl")
_MAX_POSTINGS: Final = 50
_COMMON_SHARE: Final = 0.05


class EvalInput(Struct, frozen=True):
    """One input that something is judged on, and the calls it was made of."""

    text: str
    call_ids: tuple[str, ...] = ()


class EvalInputs:
    """All evaluation inputs, as hashes of words and runs of words."""

    def __init__(self) -> None:
        self._redactor = Redactor()
        self._exact: dict[bytes, str] = {}
        self._owners: dict[int, list[int]] = {}
        self._common: set[int] = set()
        self._runs: list[int] = []
        """How many runs each text has, without boilerplate."""
        self._names: list[str] = []
        self._own: set[str] = set()

    def add(self, name: str, inputs: Iterable[EvalInput]) -> int:
        """Add one set of inputs under a name for reports; returns how many they were."""
        runs: list[list[set[int]]] = []
        for one in inputs:
            self._own.update(one.call_ids)
            forms = [folded_words(form) for form in dict.fromkeys((one.text, self._redacted(one.text)))]
            for words in forms:
                self._exact.setdefault(_digest(words, one.text), name)
            runs.append([_runs_of(words) for words in forms])
        counts = Counter(run for forms_runs in runs for run in set().union(*forms_runs))
        most = max(2, min(_MAX_POSTINGS, int(_COMMON_SHARE * len(runs))))
        common = {run for run, count in counts.items() if count > most}
        self._common |= common
        for found in (found for forms_runs in runs for found in forms_runs):
            self._add_runs(name, found - common)
        return len(runs)

    def source_of(self, call_id: str, *texts: str) -> str | None:
        """Return the name of the set that one of the call's texts is from, or None."""
        if not self._exact or call_id in self._own:
            return None
        return next((name for name in map(self._source, dict.fromkeys(texts)) if name is not None), None)

    def _source(self, text: str) -> str | None:
        words = folded_words(text)
        name = self._exact.get(_digest(words, text))
        if name is not None or len(words) < RUN_WORDS:
            return name
        runs = _runs_of(words) - self._common
        met = Counter(owner for run in runs for owner in self._owners.get(run, ()))
        for owner, shared in met.most_common(1):
            if shared >= LEAST_SHARE * max(1, min(len(runs), self._runs[owner])):
                return self._names[owner]
        return None

    def _add_runs(self, name: str, runs: set[int]) -> None:
        owner = len(self._runs)
        self._runs.append(len(runs))
        self._names.append(name)
        for run in runs:
            self._owners.setdefault(run, []).append(owner)

    def _redacted(self, text: str) -> str:
        try:
            return self._redactor.redact(text).text
        except RedactionError:  # too long to be any recorded call's
            return text


def folded_words(text: str) -> list[str]:
    """Return the words of a text; a placeholder counts by its kind, since its number is the call's own affair."""
    return words_in(PLACEHOLDER.sub(r" \1 ", text) if "<" in text else text)


def dataset_splits(datasets: Path) -> Iterator[Path]:
    """Yield the dev, test and shadow files of every version under the folder of datasets, sorted."""
    for name in _EVALUATED:
        yield from sorted(datasets.glob(f"*/*/{name}"))


def read_inputs(path: Path) -> Iterator[EvalInput]:
    """Yield the inputs of a file: `.txt` has one a line, all else JSON lines.

    A line's text is its `input`, `text`, `prompt` or `question`, or its last user message; lines whose `split` is
    `train` are no evaluation. Raises BadInputError that names file and line.
    """
    unwrap = _template_of(path.parent)
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield from _read_line(line, f"{path}:{number}", unwrap, is_plain=path.suffix == ".txt")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadInputError(f"Cannot read the evaluation inputs in {path}: {reason}.", param="exclude") from error


def _read_line(line: str, place: str, unwrap: tuple[str, str], *, is_plain: bool) -> Iterator[EvalInput]:
    if is_plain:
        yield EvalInput(line.strip())
        return
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise BadInputError(f"{place}: {error}.", param="exclude") from None
    text = _text_of(row) if isinstance(row, dict) else None
    if text is None:
        raise BadInputError(f"{place}: has none of {', '.join(_FIELDS)} and no user message.", param="exclude")
    if row.get("split") != "train":
        before, after = unwrap
        yield EvalInput(text.removeprefix(before).removesuffix(after), _call_ids(row))


def _text_of(row: dict[str, Any]) -> str | None:
    for name in _FIELDS:
        if isinstance(row.get(name), str):
            return str(row[name])
    turns = row.get("messages")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    said = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    return said[-1] if said and isinstance(said[-1], str) else None


def _call_ids(row: dict[str, Any]) -> tuple[str, ...]:
    also = row.get("also")
    named = [row.get("call_id"), *(also if isinstance(also, list) else ())]
    return tuple(name for name in named if isinstance(name, str))


def _template_of(folder: Path) -> tuple[str, str]:
    """What a dataset's template puts before and after an input; nothing where there is none."""
    try:
        prompt = msgspec.json.decode((folder / "manifest.json").read_bytes())["template"]["prompt"]
        before, _, after = prompt.partition("{input}")
    except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return "", ""
    return before, after


def _runs_of(words: Sequence[str]) -> set[int]:
    return {hash(tuple(words[at : at + RUN_WORDS])) for at in range(len(words) - RUN_WORDS + 1)}


def _digest(words: Sequence[str], text: str) -> bytes:
    """Of the words; of the text itself when it has none."""
    form = " ".join(words) or text.strip()
    return hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).digest()
