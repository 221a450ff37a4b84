"""The spool: what is acknowledged is on disk, damage costs only the damaged records, a full disk costs none."""

import os
import resource
import subprocess
import sys
import threading
import time

import pytest

from observations.records import CallRecord, CatalogRecord, FeedbackRecord, SignatureRecord, StageMoveRecord
from observations.segments import encode_footer, encode_record, scan_segment
from observations.sources import adopt_abandoned, remove_empty, sealed_segments
from observations.spool import Spool, SpoolSettings, spool_bytes
from registry.errors import StorageError


def call(number, text="héllo"):
    return CallRecord(
        id=f"chatcmpl-{number:026d}", at_ms=1_700_000_000_000 + number, messages=[{"role": "user", "content": text}]
    )


def read_all(spool):
    return [event for file in sealed_segments(spool) for event in scan_segment(file.path.read_bytes()).events]


def test_every_kind_of_event_comes_back_as_it_was(tmp_path):
    events = [
        call(1),
        SignatureRecord(id="t:s", at_ms=1, signature="s", tools=[{"type": "function"}], tool_names=("a", "b")),
        FeedbackRecord(id="f", call_id=call(1).id, at_ms=2, outcome="failure", score=0.5, correction="no"),
        CatalogRecord(id="d", at_ms=3, digest="d", models=[{"model_name": "m"}]),
        StageMoveRecord(id="m", at_ms=4, specialist="s@1", before="shadow", after="canary", receipt={"x": [1, None]}),
    ]
    spool = Spool.open(tmp_path)
    assert all(spool.append(event) for event in events)
    spool.close()
    assert read_all(tmp_path) == events


def test_an_appended_event_can_be_read_before_the_segment_is_sealed(tmp_path):
    spool = Spool.open(tmp_path)
    spool.append(call(1))
    [path] = spool.folder.glob("*.open")
    assert scan_segment(path.read_bytes()).events == [call(1)]
    spool.close()


def test_a_torn_last_record_is_dropped_at_every_byte_and_nothing_else_is():
    whole = encode_record(call(1)) + encode_record(call(2))
    last = encode_record(call(3))
    for cut in range(len(last)):
        scan = scan_segment(whole + last[:cut])
        assert scan.events == [call(1), call(2)]
        assert scan.torn_bytes == cut
        assert scan.damaged == 0
    assert len(scan_segment(whole + last).events) == 3


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_bytes_cost_only_the_record_they_are_in(mask):
    calls = [call(number, "x" * 150) for number in range(40)]
    records = [encode_record(event) for event in calls]
    data = b"".join(records) + encode_footer(len(records))
    ends = [sum(map(len, records[: n + 1])) for n in range(len(records))]
    for at in range(0, len(data), 64 if mask == 0xFF else 61):
        flipped = bytearray(data)
        flipped[at] ^= mask
        scan = scan_segment(bytes(flipped))
        hit = next((number for number, end in enumerate(ends) if at < end), None)
        assert scan.events == [event for number, event in enumerate(calls) if number != hit]
        assert [stretch.reason for stretch in scan.stretches] in (["damaged"], ["torn"])
        if hit is not None:
            assert scan.damaged == 1


def test_a_stretch_of_zeros_in_the_middle_loses_only_what_it_covers():
    records = [encode_record(call(number)) for number in range(10)]
    data = bytearray(b"".join(records) + encode_footer(10))
    start = sum(map(len, records[:3])) + 5
    data[start : start + 2 * len(records[3])] = bytes(2 * len(records[3]))
    scan = scan_segment(bytes(data))
    assert [event.id for event in scan.events] == [call(number).id for number in (0, 1, 2, 6, 7, 8, 9)]
    assert scan.damaged == 3


def test_garbage_is_never_a_crash():
    for length in (0, 1, 11, 12, 13, 4096):
        assert scan_segment(os.urandom(length)).events == []
    assert scan_segment(b"\xf5JR1\xff\xff\xff\xff\x00\x00\x00\x00" * 50).events == []


def test_a_record_of_an_unknown_kind_is_counted_and_skipped():
    newer = encode_record(call(1)).replace(b'"call"', b'"cull"')
    import struct
    import zlib

    payload = newer[12:]
    framed = struct.pack("<4sII", b"\xf5JR1", len(payload), zlib.crc32(payload)) + payload
    scan = scan_segment(framed + encode_record(call(2)))
    assert scan.events == [call(2)]
    assert scan.damaged == 1


def test_segments_are_sealed_by_size_and_by_age(tmp_path):
    spool = Spool.open(tmp_path, SpoolSettings(segment_bytes=2000, segment_age_s=0.2, fsync_interval_ms=20))
    for number in range(40):
        spool.append(call(number))
    deadline = time.monotonic() + 5
    while len(read_all(tmp_path)) < 40 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert read_all(tmp_path) == [call(number) for number in range(40)]
    assert len(sealed_segments(tmp_path)) >= 3
    assert all(scan_segment(file.path.read_bytes()).expected for file in sealed_segments(tmp_path))
    spool.close()


