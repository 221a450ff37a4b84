"""An erased call keeps its figures and loses its words: in the store, in the file's bytes, and when it comes again."""

import contextlib
import subprocess
import sys

import pytest

from observations.erasure import find_erasable, recorded_end_users, without_content
from observations.loading import LoaderSettings, load_once
from observations.queries import find_call
from observations.records import AttemptRecord, ErasureRecord, FeedbackRecord, ShadowRecord
from observations.rows import TABLES
from observations.spool import Spool
from observations.state import StatePaths
from policies.redaction import Redactor
from policies.redaction_policy import RedactionPolicy
from registry.errors import StorageError, StoreLockedError
from router_service.metrics import Metrics
from router_service.recording import Recorder
from router_service.services import hash_key
from tests.unit.recorded_calls import START_MS, ask, call, spool_up

CANARY = "xylophone-marmalade-7731"


@pytest.fixture
def state(tmp_path):
    return StatePaths(tmp_path / "state").create()


def told(number, **fields):
    """A call that says the canary wherever a call can say something."""
    words = {
        "messages": [{"role": "user", "content": f"{CANARY} {number} asks"}],
        "answer_text": f"{CANARY} {number} answers",
        "answer_tool_calls": [{"name": "send", "arguments": f'{{"to": "{CANARY}"}}'}],
        "metadata": {"about": CANARY},
        "end_user": "e" * 64,
        "prompt_hash": "f" * 64,
        "attempts": (AttemptRecord("small", "echo", "malformed", reason=f"'{CANARY}' is no number", cost_usd=0.5),),
        "cost_usd": 0.5,
    }
    return call(number, **(words | fields))


def shadow(number):
    name = call(number).id
    return ShadowRecord(
        id=f"{name}:s@1", at_ms=START_MS, call_id=name, specialist="s@1", outcome="verified", agrees=True,
        reason=CANARY, answer_text=CANARY, answer_tool_calls=[{"name": "send", "arguments": CANARY}], cost_usd=0.1,
    )  # fmt: skip


def feedback(number, name="fb"):
    return FeedbackRecord(
        id=f"{name}_{number}", call_id=call(number).id, at_ms=START_MS, outcome="failure", comment=CANARY,
        correction=CANARY,
    )  # fmt: skip


def erasure(number, at_ms=START_MS + 5_000):
    return ErasureRecord(id=call(number).id, call_id=call(number).id, at_ms=at_ms, tenant="default")


def bytes_hold(state, text=CANARY):
    """The files below the state folder in which a text is, as UTF-8 or UTF-16."""
    files = [path for path in state.root.rglob("*") if path.is_file()]
    return [
        path.name for path in files if any(text.encode(kind) in path.read_bytes() for kind in ("utf-8", "utf-16-le"))
    ]


def test_an_erased_call_keeps_its_figures_and_loses_its_words(state):
    spool_up(state, told(1), shadow(1), feedback(1), call(2))
    load_once(state)
    assert bytes_hold(state) == ["observations.duckdb"], "the check would see it"
    spool_up(state, erasure(1))
    load_once(state)
    assert find_call(state, call(1).id) == without_content(told(1), START_MS + 5_000)
    left = find_call(state, call(1).id)
    assert (left.messages, left.answer_text, left.answer_tool_calls, left.metadata) == (None, None, None, {})
    assert (left.end_user, left.prompt_hash, left.attempts[0].reason) == ("", "", "")
    assert (left.at_ms, left.cost_usd, left.attempts[0].cost_usd, left.plan) == (told(1).at_ms, 0.5, 0.5, told(1).plan)
    assert left.erased_at_ms == START_MS + 5_000
    assert ask(state, "SELECT agrees, cost_usd, reason, answer_text, answer_tool_calls FROM slm_shadow") == [
        (True, 0.1, "", None, None)
    ]
    assert ask(state, "SELECT outcome, comment, correction FROM slm_feedback") == [("failure", None, None)]
    assert find_call(state, call(2).id) == call(2)


def test_the_bytes_are_gone_from_every_file(state):
    spool_up(state, *(told(n) for n in range(400)), *(feedback(n) for n in range(400)), *map(call, range(1_000, 3_000)))
    load_once(state)
    assert "observations.duckdb" in bytes_hold(state)
    spool_up(state, *map(erasure, range(400)))
    load_once(state)
    assert bytes_hold(state) == [] and not state.store_unclean.exists()
    assert sorted(path.name for path in state.root.glob("observations*")) == ["observations.duckdb"]
    assert state.store.stat().st_mode & 0o077 == 0
    assert ask(state, "SELECT count(*), count(DISTINCT id), count(messages) FROM slm_observation_raw") == [
        (2_400, 2_400, 2_000)
    ]
    assert ask(state, "SELECT count(*) FROM slm_observation_curated") == [(2_000,)], "views are there"
    assert ask(state, "SELECT count(*), max(version) FROM schema_version")[0][0] > 1
    spool_up(state, call(9_999))
    assert load_once(state).rows["slm_observation_raw"] == 1, "and it is written to as before"


def test_what_comes_later_stays_erased(state):
    spool_up(state, erasure(1))
    load_once(state)
    spool_up(state, told(1), shadow(1), feedback(1), feedback(1, "later"))
    load_once(state)
    assert bytes_hold(state) == []
    assert find_call(state, call(1).id).erased_at_ms == START_MS + 5_000
    assert ask(state, "SELECT count(*), count(comment) FROM slm_feedback") == [(2, 0)]


def test_call_and_erasure_in_one_batch_never_reach_the_store_whole(state):
    spool_up(state, told(1), erasure(1), feedback(1))
    load_once(state)
    assert bytes_hold(state) == [] and find_call(state, call(1).id).messages is None


