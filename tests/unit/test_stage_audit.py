"""Moves of made specialists in the record: each once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from observations.records import StageMoveRecord
from registry.errors import StorageError
from registry.registrar import Note, Registrar
from router_service.stage_audit import StageAudit
from tests.unit.made_specialists import make_folder, manifest


@pytest.fixture
def registrar(tmp_path: Path) -> Registrar:
    made = Registrar(tmp_path / "state")
    for value in (1, 2):
        name = made.register(make_folder(tmp_path / str(value), bytes([value]) * 16), manifest(), Note("flywheel"))
        made.promote(name, Note("ann", "gates passed", "e" * 64))
        made.promote(name, Note("ann"), "canary", 1.0)
        made.promote(name, Note("ann"))
    return made


def test_each_move_is_recorded_once_with_its_receipt(registrar: Registrar) -> None:
    written: list[StageMoveRecord] = []
    audit = StageAudit(lambda record: written.append(record) is None)
    history = registrar.history()
    audit.follow(history)
    audit.follow(history)
    assert len(written) == 9 and len({record.id for record in written}) == 9
    first, second = written[0], written[1]
    assert (first.before, first.after, first.actor) == ("", "candidate", "flywheel")
    assert (second.before, second.after, second.reason) == ("candidate", "shadow", "gates passed")
    assert second.id == history.entries[1].digest == second.receipt["digest"]
    assert (second.receipt["evidence"], second.receipt["previous"]) == ("e" * 64, history.entries[0].digest)
    displaced = written[-1]
    assert (displaced.after, displaced.id) == ("deprecated", f"{history.entries[-1].digest}:1")
    again: list[StageMoveRecord] = []
    StageAudit(lambda record: again.append(record) is None).follow(history)
    assert [record.id for record in again] == [record.id for record in written], "a restart writes the same ids"


@pytest.mark.parametrize("way", ["full", "shed"])
def test_what_could_not_be_written_is_written_later(registrar: Registrar, way: str) -> None:
    written: list[StageMoveRecord] = []
    broken = True

    def write(record: StageMoveRecord) -> bool:
        if broken and len(written) == 4:
            if way == "full":
                raise StorageError("the disk is full")
            return False
        written.append(record)
        return True

    audit = StageAudit(write)
    audit.follow(registrar.history())
    assert len(written) == 4
    broken = False
    audit.follow(registrar.history())
    assert len({record.id for record in written}) == 9
