"""Step S2 of the loop: from recorded calls to those worth learning from, curated.jsonl, and a report of what was left.

Two passes. The first reads the record in windows and writes what passes the filters to a file beside; of each call
only a sketch and some numbers stay in memory. The second goes through those, the best judged and newest first, and
keeps what is no near-duplicate and under the caps. Linear in the calls. Source: arXiv:2506.02153, S2. Knows the
order of the work; the rules are `curate_filters`, `near_duplicates` and `contamination`.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from observations.state import StatePaths, open_private
from pipelines.contamination import EvalInputs, dataset_splits, read_inputs
from pipelines.curate_filters import REASONS, CallFilter, Curated, FilterOptions
from pipelines.curate_rows import FixedPart, RecordedCall, RecordedRange, RecordedScope, RecordReader
from pipelines.loop_rows import CURATED
from pipelines.near_duplicates import SKETCH_SIZE, THRESHOLD, DistinctTexts, sketches_of
from pipelines.run import Run, Step, sha256_of, write_atomically
from registry.errors import BadInputError
from registry.identifiers import digest_of

STEP: Final = "curate"
REPORT: Final = "report.json"

_VERSION: Final = 1
_CANDIDATES: Final = "candidates.jsonl"
_SKETCHES: Final = "sketches.bin"
_CHUNK: Final = 2_048
_RANKS: Final = {"correction": 0, "feedback": 1, "verified": 2}
_EXAMPLES: Final = 3


class CurateOptions(Struct, frozen=True):
    """Which calls, and how much of them."""

    scope: RecordedScope = RecordedScope()
    filters: FilterOptions = FilterOptions()
    max_per_end_user: int = 1_000
    """Of one template; calls without an end user are not counted."""
    max_per_template: int = 5_000
    """Of one signature of one tenant."""
    duplicates_above: float = THRESHOLD
    """Jaccard similarity of inputs."""
    exclude: tuple[Path, ...] = ()
    """Files of evaluation inputs."""
    exclude_datasets: bool = True
    """Also the dev, test and shadow splits of the datasets under the state directory."""


class Dropped(Struct, frozen=True):
    """Calls that were left out for one reason."""

    calls: int
    reason: str
    examples: tuple[str, ...] = ()
    """Ids of some of them."""


class CurateReport(Struct, frozen=True):
    """What became of the calls that were read. `read` is `kept` and all that was dropped."""

    read: int
    kept: int
    dropped: dict[str, Dropped]
    answers: dict[str, int]
    """Kept calls by who vouched for the answer."""
    clusters: dict[str, int]
    """Kept calls by the cluster that was recorded; `unknown` is one."""
    templates: int
    end_users: int
    first_at_ms: int = 0
    last_at_ms: int = 0
    evaluation_inputs: dict[str, int] = {}
    """How many inputs of each set no call may repeat."""


class CurateResult(Struct, frozen=True):
    """Where the rows are, and the report on them."""

    rows: Path
    report: CurateReport
    skipped: bool = False
    """True when an earlier run of this step still held."""


def curate(state: StatePaths, run: Run, options: CurateOptions | None = None) -> CurateResult:
    """Do the step in the run's folder, unless it is done and neither record, options nor evaluation sets changed.

    Raises:
        NotFoundError: nothing was recorded yet.
        StorageError: the store or the run's folder cannot be used.
        BadInputError: an evaluation file cannot be read.
    """
    options = options or CurateOptions()
    reader = RecordReader(state, options.scope)
    found = reader.range()
    files = _evaluation_files(state, options)
    step = run.step(STEP, _inputs(found, files, options), version=_VERSION)
    rows = step.folder / CURATED
    if step.done:
        return CurateResult(rows, read_report(step.folder), skipped=True)
    work = _Work(run, step, options)
    work.exclude(files)
    work.read(reader, found)
    report = work.select()
    write_atomically(step.folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    facts = {"read": report.read, "kept": report.kept, "dropped": {k: d.calls for k, d in report.dropped.items()}}
    step.finish([rows, step.folder / REPORT], facts)
    return CurateResult(rows, report)


def read_report(folder: Path) -> CurateReport:
    """Return the report in a finished step's folder. Raises BadInputError when it is not there."""
    try:
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=CurateReport)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInputError(f"Cannot read {folder / REPORT}: {error}. Run `journeyman flywheel curate`.") from error


