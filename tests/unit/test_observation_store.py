"""The store: every event once, whatever crashed; damage is moved aside; readers and the loader take turns."""

import contextlib
import time

import duckdb
import pytest

from observations import queries
from observations.loading import load_once, prepare_store
from observations.migrations import MIGRATIONS, VIEWS, migrate, version_of
from observations.records import (
    AttemptRecord,
    CallRecord,
    CatalogRecord,
    FeedbackRecord,
    ShadowRecord,
    SignatureRecord,
    StageMoveRecord,
)
from observations.rows import SPEC_OF, TABLES, columns_of, to_record
from observations.sources import sealed_segments
from observations.spool import Spool, SpoolSettings
from observations.state import StatePaths
from observations.store import StoreSettings, connect, open_reader, open_writer
from registry.errors import NotFoundError, StorageError
from tests.unit.recorded_calls import START_MS, ask, call, count, spool_up


@pytest.fixture
def state(tmp_path):
    return StatePaths(tmp_path / "state").create()


def test_every_table_has_a_column_for_every_field_of_its_record(state):
    prepare_store(state)
    for spec in TABLES:
        rows = ask(state, "SELECT column_name FROM information_schema.columns WHERE table_name = ?", spec.name)
        assert {row[0] for row in rows} == set(columns_of(spec))


