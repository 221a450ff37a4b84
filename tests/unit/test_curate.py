"""Curation: what is learnt from, what is left out, and that the report says why."""

from pathlib import Path

import msgspec

from observations.loading import load_once
from observations.records import CallRecord, FeedbackRecord, SignatureRecord
from observations.spool import Spool
from observations.state import StatePaths
from pipelines.curate import CurateOptions, curate
from pipelines.curate_filters import REASONS, FilterOptions
from pipelines.curate_rows import RecordedScope
from pipelines.loop_rows import CuratedCall, read_rows
from pipelines.run import Run

START_MS = 1_790_000_000_000
TOOL = {
    "type": "function",
    "function": {
        "name": "send",
        "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]},
    },
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "required": ["label"]}},
}
AGENTS = (
    SignatureRecord(id="default:plain", at_ms=START_MS, signature="plain", system="Answer briefly."),
    SignatureRecord(
        id="default:tools", at_ms=START_MS, signature="tools", system="Act.", tools=[TOOL], tool_names=("send",)
    ),
    SignatureRecord(id="default:json", at_ms=START_MS, signature="json", system="Label.", response_format=FORMAT),
)
WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "islet", "jetty", "knoll")


def text_of(number):
    """Eleven words; those of two numbers have next to nothing in common."""
    return " ".join(f"{WORDS[(number * 7 + at) % 11]}{number}x{at}" for at in range(11))


def call(number, **fields):
    values = {
        "at_ms": START_MS + number,
        "signature": "plain",
        "messages": [{"role": "user", "content": fields.pop("text", text_of(number))}],
        "answer_text": "ok",
        "served_by": "large",
        "frontier": "large",
        "outcome": "verified",
        "finish_reason": "stop",
        "prompt_hash": f"hash-{number}",
    }
    return CallRecord(id=f"call-{number:04d}", **(values | fields))


def said(number, **fields):
    return FeedbackRecord(id=f"fb-{number}-{sorted(fields)}", call_id=f"call-{number:04d}", at_ms=START_MS, **fields)


def record(state, *events):
    spool = Spool.open(state.create().spool)
    for event in (*AGENTS, *events):
        assert spool.append(event)
    spool.close()
    load_once(state)


def curated(root, *events, options=None):
    """Record the events, curate, and return ({call id: row}, {call id: reason}, report)."""
    state = StatePaths(root)
    record(state, *events)
    with Run.open(state.root / "runs", "r", say=lambda line: None) as run:
        result = curate(state, run, options)
    rows = {row.call_id: row for row in read_rows(result.rows, CuratedCall)}
    dropped = {name: one.calls for name, one in result.report.dropped.items()}
    assert result.report.kept == len(rows)
    assert result.report.read == len(rows) + sum(dropped.values())
    return rows, dropped, result.report


def fates(root, *events):
    """What became of each call: its row, or the reason why it was left out. At most three of one reason."""
    rows, _, report = curated(root, *events)
    return rows | {call_id: name for name, one in report.dropped.items() for call_id in one.examples}


def only(root, *events, options=None):
    """The reason that the one call was left out for, or its row."""
    rows, dropped, _ = curated(root, *events, options=options)
    assert len(rows) + sum(dropped.values()) == 1
    return next(iter(rows.values()), None) or next(iter(dropped))


def test_a_verified_answer_of_the_frontier_is_kept_with_its_fixed_part(tmp_path):
    row = only(
        tmp_path,
        call(
            1,
            signature="tools",
            answer_text=None,
            cost_usd=0.25,
            end_user="u",
            answer_tool_calls=[{"name": "send", "arguments": '{"to":"x"}'}],
        ),
    )
    assert (row.input, row.system, row.tool_names, row.tools) == (text_of(1), "Act.", ("send",), [TOOL])
    assert row.answer_tool_calls == [{"name": "send", "arguments": '{"to":"x"}'}]
    assert (row.answer_source, row.served_by, row.cost_usd, row.cluster) == ("verified", "large", 0.25, "unknown")


