"""`journeyman erase` beside a live gateway: the words are in no file of the state folder; the figures stay."""

import json
import subprocess
import sys
import time
from pathlib import Path

import openai

from tests.e2e.gateway_process import running_gateway

CANARY = "xylophone-marmalade-7731"


def holding(state: Path) -> set[str]:
    found = set()
    for path in [path for path in state.rglob("*") if path.is_file()]:
        try:
            found |= {path.name} if CANARY.encode() in path.read_bytes() else set()
        except FileNotFoundError:  # loaded just now
            continue
    return found


def journeyman(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "router_service.cli", *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_a_live_gateways_call_is_erased_at_once_and_late_feedback_too(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="unused", max_retries=0)
        said = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": CANARY}], user=CANARY, metadata={"about": CANARY}
        )
        assert holding(gateway.state) != set()
        report = json.loads(journeyman("erase", "--end-user", CANARY, "--state", str(gateway.state), "--yes", "--json"))
        assert report["erased"] == [said.id] and report["waiting"] == []
        assert holding(gateway.state) == set()
        sent = client.post(
            "/feedback", cast_to=object, body={"id": said.id, "outcome": "failure", "correction": CANARY}
        )
        assert sent is not None
        deadline = time.monotonic() + 30
        while holding(gateway.state) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert holding(gateway.state) == set()
    out = tmp_path / "raw.jsonl"
    journeyman("export", "--state", str(gateway.state), "--table", "raw", "--format", "jsonl", "--out", str(out))
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["id"] == said.id and row["messages"] is None and row["erased_at_ms"] and row["prompt_tokens"] > 0
