"""The ledger: what it took down is still there, in order and whole, or reading it names the line that is not."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from registry.errors import BadInputError, IntegrityError, StorageError
from registry.ledger import Draft, History, Ledger, LedgerEntry, SignedEntry
from registry.signing import TRUSTED, Signer, Statement, Subject, Verifier
from registry.stage_moves import Move, Place, StageNow
from tests.unit.made_specialists import flip, keys

A, B = "sorter@" + "a" * 12, "sorter@" + "b" * 12


class Book:
    """A ledger with its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer, self.verifier = keys(folder / "signing")
        self.ledger = self.reader()

    def reader(self) -> Ledger:
        """As another process would see it."""
        return Ledger(self.folder / "ledger", self.folder / "signing" / "head.json")

    def register(self, specialist: str) -> SignedEntry:
        return self.add(Move(specialist, None, "candidate"), manifest=specialist[-1] * 64)

    def add(self, *moves: Move, **other: object) -> SignedEntry:
        draft = Draft(moves=moves, actor="ann", reason="why not", **other)
        return self.ledger.append(draft, self.signer, self.verifier)

    def read(self) -> History:
        return self.reader().read(self.verifier)

    def refused(self, pattern: str) -> None:
        with pytest.raises(IntegrityError, match=pattern):
            self.reader().read(Verifier(self.folder / "signing" / TRUSTED))

    @property
    def path(self) -> Path:
        return self.ledger.path

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def rewrite(self, change: Callable[[list[bytes]], object]) -> None:
        lines = self.lines()
        change(lines)
        self.path.write_bytes(b"".join(lines))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    made = Book(tmp_path)
    made.register(A)
    for before, after in (("candidate", "shadow"), ("shadow", "canary")):
        made.add(Move(A, before, after, 0.1 if after == "canary" else 1.0), evidence="e" * 64)
    made.add(Move(A, "canary", "canary", 0.5))
    return made


def test_it_says_who_moved_what_when_and_why(book: Book) -> None:
    history = book.read()
    second = history.entries[1].entry
    assert (second.seq, second.kind, second.actor, second.reason, second.evidence) == (
        (2, "moved", "ann", "why not", "e" * 64)
    )
    assert second.moves == (Move(A, "candidate", "shadow"),)
    assert history.entries[0].entry.kind == "registered" and history.manifests == {A: "a" * 64}
    assert history.stages[A].place == Place("canary", 0.5)
    assert [str(step.after) for step in history.stages[A].steps] == [
        "shadow",
        "canary at 10 % of calls",
        "canary at 50 % of calls",
    ]
    assert {signed.key_id for signed in history.entries} == {book.signer.key_id}


def test_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    _, verifier = keys(tmp_path / "signing")
    assert Ledger(tmp_path / "ledger", tmp_path / "signing" / "head.json").read(verifier) == History()
    assert not (tmp_path / "ledger").exists()


def test_its_files_are_the_owner_s_alone(book: Book) -> None:
    assert book.path.stat().st_mode & 0o777 == 0o600
    assert book.path.parent.stat().st_mode & 0o777 == 0o700
    assert (book.folder / "signing" / "head.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", [0, 2, 3])