LEFT_OUT = (
    ({"messages": None, "content_mode": "hash"}, "not_kept"),
    ({"messages": None, "withheld": "redaction_failed"}, "withheld"),
    ({"messages": [{"role": 7}]}, "unreadable"),
    ({"signature": "tools", "answer_tool_calls": [{"named": "send"}]}, "unreadable"),
    ({"finish_reason": "content_filter"}, "refused"),
    ({"answer_text": "I'm sorry, but I can't help with that."}, "refused"),
    ({"cost_usd": 1.01}, "over_cost"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "several_turns"),
    ({"messages": [{"role": "tool", "content": "42"}]}, "several_turns"),
    ({"text": " \n"}, "no_text"),
    ({"messages": []}, "no_text"),
    ({"text": "long " * 7_000}, "too_long"),
    ({"outcome": "failed"}, "failed"),
    ({"outcome": "cancelled"}, "failed"),
    ({"outcome": "unverified"}, "unverified"),
    ({"served_by": "small@0123456789ab"}, "not_frontier"),
    ({"finish_reason": "length"}, "truncated"),
    ({"answer_text": None}, "malformed"),
    ({"signature": "json", "answer_text": '{"other": 1}'}, "malformed"),
    ({"signature": "tools", "answer_tool_calls": [{"name": "send", "arguments": "{}"}]}, "malformed"),
    ({"answer_text": "Write to <EMAIL_1>."}, "unseen_data"),
    ({"answer_text": "It is <EMAIL_2>.", "text": "Mine is <EMAIL_1>."}, "unseen_data"),
)


def test_what_is_left_out_and_why(tmp_path):
    calls = [call(number, **fields) for number, (fields, _) in enumerate(LEFT_OUT)]
    assert fates(tmp_path, *calls) == {f"call-{number:04d}": reason for number, (_, reason) in enumerate(LEFT_OUT)}


JUDGED = (
    ("verified", {"outcome": "failure"}, "contradicted"),
    ("verified", {"score": 0.4}, "contradicted"),
    ("verified", {"outcome": "success", "score": 0.1}, "contradicted"),
    ("verified", {"outcome": "success"}, "feedback"),
    ("unverified", {"score": 0.5}, "feedback"),
    ("unverified", {"outcome": "success"}, "feedback"),
    ("unverified", {"comment": "hm"}, "unverified"),
    ("failed", {"outcome": "success"}, "failed"),
    ("failed", {"outcome": "failure", "correction": "right"}, "correction"),
    ("verified", {"outcome": "failure", "correction": "right"}, "correction"),
    ("verified", {"correction": "  "}, "verified"),
)


def test_feedback_outranks_the_verifier(tmp_path):
    calls = [call(number, outcome=outcome) for number, (outcome, _, _) in enumerate(JUDGED)]
    words = [said(number, **word) for number, (_, word, _) in enumerate(JUDGED)]
    found = fates(tmp_path, *calls, *words)
    for number, (outcome, word, becomes) in enumerate(JUDGED):
        fate = found[f"call-{number:04d}"]
        assert (fate if isinstance(fate, str) else fate.answer_source) == becomes, (outcome, word)
        if becomes == "correction":
            assert fate.answer_text == "right"


def test_the_latest_word_counts_and_what_it_leaves_open_stays_said(tmp_path):
    early, late = START_MS + 1, START_MS + 2
    words = [
        FeedbackRecord(id="a", call_id="call-0001", at_ms=late, outcome="success"),
        FeedbackRecord(id="b", call_id="call-0001", at_ms=early, outcome="failure"),
        FeedbackRecord(id="c", call_id="call-0002", at_ms=early, correction="right"),
        FeedbackRecord(id="d", call_id="call-0002", at_ms=late, outcome="failure"),
    ]
    found = fates(tmp_path, call(1), call(2), *words)
    assert found["call-0001"].answer_source == "feedback"
    assert found["call-0002"].answer_text == "right"


def test_another_tenants_feedback_says_nothing(tmp_path):
    assert only(tmp_path, call(1), said(1, tenant="other", outcome="failure")).answer_source == "verified"


def test_a_specialists_answer_is_learnt_only_when_asked_for_or_corrected(tmp_path):
    served = {"served_by": "small@0123456789ab"}
    assert only(tmp_path / "a", call(1, **served), said(1, outcome="success")) == "not_frontier"
    assert only(tmp_path / "b", call(1, **served), said(1, correction="right")).answer_text == "right"
    options = CurateOptions(filters=FilterOptions(specialists_too=True))
    assert only(tmp_path / "c", call(1, **served), options=options).answer_text == "ok"


