"""Reads a workload: agents (`apps.json`) and the calls they make (`FAMILY.jsonl`), each with what a right answer is.

Rows are streamed, never all held. It knows files and rows; who answers them and how they are sent is not its business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec

from pipelines.graders import Answer, Grade, grade, known_graders
from pipelines.workload_rows import App, Row, parse_row, passage_app, request_body
from registry.errors import EnvironmentFaultError, WorkloadError

ENV_NAME: Final = "JOURNEYMAN_DATA"
SPLITS: Final = ("train", "dev", "hold")
PASSAGES: Final = "passage_questions"
_FINDINGS_SHOWN: Final = 20

RowSource = Callable[[], Iterator[Row]]


class Workload:
    """Some agents and the calls they make. `families` are those that have rows."""

    def __init__(self, name: str, apps: Mapping[str, App], sources: Mapping[str, RowSource]) -> None:
        self.name = name
        self.apps = dict(apps)
        self._sources = dict(sources)

    @classmethod
    def load(cls, path: str | Path) -> Workload:
        """The workload folder at `path`; its rows are read when asked for.

        Raises:
            WorkloadError: no such folder, or `apps.json` is missing or wrong.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise WorkloadError(f"{folder}: not a folder; a workload is a folder with apps.json and FAMILY.jsonl files")
        apps = _read_apps(folder / "apps.json")
        if (folder / f"{PASSAGES}.jsonl").is_file() and PASSAGES not in apps:
            apps[PASSAGES] = passage_app(PASSAGES)
        sources = {
            family: _file_source(folder / f"{family}.jsonl", app)
            for family, app in apps.items()
            if (folder / f"{family}.jsonl").is_file()
        }
        if not sources:
            raise WorkloadError(f"{folder}: no FAMILY.jsonl for any family of apps.json ({', '.join(apps)})")
        return cls(str(folder), apps, sources)

    @classmethod
    def from_env(cls) -> Workload:
        """The folder that `$JOURNEYMAN_DATA` names.

        Raises:
            EnvironmentFaultError: the variable is not set.
            WorkloadError: as `load`.
        """
        path = os.environ.get(ENV_NAME)
        if not path:
            raise EnvironmentFaultError(
                f"${ENV_NAME} is not set; point it at a workload folder or use the workload 'own'"
            )
        return cls.load(path)

    @classmethod
    def own(cls, seed: int = 7, rows_per_family: int = 600) -> Workload:
        """The project's own workload, generated in memory; the same seed and size give the same rows."""
        from pipelines.own_workload.generate import FAMILIES, family_rows  # noqa: PLC0415 (it reads this module's types)

        apps = {name: parse_app(name, family.app) for name, family in FAMILIES.items()}
        sources = {name: _memory_source(apps[name], name, seed, rows_per_family, family_rows) for name in FAMILIES}
        return cls(f"own:{seed}:{rows_per_family}", apps, sources)

    @classmethod
    def parse(cls, text: str) -> Workload:
        """`env`, `own`, `own:SEED`, `own:SEED:ROWS` or the path of a folder."""
        if text == "env":
            return cls.from_env()
        head, *numbers = text.split(":")
        if head != "own":
            return cls.load(text)
        if len(numbers) > 2 or not all(number.isdigit() for number in numbers):
            raise WorkloadError(f"workload {text!r}: write own, own:SEED or own:SEED:ROWS, with whole numbers")
        return cls.own(*map(int, numbers))

    @property
    def families(self) -> tuple[str, ...]:
        """The families that have rows, in the order of `apps.json`."""
        return tuple(self._sources)

    def app(self, family: str) -> App:
        """The agent of a family.

        Raises:
            WorkloadError: no such family; the message names the nearest.
        """
        if family not in self.apps:
            known = ", ".join(self.apps)
            raise WorkloadError(f"{self.name}: no family {family!r}{_nearest(family, self.apps)}; known: {known}")
        return self.apps[family]

    def rows(self, families: Sequence[str] | None = None, splits: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows of these families (all by default) whose split is asked for (any by default), in file order.

        Raises:
            WorkloadError: an unknown family or split, or bad rows: every bad line of the file is named.
        """
        for split in splits or ():
            if split not in SPLITS:
                raise WorkloadError(f"no split {split!r}{_nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
        chosen = self.families if families is None else tuple(families)
        for family in chosen:
            self._source(family)
        for family in chosen:
            yield from (row for row in self._source(family)() if not splits or row.split in splits)

    def check(self) -> int:
        """Read everything; the number of rows.

        Raises:
            WorkloadError: every bad row of every family, and ids that occur twice.
        """
        findings: list[str] = []
        seen: set[str] = set()
        for family in self.families:
            try:
                for row in self.rows([family]):
                    if row.id in seen:
                        findings.append(f"{self.name}: id {row.id!r} occurs twice")
                    seen.add(row.id)
            except WorkloadError as error:
                findings.append(error.message)
        if findings:
            raise WorkloadError("\n".join(findings))
        return len(seen)

    def request(self, row: Row, model: str = "auto") -> dict[str, Any]:
        """The complete OpenAI chat request of a row: messages, tools, response_format."""
        return request_body(self.app(row.family), row, model)

    def grade(self, row: Row, answer: Answer) -> Grade:
        """Judge an answer to this row."""
        return grade(row.grader, row.expected, answer, row.functions)

    def _source(self, family: str) -> RowSource:
        self.app(family)
        if family not in self._sources:
            raise WorkloadError(f"{self.name}: family {family!r} is in apps.json but {family}.jsonl is missing")
        return self._sources[family]


class _AppWire(msgspec.Struct):
    system: str
    grader: str
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None


def parse_app(family: str, raw: Any) -> App:
    """An entry of `apps.json`.

    Raises:
        WorkloadError: what is wrong, with its path.
    """
    try:
        wire = msgspec.convert(raw, _AppWire)
    except msgspec.ValidationError as error:
        raise WorkloadError(f"{family}: {error}") from None
    if wire.grader not in (*known_graders(), "per_row"):
        raise WorkloadError(f"{family}: no grader {wire.grader!r}{_nearest(wire.grader, known_graders())}")
    return App(family, wire.system, wire.grader, tuple(wire.tools or ()), wire.response_format, wire.max_tokens)


def _read_apps(path: Path) -> dict[str, App]:
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise WorkloadError(f"{path}: missing; it names each family's system prompt, tools and grader") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: {error}") from None
    if not isinstance(raw, dict) or not raw:
        raise WorkloadError(f"{path}: must be an object, one entry for each family")
    apps, findings = {}, []
    for family, entry in raw.items():
        try:
            apps[family] = parse_app(family, entry)
        except WorkloadError as error:
            findings.append(f"{path}: {error.message}")
    if findings:
        raise WorkloadError("\n".join(findings))
    return apps


def _file_source(path: Path, app: App) -> RowSource:
    def read() -> Iterator[Row]:
        with path.open("rb") as lines:
            numbered = enumerate(lines, start=1)
            for number, line in numbered:
                if not line.strip():
                    continue
                try:
                    yield parse_row(app, line, number)
                except WorkloadError as error:
                    raise WorkloadError(_all_findings(path, app, (number, error), numbered)) from None

    return read


def _all_findings(path: Path, app: App, first: tuple[int, WorkloadError], rest: Iterable[tuple[int, bytes]]) -> str:
    findings = [f"{path}:{first[0]}: {first[1].message}"]
    for number, line in rest:
        try:
            if line.strip():
                parse_row(app, line, number)
        except WorkloadError as error:
            findings.append(f"{path}:{number}: {error.message}")
    hidden = len(findings) - _FINDINGS_SHOWN
    return "\n".join(findings[:_FINDINGS_SHOWN] + ([f"{path}: and {hidden} more"] if hidden > 0 else []))


def _memory_source(
    app: App, family: str, seed: int, count: int, generate: Callable[[str, int, int], Iterator[dict[str, Any]]]
) -> RowSource:
    def read() -> Iterator[Row]:
        for number, raw in enumerate(generate(family, seed, count), start=1):
            yield parse_row(app, msgspec.json.encode(raw), number)

    return read


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