def test_over_max_bytes_the_newest_is_shed_and_counted_and_room_is_used_again(tmp_path):
    size = len(encode_record(call(1)))
    spool = Spool.open(tmp_path, SpoolSettings(max_bytes=size * 5 + 10, segment_age_s=0.05, fsync_interval_ms=10))
    kept = [spool.append(call(number)) for number in range(8)]
    assert kept == [True] * 5 + [False] * 3
    assert spool.stats().appended == 5
    assert spool.stats().dropped == 3
    time.sleep(0.3)
    for file in sealed_segments(tmp_path):
        file.path.unlink()
    deadline = time.monotonic() + 5
    while not spool.append(call(99)) and time.monotonic() < deadline:
        time.sleep(0.05)
    spool.close()
    assert [event.id for event in read_all(tmp_path)] == [call(99).id]


def test_threads_never_interleave_their_records(tmp_path):
    spool = Spool.open(tmp_path, SpoolSettings(segment_bytes=20_000))
    threads = [
        threading.Thread(target=lambda base=base: [spool.append(call(base + n)) for n in range(300)])
        for base in (0, 1000, 2000, 3000)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    spool.close()
    assert len({event.id for event in read_all(tmp_path)}) == 1200


def test_a_closed_spool_refuses(tmp_path):
    spool = Spool.open(tmp_path)
    spool.close()
    spool.close()
    with pytest.raises(StorageError, match="closed"):
        spool.append(call(1))


def test_an_event_json_cannot_hold_is_refused_and_leaves_no_bytes(tmp_path):
    spool = Spool.open(tmp_path)
    with pytest.raises(StorageError, match="cannot be written as JSON"):
        spool.append(CallRecord(id="x", at_ms=1, messages=[{"content": "\ud800"}]))
    spool.append(call(1))
    spool.close()
    assert read_all(tmp_path) == [call(1)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/spool"):
        Spool.open(tmp_path / "file" / "spool")


def test_only_the_owner_can_read_it(tmp_path):
    spool = Spool.open(tmp_path / "spool")
    spool.append(call(1))
    modes = {path.stat().st_mode & 0o777 for path in spool.folder.iterdir()}
    spool.close()
    assert modes == {0o600}
    assert spool.folder.stat().st_mode & 0o777 == 0o700


def test_a_living_writers_segments_are_left_alone_and_a_dead_ones_are_sealed(tmp_path):
    spool = Spool.open(tmp_path, SpoolSettings(segment_age_s=60))
    spool.append(call(1))
    assert adopt_abandoned(tmp_path) == 0
    script = (
        "import os, sys; from pathlib import Path; from observations.spool import Spool;"
        "from observations.records import CallRecord;"
        "Spool.open(Path(sys.argv[1])).append(CallRecord(id='dead', at_ms=1)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert adopt_abandoned(tmp_path) == 1
    assert [event.id for event in read_all(tmp_path)] == ["dead"]
    for file in sealed_segments(tmp_path):
        file.path.unlink()
    remove_empty(tmp_path)
    assert [folder for folder in tmp_path.iterdir() if folder.is_dir()] == [spool.folder]
    spool.close()


def test_a_full_disk_raises_and_every_acknowledged_record_is_whole(tmp_path):
    """RLIMIT_FSIZE cuts a write short and then refuses, as a full disk does."""
    script = """
import resource, signal, sys
from pathlib import Path
from observations.records import CallRecord
from observations.spool import Spool, SpoolSettings
from registry.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool.open(Path(sys.argv[1]), SpoolSettings(segment_age_s=60))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
refused = 0
for number in range(60):
    try:
        spool.append(CallRecord(id=f"c{number}", at_ms=number, answer_text="y" * 300))
        print(f"c{number}")
    except StorageError as error:
        refused += 1
        assert "spool" in str(error)
assert refused and spool.stats().failed == refused
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(CallRecord(id="after", at_ms=1))
print("after")
spool.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    scans = [scan_segment(file.path.read_bytes()) for file in sealed_segments(tmp_path)]
    assert [event.id for scan in scans for event in scan.events] == done.stdout.split()
    assert all(not scan.stretches for scan in scans)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_the_spools_size_counts_all_writers(tmp_path):
    one, two = Spool.open(tmp_path), Spool.open(tmp_path)
    one.append(call(1))
    two.append(call(2))
    assert spool_bytes(tmp_path) == len(encode_record(call(1))) + len(encode_record(call(2)))
    one.close()
    two.close()


def test_a_serving_process_that_records_imports_no_database():
    script = (
        "import sys, observations.spool, observations.queries, observations.state;"
        "print([name for name in ('duckdb', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
