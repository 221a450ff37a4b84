import sys

import pytest

from pipelines.children import Child
from registry.errors import EnvironmentFaultError

READY = """
import sys, time
sys.stdout.write('loading\\n{"event": "loading"}\\n{"event": "ready", "url": "here"}\\n')
sys.stdout.flush()
time.sleep(60)
"""


def test_the_line_that_says_ready_is_found_behind_others_that_came_with_it(tmp_path):
    child = Child("server", [sys.executable, "-c", READY], tmp_path / "server.log")
    try:
        assert child.wait_ready(10)["url"] == "here"
    finally:
        child.stop()
    assert child.process.poll() is not None


def test_one_that_ends_before_it_is_ready_is_told_with_the_end_of_its_log(tmp_path):
    child = Child("server", [sys.executable, "-c", "raise SystemExit('no weights')"], tmp_path / "server.log")
    try:
        with pytest.raises(EnvironmentFaultError, match=r"(?s)server ended.*no weights"):
            child.wait_ready(10)
    finally:
        child.stop()
