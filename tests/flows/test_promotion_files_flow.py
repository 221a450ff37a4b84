"""Each look leaves a report, a move's report is found from the ledger, and it quotes nothing that is not kept."""

import hashlib
import json
from pathlib import Path

import pytest

from observations.records import CallRecord, ErasureRecord, FeedbackRecord
from observations.state import StatePaths
from pipelines.promote import look_at_all
from pipelines.promotion_archive import Dropped, drop_examples, file_report, find_report
from policies.promotion import Gates, PromotionPolicy
from registry.errors import StorageError
from registry.registrar import Registrar
from router_service.cli import run
from tests.flows.mirrored_calls import SOON, mirrored, shadow_of
from tests.flows.recorded_state import record

POLICY = PromotionPolicy(gates=Gates(escalations=0.4))


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").create()


def call(number: int, text: str = "send 5 to <PERSON_1>", **other):
    given = {"messages": [{"role": "user", "content": text}], "answer_text": '{"intent": "balance"}'} | other
    return CallRecord(id=f"call_{number}", at_ms=SOON + number, outcome="verified", served_by="big", **given)


def said(number: int, **other) -> FeedbackRecord:
    return FeedbackRecord(id=f"fb_{number}", call_id=f"call_{number}", at_ms=SOON + number, **other)


def latest(state: StatePaths, specialist: str) -> dict:
    return json.loads((state.root / "reports" / specialist / "promotion.json").read_bytes())


def test_a_look_leaves_the_three_forms_verdict_first(state: StatePaths) -> None:
    young = shadow_of(state, "young")
    record(state, [mirrored(young, n) for n in range(40)])
    (look,) = look_at_all(state, POLICY)
    folder = state.root / "reports" / young
    assert look.report == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "evidence.json", "promotion.html", "promotion.json", "promotion.md",
    ]  # fmt: skip
    assert (folder / "promotion.md").read_text().startswith("# Wait: not decided after 40 calls")
    page = (folder / "promotion.html").read_text()
    assert "40 of at least 300 calls seen." in page and "Saved in this trial" in page and "://" not in page
    assert {gate["name"] for gate in latest(state, young)["decision"]["gates"]} == set(POLICY.gates_on)
    assert folder.stat().st_mode & 0o077 == 0 and (folder / "promotion.html").stat().st_mode & 0o077 == 0


def test_the_report_of_a_move_is_found_from_the_ledger_and_outlives_the_next_look(state: StatePaths) -> None:
    good = shadow_of(state, "good")
    record(state, [mirrored(good, n) for n in range(900)])
    (look,) = look_at_all(state, POLICY)
    assert look.moved_to == "canary 1%"
    evidence = Registrar(state.root).history().entries[-1].entry.evidence
    look_at_all(state, POLICY)
    kept = find_report(state.root / "reports", evidence)
    assert kept is not None and str(kept) == look.report and kept.name.endswith(evidence)
    assert hashlib.sha256((kept / "evidence.json").read_bytes()).hexdigest() == evidence
    assert evidence in (kept / "promotion.html").read_text() and evidence in (kept / "promotion.md").read_text()
    assert json.loads((kept / "promotion.json").read_bytes())["headline"].startswith("Promote: to canary at 1%")
    assert latest(state, good)["headline"].startswith("Wait"), "the latest is the next step's"
    assert find_report(state.root / "reports", "0" * 64) is None


def test_examples_are_what_the_record_and_its_feedback_say(state: StatePaths) -> None:
    one = shadow_of(state, "one")
    events = [
        call(1), mirrored(one, 1, agrees=False, said='{"intent": "broken"}'),
        call(2), mirrored(one, 2, agrees=False), said(2, outcome="failure", correction='{"intent":  "transfer"}'),
        call(3), mirrored(one, 3, agrees=False), said(3, outcome="failure", correction='{"intent": "other"}'),
        call(4), mirrored(one, 4, agrees=False, outcome="unsure"),
        call(5), mirrored(one, 5, agrees=True),
        call(6), mirrored(one, 6, agrees=False), said(6, outcome="failure"),
        call(7, messages=None, answer_text=None, content_mode="none"),
        mirrored(one, 7, agrees=False, answer_text=None, content_mode="none"),
        call(8, messages=[{"role": "user", "content": "book it"}, {"role": "assistant", "content": "x"}],
             answer_text=None, answer_tool_calls=[{"name": "book", "arguments": '{"n": 1}'}]),
        mirrored(one, 8, agrees=False),
    ]  # fmt: skip
    record(state, events)
    look_at_all(state, POLICY, move=False)
    made = latest(state, one)
    (fixed,) = made["fixed_examples"]
    assert fixed == {
        "call_id": "call_2",
        "input": "send 5 to <PERSON_1>",
        "served": '{"intent": "balance"}',
        "answered": '{"intent": "transfer"}',
    }
    broken = {example["call_id"]: example for example in made["broken_examples"]}
    assert set(broken) == {"call_1", "call_7", "call_8"}
    assert broken["call_1"]["answered"] == '{"intent": "broken"}'
    assert {broken["call_7"][name] for name in ("input", "served", "answered")} == {"(the text was not kept)"}
    assert (broken["call_8"]["input"], broken["call_8"]["served"]) == ("book it", 'book {"n": 1}')