def test_a_correction_of_a_tool_call_is_a_tool_call_that_fits(tmp_path):
    corrections = {
        '{"name": "send", "arguments": {"to": "y"}}': None,
        '{"name": "fly", "arguments": {}}': "malformed",
        '{"name": "send", "arguments": {}}': "malformed",
        "send it to y": "unclear_correction",
    }
    made = [{"name": "send", "arguments": '{"to":"x"}'}]
    calls = [call(n, signature="tools", answer_tool_calls=made) for n in range(4)]
    found = fates(tmp_path, *calls, *(said(n, correction=text) for n, text in enumerate(corrections)))
    row = found.pop("call-0000")
    assert (row.answer_tool_calls, row.answer_text) == ([{"name": "send", "arguments": '{"to":"y"}'}], None)
    assert list(found.values()).count("malformed") == 2
    assert found["call-0003"] == "unclear_correction"


def test_a_corrections_own_placeholders_meet_the_inputs_where_that_is_clear(tmp_path):
    asked = ("Mail <EMAIL_1> at <PHONE_1>.", "Mail <EMAIL_3>.", "Mail <EMAIL_1>, not <EMAIL_2>.", "Mail me.")
    calls = [call(n, text=text, redactions={"EMAIL": 2, "PHONE": 1}) for n, text in enumerate(asked)]
    found = fates(tmp_path, *calls, *(said(n, correction="<EMAIL_1>") for n in range(4)))
    for number in (0, 1):
        row = found[f"call-{number:04d}"]
        assert "@example." in row.answer_text
        assert row.input.startswith(f"Mail {row.answer_text}")
    assert (found["call-0002"], found["call-0003"]) == ("unclear_correction", "unseen_data")


def test_redacted_spans_are_natural_text_and_the_same_in_the_answer(tmp_path):
    rows, _, _ = curated(
        tmp_path,
        *(
            call(n, signature="tools", text=f"Send it to <EMAIL_1>, {text_of(n)}", redactions={"EMAIL": 1},
                 answer_tool_calls=[{"name": "send", "arguments": '{"to":"<EMAIL_1>"}'}])
            for n in (1, 2)
        ),
    )  # fmt: skip
    addresses = [msgspec.json.decode(row.answer_tool_calls[0]["arguments"])["to"] for row in rows.values()]
    assert len(set(addresses)) == 2
    for row, address in zip(rows.values(), addresses, strict=True):
        assert row.input.startswith(f"Send it to {address}, ")


def test_of_near_duplicates_the_best_judged_or_newest_stays(tmp_path):
    long = " ".join(f"word{at}" for at in range(60))
    rows, dropped, _ = curated(
        tmp_path,
        call(1, text=f"{long} end"),
        call(2, text=f"{long} END!"),
        call(3, text=f"{long} end"),
        call(4, text=text_of(4), answer_text="judged"),
        call(5, text=text_of(4)),
        said(4, outcome="success"),
    )
    assert set(rows) == {"call-0003", "call-0004"}
    assert dropped == {"duplicate": 3}


def test_the_same_prompt_told_by_its_hash_is_a_duplicate_although_surrogates_differ(tmp_path):
    same = {"text": "Mail <EMAIL_1>", "redactions": {"EMAIL": 1}}
    rows, dropped, _ = curated(
        tmp_path, call(1, **same, prompt_hash="x"), call(2, **same, prompt_hash="x"), call(3, **same, prompt_hash="y")
    )
    assert set(rows) == {"call-0002", "call-0003"}
    assert dropped == {"duplicate": 1}


def test_texts_of_another_agent_or_tenant_are_no_duplicates(tmp_path):
    rows, _, _ = curated(
        tmp_path,
        call(1, text="the same"),
        call(2, text="the same", signature="json", answer_text='{"label": 1}'),
        call(3, text="the same", tenant="other"),
    )
    assert len(rows) == 3


def test_short_texts_that_differ_in_a_value_are_kept(tmp_path):
    rows, _, _ = curated(tmp_path, *(call(n, text=f"refund order {n}") for n in range(50)))
    assert len(rows) == 50


def test_caps_hold_and_the_newest_stay(tmp_path):
    rows, dropped, _ = curated(
        tmp_path,
        *(call(n, end_user="busy") for n in range(10)),
        *(call(n, end_user=f"user-{n}") for n in range(10, 14)),
        *(call(n) for n in range(14, 18)),
        options=CurateOptions(max_per_end_user=3, max_per_template=8),
    )
    assert dropped == {"template_cap": 10}
    assert set(rows) == {f"call-{n:04d}" for n in range(10, 18)}


