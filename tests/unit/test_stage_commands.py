"""`journeyman registry promote | demote | rollback | ledger | verify | keys` as an operator uses them."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from registry.registrar import Note, Registrar
from router_service.cli import run
from tests.unit.made_specialists import flip, make_folder, manifest


class Desk:
    """A state folder and the command line on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.state, self.capsys = folder, folder / "state", capsys
        self.sorter = self.register("sorter", b"\x01" * 16)

    def register(self, name: str, values: bytes) -> str:
        adapter = make_folder(self.folder / f"adapter-{name}-{values.hex()}", values)
        return Registrar(self.state).register(adapter, manifest(name), Note("flywheel"))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = run(["registry", *arguments, "--state", str(self.state)])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str) -> tuple[int, object]:
        code, out, _ = self(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_a_promotion_is_told_and_stays_in_the_ledger_with_who_and_why(desk: Desk) -> None:
    code, out, err = desk("promote", "sorter", "--reason", "gates passed", "--evidence", "e" * 64)
    assert (code, out) == (0, f"{desk.sorter}: candidate -> shadow\n")
    assert "within two seconds" in err
    desk("promote", desk.sorter, "--actor", "bob", "--share", "0.25")
    code, entries = desk.json("ledger", "sorter")
    assert [(e["seq"], e["kind"], e["actor"]) for e in entries] == [
        (1, "registered", "flywheel"),
        (2, "moved", getpass.getuser()),
        (3, "moved", "bob"),
    ]
    assert (entries[1]["reason"], entries[1]["evidence"]) == ("gates passed", "e" * 64)
    assert entries[2]["moves"] == [{"specialist": desk.sorter, "before": "shadow", "after": "canary", "share": 0.25}]
    _, out, _ = desk("ledger")
    assert "canary 25 %" in out and "gates passed" in out and "bob" in out


def test_the_whole_way_up_and_back(desk: Desk) -> None:
    said = [desk("promote", "sorter")[1].split(" -> ")[1].strip() for _ in range(6)]
    assert said[0] == "shadow" and said[1] == "canary at 1 % of calls" and said[-1] == "active"
    assert desk("rollback", "parcels", "--reason", "it shouts")[:2] == (0, f"{desk.sorter}: active -> shadow\n")
    assert "takes back 3" in desk("ledger")[1]
    assert desk("demote", "sorter", "--to", "deprecated")[0] == 0


def test_an_impossible_move_is_bad_input_and_names_the_possible_ones(desk: Desk) -> None:
    code, out, err = desk("promote", "sorter", "--to", "active")
    assert code == 2 and out == ""
    assert f"{desk.sorter} is candidate and cannot become active. From here: deprecated, shadow." in err
    assert desk("promote", "sortre")[0] == 2
    assert desk("rollback", "sorter")[0] == 2
    assert desk("demote", "sorter", "--to", "shadow")[0] == 2
    assert desk("promote", "sorter", "--share", "1.5")[0] == 2
    code, said = desk.json("promote", "sorter", "--to", "active")
    assert code == 2 and said["error"]["code"] == "bad_input"


def test_verification_ends_with_one_when_a_byte_is_flipped(desk: Desk) -> None:
    other = desk.register("other", b"\x02" * 16)
    assert desk("verify")[0] == 0
    code, said = desk.json("verify")
    assert (
        code == 0
        and said["ok"]
        and [c["subject"] for c in said["checks"]] == (["signing keys", "ledger", desk.sorter, other])
    )
    flip(next((desk.state / "artifacts").glob("*/adapter_model.safetensors")))
    code, out, err = desk("verify")
    assert code == 1 and "was changed" in out.replace("\n", " ") and "1 of 4 checks failed" in err
    code, checks = desk.json("verify")
    assert code == 1 and not checks["ok"]
    failed = {c["subject"] for c in checks["checks"] if c["verdict"] == "failed"}
    assert failed in ({other}, {desk.sorter})
    left = ({other, desk.sorter} - failed).pop()
    assert desk("verify", left)[0] == 0
    assert desk("verify", *failed)[0] == 1


def test_a_tampered_ledger_moves_nothing(desk: Desk) -> None:
    flip(desk.state / "ledger" / "ledger.jsonl", 80)
    code, _, err = desk("promote", "sorter")
    assert code == 3 and "ledger.jsonl:1" in err
    assert desk("verify")[0] == 1


def test_the_trusted_keys_are_listed_and_no_secret_is(desk: Desk) -> None:
    code, out, err = desk("keys")
    secret = (desk.state / "signing" / "ed25519.pem").read_text().splitlines()[1]
    assert code == 0 and "trusted" in out and secret not in out + err
    _, rows = desk.json("keys")
    assert len(rows) == 1 and len(rows[0]["key"]) == 64


def test_made_specialists_are_listed_and_shown_with_the_others(desk: Desk) -> None:
    registry = desk.folder / "registry.yaml"
    registry.write_text(
        "defaults: {frontier: big}\nbackends:\n  - {name: b, kind: echo}\n"
        "models:\n  - {model_name: big, backend: b}\n  - {model_name: small, backend: b}\n"
    )
    desk("promote", "sorter")
    desk("promote", "sorter", "--share", "0.25")
    _, rows = desk.json("ls", "--registry", str(registry))
    assert [(r["name"], r["stage"], r.get("share")) for r in rows if r["kind"] == "specialist"] == [
        (desk.sorter, "canary", 0.25)
    ]
    assert "canary 25 %" in desk("ls", "--registry", str(registry))[1]
    _, shown = desk.json("show", "sorter", "--registry", str(registry))
    assert (shown["name"], shown["file"]) == (desk.sorter, "the ledger of made specialists")
    flip(next((desk.state / "artifacts").glob("*/adapter_config.json")))
    code, out, err = desk("ls", "--registry", str(registry))
    assert code == 0 and desk.sorter not in out and "adapter_config.json was changed" in err


def test_a_state_without_made_specialists_is_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "ledger", "keys"):
        assert run(["registry", command, "--state", str(tmp_path / "none")]) == 0
    assert run(["registry", "promote", "x", "--state", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert "there are none" in capsys.readouterr().err
