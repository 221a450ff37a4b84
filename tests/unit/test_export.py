"""`journeyman export`: what is recorded, all of it or nothing, and never over a file that is there."""

import hashlib
import json

import pyarrow.parquet
import pytest

from observations.export import parse_since
from observations.records import AttemptRecord, CallRecord, CatalogRecord, FeedbackRecord, PlanRecord
from observations.spool import Spool
from observations.state import StatePaths
from registry.errors import BadInputError
from router_service.cli import run as journeyman

START_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Five thousand calls and a word about one of them; the first export finds them in the spool."""
    paths = StatePaths(tmp_path_factory.mktemp("record") / "state").create()
    spool = Spool.open(paths.spool)
    for number in range(5000):
        spool.append(
            CallRecord(
                id=f"chatcmpl-{number:026d}",
                at_ms=START_MS + number,
                tenant="acme" if number % 2 else "o'brien",
                cluster="billing" if number % 5 else "unknown",
                messages=[{"role": "user", "content": f"line\n{number} é"}],
                plan=PlanRecord(id="p", primary="m"),
                attempts=(AttemptRecord("m", "b", "verified"),),
                outcome="verified",
            )
        )
    spool.append(FeedbackRecord(id="f", call_id=f"chatcmpl-{1:026d}", at_ms=1, tenant="acme", outcome="failure"))
    spool.append(CatalogRecord(id="d", at_ms=1, digest="d", models=[{"model_name": "m"}]))
    spool.close()
    return paths


@pytest.fixture
def run(state, capsys):
    def run_export(*arguments):
        code = journeyman(["export", "--state", str(state.root), "--json", *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out)

    return run_export


def test_json_lines_have_nested_values_and_the_file_is_what_the_answer_says(run, tmp_path):
    code, report = run("--format", "jsonl", "--out", tmp_path / "calls.jsonl")
    data = (tmp_path / "calls.jsonl").read_bytes()
    rows = [json.loads(line) for line in data.splitlines()]
    rows.sort(key=lambda row: row["id"])
    assert code == 0
    assert len(rows) == report["rows"] == 4000
    assert rows[0]["messages"] == [{"role": "user", "content": "line\n1 é"}]
    assert rows[0]["attempts"][0]["candidate"] == "m"
    assert (rows[0]["success"], rows[1]["success"]) == (False, True)
    assert report["sha256"] == hashlib.sha256(data).hexdigest()
    assert report["bytes"] == len(data)


def test_parquet_holds_every_recorded_call_in_order(run, tmp_path):
    _, report = run("--table", "raw", "--out", tmp_path / "calls.parquet")
    table = pyarrow.parquet.read_table(report["file"])
    assert table["id"].to_pylist() == [f"chatcmpl-{number:026d}" for number in range(5000)]
    assert json.loads(table["plan"][0].as_py())["primary"] == "m"
    assert (tmp_path / "calls.parquet").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("table", ["curated", "raw", "signature", "feedback", "metrics", "assignment", "registry"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_every_table_can_be_exported_into_a_folder(run, tmp_path, table, kind):
    code, report = run("--table", table, "--format", kind, "--out", tmp_path / "out")
    assert code == 0
    assert report["file"].startswith(str(tmp_path / "out" / report["table"]))
    assert report["rows"] == {"curated": 4000, "raw": 5000, "signature": 0, "metrics": 2, "assignment": 0}.get(table, 1)


def test_filters_take_their_values_as_values(run, tmp_path):
    assert run("--table", "raw", "--tenant", "o'brien", "--out", tmp_path / "a.jsonl")[1]["rows"] == 2500
    assert run("--table", "raw", "--cluster", "' OR 1=1 --", "--out", tmp_path / "b.jsonl")[1]["rows"] == 0
    assert run("--table", "raw", "--cluster", "unknown", "--out", tmp_path / "c.jsonl")[1]["rows"] == 1000
    since = "2026-09-21T14:13:24.500+00:00"
    later = run("--table", "raw", "--since", since, "--out", tmp_path / "d.jsonl")[1]
    assert later["rows"] == 5000 - (parse_since(since, 0) - START_MS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "raw; DROP TABLE slm_observation_raw", "--out", "x.jsonl"], "Known: curated"),
        (["--table", "registry", "--tenant", "a", "--out", "x.jsonl"], "no tenant"),
        (["--since", "yesterday", "--out", "x.jsonl"], "24h"),
        (["--out", "no/such/x.jsonl"], "no folder"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_do(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, body = run(*arguments)
    assert code == 2
    assert words in body["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept_unless_forced(run, tmp_path):
    out = tmp_path / "calls.jsonl"
    out.write_text("precious")
    code, body = run("--out", out, "--format", "jsonl")
    assert (code, out.read_text()) == (2, "precious")
    assert "--force" in body["error"]["message"]
    assert run("--out", out, "--format", "jsonl", "--force")[0] == 0
    assert len(out.read_bytes().splitlines()) == 4000
    assert {path.name for path in tmp_path.iterdir()} == {"calls.jsonl"}


def test_without_a_state_directory_the_message_names_it(tmp_path, capsys):
    assert journeyman(["export", "--state", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "--state" in capsys.readouterr().err


def test_since_understands_ages_and_times():
    now_ms = 1_000_000_000_000
    assert parse_since("24h", now_ms) == now_ms - 86_400_000
    assert parse_since("7d", now_ms) == now_ms - 7 * 86_400_000
    assert parse_since("2026-11-21", now_ms) == parse_since("2026-11-21T01:00:00+01:00", now_ms)
    for bad in ("", "h", "-1h", "2026-13-01", "24 hours", "9" * 400 + "h"):
        with pytest.raises(BadInputError):
            parse_since(bad, now_ms)