def test_erasing_again_changes_nothing_and_writes_nothing_anew(state):
    spool_up(state, told(1), told(2))
    load_once(state)
    spool_up(state, erasure(1))
    load_once(state)
    before, inode = find_call(state, call(1).id), state.store.stat().st_ino
    spool_up(state, erasure(1, at_ms=START_MS + 9_000))
    load_once(state)
    assert find_call(state, call(1).id) == before and state.store.stat().st_ino == inode
    assert ask(state, "SELECT count(*) FROM slm_erasure") == [(1,)]


def test_a_kill_between_the_commit_and_the_rewriting_is_made_good(state):
    spool_up(state, told(1), call(2))
    load_once(state)
    spool_up(state, erasure(1))
    code = (
        "import os, sys\nfrom pathlib import Path\nimport observations.loading as loading\n"
        "from observations.state import StatePaths\n"
        "loading.rewrite_if_unclean = lambda *given: os._exit(9)\nloading.load_once(StatePaths(Path(sys.argv[1])))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(state.root)], check=False).returncode == 9
    assert state.store_unclean.exists() and bytes_hold(state) != [], "free blocks keep what they held"
    (state.root / "observations.duckdb.rewritten").write_bytes(b"half a file")
    load_once(state)
    assert bytes_hold(state) == [] and not state.store_unclean.exists()
    assert find_call(state, call(2).id) == call(2)


def test_a_reader_that_stays_puts_the_rewriting_off_and_loses_nothing(state):
    spool_up(state, told(1), erasure(1))
    load_once(state)
    state.store_unclean.touch()
    reading = (
        "import sys, time\nfrom pathlib import Path\nfrom observations.state import StatePaths\n"
        "from observations.store import open_reader\n"
        "store = open_reader(StatePaths(Path(sys.argv[1])))\nprint('reading', flush=True)\ntime.sleep(60)\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", reading, str(state.root)], stdout=subprocess.PIPE)
    assert reader.stdout.readline() == b"reading\n"
    with pytest.raises(StoreLockedError):
        load_once(state, LoaderSettings(wait_s=0.3))
    assert state.store_unclean.exists()
    assert find_call(state, call(1).id).erased_at_ms, "the store is in force meanwhile"
    reader.kill()
    reader.wait()
    load_once(state)
    assert not state.store_unclean.exists() and find_call(state, call(1).id).erased_at_ms


def test_where_no_new_file_can_be_written_the_old_one_stays_in_force(state):
    in_the_way = state.root / "observations.duckdb.rewritten"
    in_the_way.mkdir()
    spool_up(state, told(1), call(2))
    load_once(state)
    spool_up(state, erasure(1), call(3))
    with pytest.raises(StorageError, match=r"observations\.duckdb"):
        load_once(state)
    assert state.store_unclean.exists() and find_call(state, call(3).id) == call(3), "what came with it is loaded"
    in_the_way.rmdir()
    load_once(state)
    assert bytes_hold(state) == [] and find_call(state, call(2).id) == call(2)


def test_a_store_that_was_moved_aside_brings_no_words_back(state):
    spool_up(state, told(1), call(2))
    load_once(state)
    spool_up(state, erasure(1))
    load_once(state)
    state.store.rename(state.quarantine / "old.duckdb")
    (state.quarantine / "old.duckdb.unread").touch()
    load_once(state)
    assert find_call(state, call(1).id).messages is None and find_call(state, call(2).id) == call(2)
    spool_up(state, feedback(1))
    load_once(state)
    assert bytes_hold(state) == [], "that it was erased was carried over"


def test_that_somebody_corrected_an_answer_stays_what_he_said_goes(state):
    record = FeedbackRecord(id="f", call_id=call(1).id, at_ms=START_MS, correction=CANARY)
    spool_up(state, call(1), record, erasure(1))
    load_once(state)
    assert ask(state, "SELECT outcome, correction FROM slm_feedback_latest") == [("failure", None)]


def test_every_kind_that_can_hold_words_is_emptied():
    content = {"messages", "answer_text", "answer_tool_calls", "metadata", "comment", "correction", "reason"}
    for event in (told(1), shadow(1), feedback(1)):
        emptied = without_content(event, 1)
        assert CANARY not in repr(emptied)
        assert all(not getattr(emptied, name) for name in content & set(event.__struct_fields__))
    known = {"CallRecord", "ShadowRecord", "FeedbackRecord"}
    of_a_call = {
        spec.record.__name__ for spec in TABLES if {"call_id", "messages"} & set(spec.record.__struct_fields__)
    }
    assert of_a_call == known | {"ErasureRecord"}, "a new kind of record about a call must be emptied as well"


def test_calls_are_found_by_id_and_end_user_loaded_or_not(state):
    spool_up(state, told(1), call(2, tenant="acme"))
    load_once(state)
    spool = Spool.open(state.spool)
    spool.append(told(3))
    found = find_erasable(state, [call(2).id, "unknown"], ["e" * 64])
    assert {(one.call_id, one.tenant) for one in found} == {
        (call(1).id, "default"), (call(2).id, "acme"), (call(3).id, "default"),
    }  # fmt: skip
    spool.close()


def test_an_end_user_is_found_as_the_gateway_hashed_him(state):
    assert recorded_end_users(state, "ann") == ("ann",), "without a key nothing was hashed"
    key = hash_key(state.root / "hash.key")
    with contextlib.closing(Spool.open(state.spool)) as spool:
        hashed = Recorder(spool, Redactor(RedactionPolicy()), key, Metrics()).hash("ann")
    assert recorded_end_users(state, "ann") == ("ann", hashed)