def test_one_end_user_does_not_fill_a_template(tmp_path):
    rows, dropped, report = curated(
        tmp_path,
        *(call(n, end_user="busy") for n in range(10)),
        call(10, end_user="other"),
        options=CurateOptions(max_per_end_user=3),
    )
    assert set(rows) == {"call-0007", "call-0008", "call-0009", "call-0010"}
    assert dropped == {"end_user_cap": 7}
    assert report.end_users == 2


def test_calls_in_an_evaluation_file_are_left_out(tmp_path):
    held_out = tmp_path / "eval.jsonl"
    held_out.write_bytes(
        msgspec.json.encode({"input": text_of(1).upper() + "!", "split": "dev"})
        + b"\n"
        + msgspec.json.encode({"input": text_of(2), "split": "train"})
    )
    rows, dropped, report = curated(tmp_path, call(1), call(2), options=CurateOptions(exclude=(held_out,)))
    assert set(rows) == {"call-0002"}
    assert dropped == {"contaminated": 1}
    assert report.evaluation_inputs == {str(held_out): 1}


def test_test_splits_of_datasets_are_excluded_save_the_calls_that_are_in_them(tmp_path):
    version = tmp_path / "datasets" / "labels" / "1.0.0"
    version.mkdir(parents=True)
    (version / "manifest.json").write_bytes(msgspec.json.encode({"template": {"prompt": "Message: {input}\nLabel:"}}))
    row = {"call_id": "call-0001", "prompt": f"Message: {text_of(1)}\nLabel:", "completion": "ok"}
    (version / "test.jsonl").write_bytes(msgspec.json.encode(row) + b"\n")
    (version / "train.jsonl").write_bytes(msgspec.json.encode(row | {"prompt": text_of(3)}) + b"\n")
    events = [call(1), call(2, text=text_of(1), tenant="other"), call(3)]
    rows, dropped, _ = curated(tmp_path, *events)
    assert set(rows) == {"call-0001", "call-0003"}
    assert dropped == {"contaminated": 1}


def test_the_scope_narrows_by_time_tenant_and_cluster(tmp_path):
    state = StatePaths(tmp_path)
    record(state, call(1), call(2, tenant="other"), call(3, cluster="billing"))
    for scope, expected in (
        (RecordedScope(since_ms=START_MS + 2), 2),
        (RecordedScope(tenant="other"), 1),
        (RecordedScope(cluster="billing"), 1),
        (RecordedScope(cluster="unknown"), 2),
        (RecordedScope(tenant="nobody"), 0),
    ):
        with Run.open(tmp_path / "runs", say=lambda line: None) as run:
            assert curate(state, run, CurateOptions(scope=scope)).report.read == expected


def test_a_step_is_skipped_until_the_record_or_the_options_change(tmp_path):
    state = StatePaths(tmp_path)

    def again(options=None):
        with Run.open(tmp_path / "runs", "r", say=lambda line: None) as run:
            return curate(state, run, options)

    record(state, call(1))
    assert not again().skipped
    assert again().skipped
    assert again().report.kept == 1
    assert again(CurateOptions(scope=RecordedScope(since_ms=START_MS))).skipped
    assert not again(CurateOptions(max_per_template=1)).skipped
    assert not again().skipped
    record(state, call(2))
    assert again().report.kept == 2
    record(state, said(2, outcome="failure"))
    assert again().report.kept == 1


def test_many_windows_give_what_one_gives(tmp_path, monkeypatch):
    from pipelines import curate_rows

    state = StatePaths(tmp_path)
    record(
        state, *(call(n, at_ms=START_MS + n // 3) for n in range(40)), *(said(n, outcome="success") for n in range(5))
    )
    files = []
    for window_rows in (7, 1, 10_000):
        monkeypatch.setattr(curate_rows.RecordReader.__init__, "__defaults__", (window_rows,))
        with Run.open(tmp_path / "runs", say=lambda line: None) as run:
            files.append(Path(curate(state, run).rows).read_bytes())
    assert files[0] == files[1] == files[2]
    assert files[0].count(b"\n") == 40


def test_every_reason_of_the_report_is_explained():
    assert all(text and text[0].islower() for text in REASONS.values())