def test_an_edited_entry_is_named(book: Book, line: int) -> None:
    start = sum(map(len, book.lines()[:line]))
    flip(book.path, start + len(book.lines()[line]) // 2)
    book.refused(rf"ledger\.jsonl:{line + 1}: ")


def test_a_dropped_a_swapped_and_a_repeated_entry_are_named(book: Book) -> None:
    good = book.path.read_bytes()
    book.rewrite(lambda lines: lines.pop(1))
    book.refused(r"ledger\.jsonl:2: entry 3 stands where 2 belongs: a line was dropped, moved or repeated.*backup")
    book.path.write_bytes(good)
    book.rewrite(lambda lines: lines.insert(1, lines.pop(2)))
    book.refused(r"ledger\.jsonl:2: entry 3 stands where 2 belongs")
    book.path.write_bytes(good)
    book.rewrite(lambda lines: lines.append(lines[1]))
    book.refused(r"ledger\.jsonl:5: entry 2 stands where 5 belongs")


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_cut_end_is_noticed(book: Book, kept: int) -> None:
    book.rewrite(lambda lines: lines.__delitem__(slice(kept, None)))
    book.refused(rf"ends after entry {kept}, and 4 were written: its end was cut off")
    with pytest.raises(IntegrityError, match=r"are gone|cut off"):
        book.add(Move(A, "canary", "shadow"))


def test_a_ledger_without_its_file_or_its_head_is_refused(book: Book) -> None:
    head = book.folder / "signing" / "head.json"
    kept = head.read_bytes()
    head.unlink()
    book.refused(r"head\.json is missing")
    head.write_bytes(kept)
    book.path.unlink()
    book.refused("ends after entry 0, and 4 were written")


def test_an_edited_head_is_refused(book: Book) -> None:
    flip(book.folder / "signing" / "head.json", 60)
    book.refused(r"head\.json: ")


def test_an_older_state_put_back_whole_is_noticed_by_whoever_saw_the_newer(book: Book) -> None:
    head = book.folder / "signing" / "head.json"
    old = book.path.read_bytes(), head.read_bytes()
    book.add(Move(A, "canary", "shadow"))
    seen = book.reader()
    seen.read(book.verifier)
    book.path.write_bytes(old[0])
    head.write_bytes(old[1])
    with pytest.raises(IntegrityError, match=r"ledger\.jsonl:5: entries from here on are gone"):
        seen.read(book.verifier)


def test_a_stranger_s_entry_is_refused_however_well_it_fits(book: Book, tmp_path: Path) -> None:
    last = book.read().entries[-1]
    stranger, _ = keys(tmp_path / "theirs")
    entry = LedgerEntry(
        seq=5, previous=last.digest, kind="moved", at_ms=1, moves=(Move(A, "canary", "active"),), actor="mallory"
    )
    line = stranger.sign(Statement((Subject(A, {}),), "urn:journeyman:stage-move:v1", msgspec.to_builtins(entry)))
    book.rewrite(lambda lines: lines.append(line + b"\n"))
    book.refused(r"ledger\.jsonl:5: signed by .*no such key is trusted")


def test_a_trusted_signature_does_not_make_an_impossible_move_possible(book: Book) -> None:
    last = book.read().entries[-1]
    entry = LedgerEntry(
        seq=5, previous=last.digest, kind="moved", at_ms=1, moves=(Move(A, "canary", "candidate"),), actor="ann"
    )
    line = book.signer.sign(Statement((Subject(A, {}),), "urn:journeyman:stage-move:v1", msgspec.to_builtins(entry)))
    book.rewrite(lambda lines: lines.append(line + b"\n"))
    book.refused(r"ledger\.jsonl:5: signed, but not a move that was possible: .*From here: active, deprecated, shadow")


def test_another_signed_thing_is_no_entry(book: Book) -> None:
    line = book.signer.sign(Statement((Subject(A, {}),), "urn:journeyman:ledger-head:v1", {"seq": 5, "digest": ""}))
    book.rewrite(lambda lines: lines.append(line + b"\n"))
    book.refused(r"ledger\.jsonl:5: a signed urn:journeyman:ledger-head:v1, not a ledger entry")


def test_a_key_that_is_no_longer_trusted_takes_its_entries_with_it(book: Book) -> None:
    reader = book.reader()
    reader.read(book.verifier)
    next((book.folder / "signing" / TRUSTED).iterdir()).unlink()
    with pytest.raises(IntegrityError, match="no such key is trusted"):
        reader.read(Verifier(book.folder / "signing" / TRUSTED))


@pytest.mark.parametrize(
    ("move", "said"),
    [
        (Move(A, "canary", "candidate"), "is canary at 50 % of calls and cannot become candidate. From here: active"),
        (Move(A, "shadow", "active"), "is canary at 50 % of calls, not shadow: look again"),
        (Move(A, None, "candidate"), "is registered already"),
        (Move(B, "candidate", "shadow"), "is not registered"),
        (Move(B, None, "active"), "is not registered, so it cannot move to active"),
        (Move(A, "canary", "canary", 0.5), "cannot become canary at 50 %"),
    ],
)
def test_an_impossible_move_is_not_written_and_the_possible_ones_are_named(book: Book, move: Move, said: str) -> None:
    before = book.path.read_bytes()
    with pytest.raises(BadInputError, match=said):
        book.add(move)
    assert book.path.read_bytes() == before


def test_what_a_killed_writer_left_of_a_line_is_not_an_entry(book: Book) -> None:
    whole = book.path.read_bytes()
    book.path.write_bytes(whole + book.lines()[1][:100])
    assert len(book.read().entries) == 4
    book.add(Move(A, "canary", "active"))
    assert book.read().stages[A].stage == "active"
    assert book.path.read_bytes().startswith(whole)


def test_a_kill_between_the_entry_and_its_head_loses_nothing(book: Book) -> None:
    head = book.folder / "signing" / "head.json"
    before = head.read_bytes()
    book.add(Move(A, "canary", "active"))
    head.write_bytes(before)
    assert book.read().stages[A].stage == "active"
    book.add(Move(A, "active", "shadow"))
    assert len(book.read().entries) == 6


def test_a_first_entry_without_its_head_holds(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.register(A)
    (tmp_path / "signing" / "head.json").unlink()
    assert book.read().stages == {A: StageNow(A, Place("candidate"))}


def test_a_full_disk_is_said_and_leaves_the_ledger_as_it_was(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    before, write = book.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(StorageError, match=r"Cannot write .*ledger\.jsonl: No space left"):
        book.add(Move(A, "canary", "active"))
    monkeypatch.undo()
    assert book.path.read_bytes() == before
    assert len(book.read().entries) == 4


def test_a_reader_verifies_an_entry_once(book: Book) -> None:
    reader = book.reader()
    first = reader.read(book.verifier)
    book.add(Move(A, "canary", "active"))
    second = reader.read(book.verifier)
    assert all(a is b for a, b in zip(first.entries, second.entries, strict=False)) and len(second.entries) == 5


def append_many(folder: str, first: int) -> None:
    root = Path(folder)
    signer = Signer.load_or_create(root / "signing")
    ledger = Ledger(root / "ledger", root / "signing" / "head.json")
    for number in range(first, first + 10):
        move = Move(f"s{number}@{'c' * 12}", None, "candidate")
        draft = Draft(moves=(move,), actor="ann", manifest="c" * 64)
        ledger.append(draft, signer, Verifier(root / "signing" / TRUSTED))


def test_processes_that_append_at_once_lose_nothing_and_break_no_chain(tmp_path: Path) -> None:
    book = Book(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(str(tmp_path), start)) for start in (0, 10, 20)]
    for writer in writers:
        writer.start()
    reader = book.reader()
    while any(writer.is_alive() for writer in writers):
        reader.read(Verifier(tmp_path / "signing" / TRUSTED))
        time.sleep(0.01)  # else a busy machine computes for the reader alone
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(book.read().stages) == sorted(f"s{number}@{'c' * 12}" for number in range(30))


def test_what_is_longer_than_a_reason_is_refused(book: Book) -> None:
    with pytest.raises(BadInputError, match="reason is 3000 characters long, and 2000 are allowed"):
        book.ledger.append(
            Draft(moves=(Move(A, "canary", "active"),), actor="ann", reason="x" * 3000), book.signer, book.verifier
        )


def test_a_line_is_an_in_toto_statement_about_the_manifest(book: Book) -> None:
    import base64

    envelope = json.loads(book.lines()[1])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["subject"] == [{"name": A, "digest": {"sha256": "a" * 64}}]
    assert statement["predicate"]["moves"] == [
        {"specialist": A, "before": "candidate", "after": "shadow", "share": 1.0},
    ]


def test_no_changed_bit_anywhere_changes_what_is_read(book: Book) -> None:
    """Refused, or (a bit that base64 or JSON does not care about) read as the very same entries."""
    good = book.path.read_bytes()
    wanted = book.read()
    same = 0
    for position in range(0, len(good), 5):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        book.path.write_bytes(bad)
        try:
            assert book.read() == wanted
            same += 1
        except IntegrityError as error:
            assert "ledger.jsonl" in error.message
    assert same < len(good) / 500