def test_an_example_is_taken_out_of_every_report_and_the_figures_stay(state: StatePaths) -> None:
    poor = shadow_of(state, "poor")
    record(
        state, [event for n in range(400) for event in (call(n, f"words of {n}."), mirrored(poor, n, agrees=n > 300))]
    )
    (look,) = look_at_all(state, POLICY)
    assert look.moved_to.startswith("candidate")
    reports, before = state.root / "reports", latest(state, poor)
    gone = before["broken_examples"][0]["call_id"]
    number = gone.removeprefix("call_")
    changed = drop_examples(reports, {gone})
    assert set(changed.changed) == {reports / poor, Path(look.report)}
    texts = [path.read_text() for path in reports.glob("**/*") if path.is_file()]
    assert len(texts) == 8 and not any(f"words of {number}." in text or gone in text for text in texts)
    after = latest(state, poor)
    assert len(after["broken_examples"]) == len(before["broken_examples"]) - 1
    assert {**after, "broken_examples": 0} == {**before, "broken_examples": 0}
    assert drop_examples(reports, {gone}) == Dropped()
    (reports / poor / "promotion.json").write_text("{}")
    (unread,) = drop_examples(reports, {gone}).unreadable
    assert str(reports / poor / "promotion.json") in unread, "a report that nobody can read is named"


def test_of_an_erased_call_a_report_says_that_it_was_wrong_and_not_what(state: StatePaths) -> None:
    one = shadow_of(state, "one")
    record(state, [call(1), mirrored(one, 1, agrees=False), call(2, "words of 2."), mirrored(one, 2, agrees=False)])
    record(state, [ErasureRecord(id="call_2", call_id="call_2", at_ms=SOON)])
    look_at_all(state, POLICY, move=False)
    shown = {example["call_id"]: example["input"] for example in latest(state, one)["broken_examples"]}
    assert shown == {"call_1": "send 5 to <PERSON_1>", "call_2": "(the text was not kept)"}


def test_a_call_that_is_erased_while_a_report_is_made_is_not_in_it(state: StatePaths, monkeypatch) -> None:
    one = shadow_of(state, "one")
    record(state, [event for n in (1, 2) for event in (call(n, f"words of {n}."), mirrored(one, n, agrees=False))])

    def file_late(*given, **more):
        assert run(["erase", "call_2", "--state", str(state.root), "--yes"]) == 0
        return file_report(*given, **more)

    monkeypatch.setattr("pipelines.promote.file_report", file_late)
    look_at_all(state, POLICY, move=False)
    texts = [path.read_text() for path in (state.root / "reports").glob("**/*") if path.is_file()]
    assert any("words of 1." in text for text in texts) and not any("words of 2." in text for text in texts)


def test_a_report_that_cannot_be_written_stops_the_move(state: StatePaths, tmp_path: Path) -> None:
    good = shadow_of(state, "good")
    record(state, [mirrored(good, n) for n in range(900)])
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot make the folder"):
        look_at_all(state, POLICY, reports=tmp_path / "file")
    assert Registrar(state.root).history().stages[good].stage == "shadow"


def test_the_command_says_where_the_report_is(state: StatePaths, tmp_path: Path, capsys) -> None:
    young = shadow_of(state, "young")
    record(state, [mirrored(young, n) for n in range(4)])
    base = ["flywheel", "promote", "--state", str(state.root)]
    assert run([*base, "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["report"] == "" and not (state.root / "reports").exists()
    assert run([*base, "--report", str(tmp_path / "elsewhere")]) == 0
    page = tmp_path / "elsewhere" / young / "promotion.html"
    assert f"report: {page}" in capsys.readouterr().out and page.is_file()
    assert run([*base, "--no-report", "--report", str(tmp_path)]) == 2