def _evaluation_files(state: StatePaths, options: CurateOptions) -> list[Path]:
    own = list(dataset_splits(state.root / "datasets")) if options.exclude_datasets else []
    missing = [str(path) for path in options.exclude if not path.is_file()]
    if missing:
        raise BadInputError(f"There is no file {', '.join(missing)} to exclude.", param="exclude")
    return own + list(options.exclude)


def _inputs(found: RecordedRange, files: Sequence[Path], options: CurateOptions) -> dict[str, str]:
    """All that the outcome depends on. The age limit counts by the calls that it lets in."""
    settings = [
        msgspec.to_builtins(options.filters),
        options.max_per_end_user,
        options.max_per_template,
        options.duplicates_above,
    ]
    return {
        "record": found.fingerprint,
        "options": digest_of(settings),
        "evaluation": digest_of([sha256_of(path) for path in files]),
    }


class _Work:
    """The state of one curation. Columns have one entry for each call that passed the filters."""

    def __init__(self, run: Run, step: Step, options: CurateOptions) -> None:
        self._run, self._folder, self._options = run, step.folder, options
        self._filter = CallFilter(options.filters)
        self._evaluated = EvalInputs()
        self._evaluation: dict[str, int] = {}
        self._read = 0
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._offsets, self._at_ms = array("q"), array("q")
        self._ranks, self._hashes = array("b"), array("q")
        self._scopes, self._templates, self._users = array("q"), array("q"), array("q")
        self._numbers: dict[tuple[str, ...], int] = {}
        self._texts: list[str] = []

    def exclude(self, files: Sequence[Path]) -> None:
        """Learn the evaluation inputs."""
        for path in files:
            self._run.doing(f"reading {path}")
            self._evaluation[str(path)] = self._evaluated.add(str(path), read_inputs(path))

    def read(self, reader: RecordReader, found: RecordedRange) -> None:
        """Write what passes the filters to the file of candidates, and remember what choosing among them takes."""
        with (
            _new_file(self._folder / _CANDIDATES) as rows,
            _new_file(self._folder / _SKETCHES) as sketches,
            self._run.track("curate: calls read", found.calls) as tracker,
        ):
            for from_ms, to_ms in found.windows:
                for call, fixed in reader.window(from_ms, to_ms):
                    self._take(call, fixed, rows, sketches)
                    tracker.advance()
            self._sketch(sketches)

    def _take(self, call: RecordedCall, fixed: FixedPart, rows: IO[bytes], sketches: IO[bytes]) -> None:
        self._read += 1
        judged = self._filter.judge(call, fixed)
        if isinstance(judged, Curated):
            judged = self._uncontaminated(judged)
        if isinstance(judged, str):
            self._drop(judged, call.call_id)
            return
        made = judged.call
        self._offsets.append(rows.tell())
        rows.write(_ENCODER.encode(made) + b"\n")
        self._at_ms.append(made.at_ms)
        self._ranks.append(_RANKS[made.answer_source])
        scope = self._number("scope", made.tenant, fixed.key)
        self._scopes.append(scope)
        self._hashes.append(_hash(f"{scope}:{call.prompt_hash}") if call.prompt_hash else 0)
        self._templates.append(self._number("template", made.tenant, made.signature))
        user = (made.tenant, made.signature, made.end_user)
        self._users.append(self._number("user", *user) if made.end_user else -1)
        self._texts.append(made.input)
        if len(self._texts) >= _CHUNK:
            self._sketch(sketches)

    def _uncontaminated(self, judged: Curated) -> Curated | str:
        found = self._evaluated.source_of(judged.call.call_id, judged.redacted_input, judged.call.input)
        return judged if found is None else "contaminated"

    def _number(self, *key: str) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _sketch(self, sketches: IO[bytes]) -> None:
        sketches.write(sketches_of(self._texts).tobytes())
        self._texts.clear()

    def _drop(self, reason: str, call_id: str) -> None:
        self._dropped[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(call_id)

    def select(self) -> CurateReport:
        """Choose among the candidates, write the rows in order of time, and report."""
        kept: list[int] = []
        with (self._folder / _CANDIDATES).open("rb") as candidates:
            for row, reason in self._chosen(candidates):
                if reason is None:
                    kept.append(row)
                else:
                    is_shown = len(self._examples.get(reason, ())) < _EXAMPLES
                    self._drop(reason, _row_at(candidates, self._offsets[row]).call_id if is_shown else "")
            kept.sort(key=lambda row: (self._at_ms[row], row))
            report = self._write(candidates, kept)
        for name in (_CANDIDATES, _SKETCHES):
            (self._folder / name).unlink()
        return report

    def _chosen(self, candidates: IO[bytes]) -> Iterator[tuple[int, str | None]]:
        """Yield each candidate with the reason to drop it or None: the best judged first, then the newest."""
        ranks, times = np.array(self._ranks), np.array(self._at_ms)
        order = np.lexsort((-np.arange(len(ranks)), -times, ranks))
        texts = DistinctTexts(
            self._sketches(),
            np.array(self._scopes, dtype=np.int64),
            lambda row: _row_at(candidates, self._offsets[row]).input,
            self._options.duplicates_above,
        )
        hashes: set[int] = set()
        counts: Counter[int] = Counter()
        with self._run.track("curate: calls compared", len(order)) as tracker:
            for row in order.tolist():
                tracker.advance()
                same = self._hashes[row] in hashes or texts.duplicate_of(row) is not None
                reason = "duplicate" if same else self._over_cap(row, counts)
                if reason is None:
                    texts.keep(row)
                    counts.update((self._users[row], self._templates[row]))
                    if self._hashes[row]:
                        hashes.add(self._hashes[row])
                yield row, reason

    def _sketches(self) -> NDArray[np.uint32]:
        """From the disk: 320 bytes for each candidate would be most of the memory."""
        if not len(self._offsets):
            return np.zeros((0, SKETCH_SIZE), dtype=np.uint32)
        return np.memmap(self._folder / _SKETCHES, dtype=np.uint32, mode="r").reshape(-1, SKETCH_SIZE)

    def _over_cap(self, row: int, counts: Counter[int]) -> str | None:
        user = self._users[row]
        if user >= 0 and counts[user] >= self._options.max_per_end_user:
            return "end_user_cap"
        return "template_cap" if counts[self._templates[row]] >= self._options.max_per_template else None

    def _write(self, candidates: IO[bytes], kept: Sequence[int]) -> CurateReport:
        answers: Counter[str] = Counter()
        clusters: Counter[str] = Counter()
        with _new_file(self._folder / CURATED) as out:
            for row in kept:
                candidates.seek(self._offsets[row])
                line = candidates.readline()
                out.write(line)
                brief = _BRIEF.decode(line)
                answers[brief.answer_source] += 1
                clusters[brief.cluster] += 1
        return CurateReport(
            read=self._read,
            kept=len(kept),
            dropped={
                name: Dropped(self._dropped[name], reason, tuple(self._examples[name]))
                for name, reason in REASONS.items()
                if self._dropped[name]
            },
            answers=dict(sorted(answers.items())),
            clusters=dict(clusters.most_common()),
            templates=len({self._templates[row] for row in kept}),
            end_users=len({self._users[row] for row in kept} - {-1}),
            first_at_ms=self._at_ms[kept[0]] if kept else 0,
            last_at_ms=self._at_ms[kept[-1]] if kept else 0,
            evaluation_inputs=self._evaluation,
        )


class _Brief(Struct, frozen=True):
    """What choosing needs to read again."""

    call_id: str
    cluster: str
    input: str
    answer_source: str


_ENCODER: Final = msgspec.json.Encoder()
_BRIEF: Final = msgspec.json.Decoder(_Brief)


def _row_at(candidates: IO[bytes], offset: int) -> _Brief:
    candidates.seek(offset)
    return _BRIEF.decode(candidates.readline())


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