def test_a_call_comes_back_from_the_store_as_it_was(state):
    full = call(
        1, hint_agrees=True, metadata={"a": "b"}, redactions={"email": 2}, first_token_ms=1.5, cost_usd=1e-9,
        answer_tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{"}}],
    )  # fmt: skip
    plain = CallRecord(id="plain", at_ms=5)
    spool_up(state, full, plain)
    assert load_once(state).rows["slm_observation_raw"] == 2
    assert queries.find_call(state, full.id) == full
    assert queries.find_call(state, "plain") == plain


def test_a_call_is_found_before_it_is_loaded_and_after(state):
    spool = Spool.open(state.spool)
    spool.append(call(1, tenant="acme"))
    assert queries.find_call(state, call(1).id) == call(1, tenant="acme")
    spool.close()
    load_once(state)
    assert queries.find_call(state, call(1).id) == call(1, tenant="acme")
    assert queries.find_call(state, "x' OR '1'='1") is None


def test_before_the_first_load_questions_have_no_answer_and_no_error(state):
    assert queries.find_call(state, "nothing") is None
    with pytest.raises(NotFoundError, match=r"observations\.duckdb"):
        open_reader(state)


def test_loading_again_changes_nothing(state):
    spool_up(state, *map(call, range(50)))
    assert load_once(state).events == 50
    assert load_once(state).events == 0
    assert count(state) == (50, 50)
    assert sealed_segments(state.spool) == []


def test_a_crash_between_checkpoint_and_removal_loads_nothing_twice(state):
    spool_up(state, *map(call, range(50)))
    [segment] = sealed_segments(state.spool)
    kept = segment.path.read_bytes()
    load_once(state)
    segment.path.parent.mkdir(exist_ok=True)
    segment.path.write_bytes(kept)
    again = load_once(state)
    assert again.segments == 1
    assert again.rows["slm_observation_raw"] == 0
    segment.path.parent.mkdir(exist_ok=True)
    segment.path.with_name("00000000000000000001-zzzzzz.sealed").write_bytes(kept)  # under another name: by event id
    renamed = load_once(state)
    assert renamed.duplicates == 50
    assert count(state) == (50, 50)


def test_the_same_event_in_two_segments_is_one_row(state):
    spool_up(state, call(1), call(2), SignatureRecord(id="t:s", at_ms=1, signature="s"))
    spool_up(state, call(2), call(3), call(3), SignatureRecord(id="t:s", at_ms=9, signature="s"))
    load_once(state)
    spool_up(state, call(1), call(4), SignatureRecord(id="t:s", at_ms=99, signature="s"))
    load_once(state)
    assert count(state) == (4, 4)
    assert ask(state, "SELECT at_ms FROM slm_signature") == [(1,)]


def test_a_damaged_segment_gives_what_it_has_and_goes_to_the_quarantine(state, capsys):
    spool_up(state, *map(call, range(20)))
    [segment] = sealed_segments(state.spool)
    data = bytearray(segment.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.path.write_bytes(data)
    report = load_once(state)
    assert (report.rows["slm_observation_raw"], report.damaged, len(report.quarantined)) == (19, 1, 1)
    assert [path.read_bytes() for path in state.quarantine.iterdir()] == [bytes(data)]
    assert '"event": "segment_quarantined"' in capsys.readouterr().err


def test_a_value_no_column_holds_costs_only_its_own_record(state):
    spool_up(state, call(1), call(2, prompt_tokens=2**70), call(3))
    report = load_once(state)
    assert (report.rows["slm_observation_raw"], report.damaged, len(report.quarantined)) == (2, 1, 1)
    assert load_once(state).segments == 0


def test_a_torn_segment_of_a_killed_writer_is_loaded_up_to_the_tear(state):
    spool_up(state, *map(call, range(5)))
    [segment] = sealed_segments(state.spool)
    data = segment.path.read_bytes()
    segment.path.unlink()
    segment.path.with_suffix(".open").write_bytes(data[: len(data) - 60])  # no footer, and the last one cut
    report = load_once(state)
    assert (report.rows["slm_observation_raw"], report.damaged, report.quarantined) == (4, 0, ())
    assert report.torn_bytes > 0


def test_migrations_go_from_every_version_to_the_newest_and_keep_the_rows(tmp_path):
    for start in range(1, len(MIGRATIONS) + 1):
        path = tmp_path / f"{start}.duckdb"
        store = connect(path, StoreSettings(), read_only=False)
        assert migrate(store, to=start) == list(range(1, start + 1))
        store.execute("INSERT INTO slm_observation_raw (id, at_ms) VALUES ('old', 1)")
        store.close()
        store = connect(path, StoreSettings(), read_only=False)
        assert migrate(store) == list(range(start + 1, len(MIGRATIONS) + 1))
        assert version_of(store) == len(MIGRATIONS)
        assert store.execute("SELECT id FROM slm_observation_raw").fetchall() == [("old",)]
        for view in VIEWS:
            store.execute(f"SELECT * FROM {view}").fetchall()
        store.close()


def test_a_store_of_a_newer_program_is_refused_and_left_as_it_is(state):
    prepare_store(state)
    store = connect(state.store, StoreSettings(), read_only=False)
    store.execute("INSERT INTO schema_version VALUES (999, 'later', 0)")
    store.close()
    with pytest.raises(StorageError, match="newer journeyman"):
        load_once_with_one_event(state)
    assert list(state.quarantine.iterdir()) == []
    assert len(sealed_segments(state.spool)) == 1


def load_once_with_one_event(state):
    spool_up(state, call(1))
    return load_once(state)


def test_feedback_counts_whether_it_came_before_or_after_the_call(state):
    early = FeedbackRecord(id="f1", call_id=call(1).id, at_ms=START_MS, outcome="failure", correction="better")
    spool_up(state, early)
    load_once(state)
    spool_up(state, call(1), call(2, outcome="unverified"), call(3, outcome="failed"), call(4, outcome="unverified"))
    load_once(state)
    late = FeedbackRecord(id="f2", call_id=call(2).id, at_ms=START_MS + 9, outcome="success", score=0.9)
    other = FeedbackRecord(id="f3", call_id=call(4).id, at_ms=START_MS + 9, outcome="success", tenant="stranger")
    spool_up(state, late, other, FeedbackRecord(id="f4", call_id=call(2).id, at_ms=START_MS, outcome="failure"))
    load_once(state)
    rows = ask(
        state,
        "SELECT success, success_source, feedback_score, feedback_correction FROM slm_observation_curated ORDER BY id",
    )
    assert rows == [
        (False, "feedback", None, "better"),
        (True, "feedback", 0.9, None),  # the later word wins
        (False, "verifier", None, None),
        (None, None, None, None),  # another tenant's word does not count
    ]


def test_curated_rows_have_content_and_a_cluster(state):
    spool_up(
        state,
        call(1),
        call(2, cluster="unknown"),
        call(3, messages=None, content_mode="hash"),
        call(4, withheld="redaction_failed"),
    )
    load_once(state)
    assert ask(state, "SELECT id FROM slm_observation_curated") == [(call(1).id,)]


def test_metrics_count_attempts_by_minute_and_model(state):
    frontier = AttemptRecord("frontier", "b", "verified", latency_ms=90.0, completion_tokens=7, cost_usd=2.0)
    tries = [AttemptRecord("small", "b", kind) for kind in ("malformed", "unsure", "failed", "timed_out")]
    spool_up(state, *(call(n, attempts=(first, frontier)) for n, first in enumerate(tries)), call(60_000))
    load_once(state)
    rows = ask(
        state,
        "SELECT model, calls, verified, malformed, unsure, failed, timed_out, latency_p50_ms, cost_usd,"
        " completion_tokens FROM model_metrics_timeseries ORDER BY minute_ms, model",
    )
    assert rows == [
        ("frontier", 4, 4, 0, 0, 0, 0, 90.0, 8.0, 28),
        ("small", 4, 0, 1, 1, 1, 1, 0.0, 0.0, 0),
        ("small@0123456789ab", 1, 1, 0, 0, 0, 0, 10.0, 0.5, 0),
    ]


def test_assignment_looks_at_the_last_day_of_data(state):
    day_ms = 86_400_000
    spool_up(
        state,
        call(1, served_by="old"),
        *(call(day_ms * 2 + n, served_by="new" if n else "frontier") for n in range(4)),
        CatalogRecord(id="sha256:1", at_ms=1, digest="sha256:1", models=[{"model_name": "m", "price": 1}]),
        StageMoveRecord(id="move1", at_ms=1, specialist="s@1", before="shadow", after="canary"),
    )
    load_once(state)
    rows = ask(state, "SELECT cluster, model, calls, share FROM cluster_model_assignment ORDER BY share")
    assert rows == [("billing", "frontier", 1, 0.25), ("billing", "new", 3, 0.75)]
    assert ask(state, "SELECT digest, name, entry->>'price' FROM model_registry") == [("sha256:1", "m", "1")]
    assert ask(state, "SELECT specialist, before, after FROM promotion_audit_log") == [("s@1", "shadow", "canary")]


def test_sql_reaches_no_file_and_cannot_change_that(state):
    prepare_store(state)
    store = open_writer(state)
    for statement in (
        "COPY (SELECT 1) TO '/tmp/escaped.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SET enable_external_access = true",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            store.execute(statement)
    store.close()


def test_while_no_loader_runs_what_was_sent_is_stored_or_counted_and_room_comes_back(state):
    spool = Spool.open(state.spool, SpoolSettings(max_bytes=60_000, segment_bytes=8_000, fsync_interval_ms=10))
    sent = 0
    for _ in range(3):  # three times the loader stands still until the spool is over its bound
        for _ in range(400):
            spool.append(call(sent))
            sent += 1
        assert spool.stats().used_bytes <= 60_000
        spool.seal()
        load_once(state)
        deadline = time.monotonic() + 5
        while spool.stats().used_bytes and time.monotonic() < deadline:
            time.sleep(0.05)
    stats = spool.stats()
    spool.close()
    assert stats.dropped > 100
    assert count(state)[0] == stats.appended
    assert stats.appended + stats.dropped == sent


def test_a_shadow_row_from_before_there_were_replays_reads_as_a_live_one_nobody_judged(state):
    store = connect(state.store, StoreSettings(), read_only=False)
    migrate(store, to=4)
    store.execute("INSERT INTO slm_shadow (id, at_ms, call_id, specialist, latency_ms) VALUES ('c:s', 1, 'c', 's', 9)")
    store.close()
    new = ShadowRecord(id="d:s", at_ms=2, call_id="d", specialist="s", source="replay", right=False)
    spool_up(state, new)
    load_once(state)
    with contextlib.closing(open_reader(state)) as reader:
        rows = reader.execute("SELECT * FROM slm_shadow ORDER BY id").to_arrow_table().to_pylist()
    old, replayed = (to_record(SPEC_OF[ShadowRecord], row) for row in rows)
    assert old == ShadowRecord(id="c:s", at_ms=1, call_id="c", specialist="s", latency_ms=9)
    assert (old.source, old.right, old.reference_right) == ("live", None, None)
    assert replayed == new and replayed.latency_ms is None


def test_what_was_moved_aside_before_a_migration_is_salvaged_after_it(state):
    aside = state.quarantine / "observations.duckdb"
    store = connect(aside, StoreSettings(), read_only=False)
    migrate(store, to=4)
    store.execute("INSERT INTO slm_shadow (id, at_ms, call_id, specialist) VALUES ('c:s', 1, 'c', 's')")
    store.close()
    aside.with_name(aside.name + ".unread").touch()
    load_once(state)
    assert ask(state, "SELECT id, source FROM slm_shadow") == [("c:s", None)]
