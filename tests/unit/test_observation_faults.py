"""Faults: kills, a damaged WAL or store, a full disk, readers that stay. Nothing acknowledged is lost."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from observations import queries
from observations.export import ExportRequest, export
from observations.loading import LoaderSettings, load_once, prepare_store
from observations.sources import sealed_segments
from observations.spool import Spool
from observations.state import StatePaths
from observations.store import open_reader, open_writer
from registry.errors import StorageError, StoreLockedError
from tests.unit.recorded_calls import ask, call, count, spool_up


@pytest.fixture
def state(tmp_path):
    return StatePaths(tmp_path / "state").create()


def load_once_with_one_event(state):
    spool_up(state, call(1))
    return load_once(state)


def killed_before_checkpoint(state, tmp_path):
    """Return the bytes of (store, WAL) as a kill between COMMIT and CHECKPOINT leaves them, with 30 rows before it."""
    spool_up(state, *map(call, range(30)))
    load_once(state)
    spool_up(state, *map(call, range(30, 34)))
    saved = tmp_path / "spool"
    shutil.copytree(state.spool, saved)
    script = """
import os, sys
from pathlib import Path
from observations import loading
from observations.state import StatePaths
loading._dismiss = None
class Killer:
    def __init__(self, store): self.store = store
    def __getattr__(self, name): return getattr(self.store, name)
    def execute(self, statement, *rest):
        if statement == "CHECKPOINT": os.kill(os.getpid(), 9)
        return self.store.execute(statement, *rest)
opened = loading.open_writer
loading.open_writer = lambda *a: Killer(opened(*a))
loading.load_once(StatePaths(Path(sys.argv[1])))
"""
    assert subprocess.run([sys.executable, "-c", script, str(state.root)], check=False).returncode == -9
    return state.store.read_bytes(), state.store_wal.read_bytes()


def test_whatever_happens_to_the_wal_nothing_is_lost(state, tmp_path, capsys):
    store_bytes, wal = killed_before_checkpoint(state, tmp_path)
    segments = {path: path.read_bytes() for path in state.spool.rglob("*") if path.is_file()}
    broken = [wal[:cut] for cut in range(0, len(wal), 512)]
    broken += [wal[:at] + bytes([wal[at] ^ 0xFF]) + wal[at + 1 :] for at in range(0, len(wal), 512)]
    for bad in [wal, *broken]:
        state.store.write_bytes(store_bytes)
        state.store_wal.write_bytes(bad)
        for path, content in segments.items():
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(content)
        load_once(state)
        assert count(state) == (34, 34)
        assert sealed_segments(state.spool) == []
    assert '"event": "store_quarantined"' in capsys.readouterr().err
    assert all(path.name.endswith(".wal") for path in state.quarantine.iterdir())


def test_an_unreadable_store_is_moved_aside_and_loading_goes_on(state, capsys):
    spool_up(state, *map(call, range(5)))
    load_once(state)
    state.store.write_bytes(b"not a database" * 1000)
    spool_up(state, *map(call, range(5, 8)))
    with pytest.raises(StorageError, match="Cannot read"):
        queries.find_call(state, call(1).id)
    load_once(state)
    assert count(state) == (3, 3)
    assert [path.read_bytes()[:14] for path in state.quarantine.iterdir()] == [b"not a database"]
    assert '"event": "store_quarantined"' in capsys.readouterr().err


def test_readers_and_the_loader_take_turns(state):
    """A reader in another process, asking all the time, while segments are loaded."""
    prepare_store(state)
    script = """
import sys, time
from pathlib import Path
from observations.state import StatePaths
from observations.store import open_reader, open_writer
state = StatePaths(Path(sys.argv[1]))
for _ in range(10):
    store = open_reader(state)
    rows, ids = store.execute("SELECT count(*), count(DISTINCT id) FROM slm_observation_raw").fetchone()
    store.close()
    assert rows == ids and rows % 20 == 0, rows
    print(rows, flush=True)
    time.sleep(0.005)
"""
    reader = subprocess.Popen([sys.executable, "-c", script, str(state.root)], stdout=subprocess.PIPE, text=True)
    number = 0
    while reader.poll() is None:
        spool_up(state, *map(call, range(number, number + 20)))
        load_once(state)
        number += 20
        time.sleep(0.03)
    seen = [int(line) for line in reader.communicate()[0].split()]
    assert reader.returncode == 0
    assert seen == sorted(seen)
    assert len(seen) == 10
    assert count(state) == (number, number)


def test_a_reader_that_stays_makes_the_loader_wait_then_say_so_and_lose_nothing(state):
    prepare_store(state)
    spool_up(state, call(1))
    script = (
        "import sys, time; from pathlib import Path; from observations.state import StatePaths;"
        "from observations.store import open_reader, open_writer; store = open_reader(StatePaths(Path(sys.argv[1])));"
        "print('open', flush=True); sys.stdin.read()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(state.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "open\n"
    with pytest.raises(StoreLockedError, match="in use"):
        load_once(state, LoaderSettings(wait_s=0.2))
    reader.communicate("")
    assert load_once(state).rows["slm_observation_raw"] == 1


def test_two_loaders_do_not_load_at_once(state):
    spool_up(state, *map(call, range(200)))
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(load_once(state))) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(report.events for report in reports) == [0, 0, 200]
    assert count(state) == (200, 200)


def test_a_full_disk_stops_the_loader_and_not_the_record(tmp_path):
    """A real small file system where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        state = StatePaths(disk / "state").create()
        load_once_with_one_event(state)
        spool_up(state, *(call(n, answer_text=os.urandom(600).hex()) for n in range(2, 2000)))
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StorageError, match=r"(?i)space|size"):
            load_once(state)
        spool = Spool.open(state.folder("spool"))
        with pytest.raises(StorageError, match="No space"):
            [spool.append(call(5000 + n, answer_text="y" * 1000)) for n in range(20_000)]
        ballast.unlink()
        assert spool.append(call(9999))
        spool.close()
        load_once(state)
        assert queries.find_call(state, call(9999).id) == call(9999)
        rows, ids = count(state)
        assert rows == ids >= 2000
        assert list(state.quarantine.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_process_loads_drains_and_ends_with_its_parent(state):
    prepare_store(state)
    command = [sys.executable, "-m", "observations.loader", "--state", str(state.root), "--interval-s", "0.05"]
    loader = subprocess.Popen([*command, "--parent-pid", str(os.getpid()), "--drain"])
    spool_up(state, call(1))
    deadline = time.monotonic() + 10
    while count(state) != (1, 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    spool_up(state, call(2))
    loader.terminate()
    assert loader.wait(10) == 0
    assert count(state) == (2, 2)

    parent = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    orphan = subprocess.Popen([*command, "--parent-pid", str(parent.pid)])
    time.sleep(0.3)
    assert orphan.poll() is None
    parent.kill()  # and it stays a zombie until it is waited for
    assert orphan.wait(10) == 0
    parent.communicate()
    spool_up(state, call(3))
    assert load_once(state).events == 1


def damage_a_data_block(state):
    """Flip a byte of a block that opening does not read and a query does; some blocks are free."""
    sound = state.store.read_bytes()
    for at in range(len(sound) // 2, len(sound), 256 * 1024):
        state.store.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        with contextlib.closing(open_reader(state)) as store:
            try:
                store.execute("SELECT bit_xor(hash(slm_observation_raw)) FROM slm_observation_raw").fetchone()
            except duckdb.IOException:
                return
    pytest.fail("no block with data was found")


def test_a_damaged_block_costs_its_rows_and_the_rest_goes_into_a_new_store(state, tmp_path, capsys):
    prepare_store(state)
    with contextlib.closing(open_writer(state)) as store:
        store.execute(
            "INSERT INTO slm_observation_raw BY NAME SELECT 'chatcmpl-' || i AS id, i AS at_ms, 'acme' AS tenant,"
            " md5(i::VARCHAR) AS answer_text FROM range(200_000) AS numbers(i)"
        )
    damage_a_data_block(state)
    with pytest.raises(StorageError, match="checksum"):
        export(state, ExportRequest(tmp_path / "all.parquet", "raw"))
    spool_up(state, call(50_000))
    load_once(state)
    rows, ids = count(state)
    assert rows == ids
    assert 60_000 < rows < 200_001
    wrong = "SELECT count(*) FROM slm_observation_raw WHERE tenant = 'acme' AND answer_text <> md5(at_ms::VARCHAR)"
    assert ask(state, wrong) == [(0,)]
    assert queries.find_call(state, call(50_000).id) == call(50_000)
    assert '"event": "store_salvaged"' in capsys.readouterr().err
    assert [path.suffix for path in state.quarantine.iterdir()] == [".duckdb"]
    load_once(state)
    assert count(state) == (rows, ids)
