"""What a live gateway leaves on disk: every call, once, and nothing private in any file."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest

from observations.state import StatePaths
from observations.store import open_reader
from tests.e2e.gateway_process import GatewayProcess, running_gateway

ACCESS = """
default: {content_mode: MODE}
"""


def secrets_of(draw: random.Random) -> dict[str, str]:
    """Fresh values that must never reach a disk."""
    number = draw.randint(10**7, 10**8 - 1)
    return {
        "email": f"canary{number}@example-mail.org",
        "card": _with_luhn(f"4{number:08d}{draw.randint(0, 10**6 - 1):06d}"),
        "key": "sk-" + "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=48)),
        "iban": _iban(f"{draw.randint(10**17, 10**18 - 1)}"),
    }


def _with_luhn(body: str) -> str:
    for digit in "0123456789":
        digits = [int(c) for c in reversed(body + digit)]
        if sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0:
            return body + digit
    raise AssertionError


def _iban(account: str) -> str:
    check = 98 - int(account + "131400") % 97
    return f"DE{check:02d}{account}"


@pytest.fixture
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.base_url, api_key="unused", max_retries=0)


def everything_under(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def wait_loaded(state: Path, call_id: str) -> dict:
    """The exported row of a call, once the loader has it."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        rows = exported(state)
        if call_id in rows:
            return rows[call_id]
        time.sleep(0.5)
    raise AssertionError(f"{call_id} never reached the store")


def exported(state: Path) -> dict[str, dict]:
    out = state.parent / "export.jsonl"
    command = [sys.executable, "-m", "router_service.cli", "export", "--state", str(state), "--format", "jsonl"]
    done = subprocess.run(
        [*command, "--table", "raw", "--out", str(out), "--force"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}


def test_no_secret_of_any_field_reaches_the_disk(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    draw, planted = random.Random(5), []
    for _ in range(25):
        s = secrets_of(draw)
        planted += s.values()
        answer = client.chat.completions.create(
            model="auto",
            messages=[
                {"role": "system", "content": f"Operator contact {s['email']}"},
                {"role": "user", "content": f"My card is {s['card']} and my account {s['iban']}"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "pay", "arguments": json.dumps({"key": s["key"], "to": s["email"]})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": f"done for {s['email']}"},
                {"role": "user", "content": f"again, {s['email']}, token {s['key']}"},
            ],
            tools=[{"type": "function", "function": {"name": f"mail_{s['email']}", "parameters": {"type": "object"}}}],
            tool_choice="none",
            user=s["email"],
            metadata={"who": s["email"]},
            extra_body={"routing": {"task_type": s["email"]}},
        )
        client.post(
            "/feedback", cast_to=dict, body={"id": answer.id, "outcome": "failure", "comment": f"ask {s['email']}"}
        )
    row = wait_loaded(gateway.state, answer.id)
    assert "<EMAIL_1>" in json.dumps(row)
    stored = everything_under(gateway.state.parent)
    leaked = [value for value in planted if value.encode() in stored]
    assert leaked == []


def test_errors_do_not_leak_either(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    secret = secrets_of(random.Random(6))["key"]
    for body in (f'{{"model": "auto", "messages": "{secret}"', f'{{"model": "{secret}", "messages": []}}'):
        with pytest.raises(openai.APIStatusError):
            client.post("/chat/completions", cast_to=dict, content=body.encode())
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=secret, messages=[{"role": "user", "content": "hi"}])
    assert secret.encode() not in everything_under(gateway.state.parent)


def test_each_call_is_stored_once_with_its_decision(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    ids = [
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": f"call {n}"}]).id
        for n in range(10)
    ]
    row = wait_loaded(gateway.state, ids[-1])
    rows = exported(gateway.state)
    assert set(ids) <= set(rows)
    assert row["served_by"] == "echo" and row["outcome"] == "verified" and row["plan"]


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_a_content_mode_keeps_no_words(tmp_path: Path, mode: str) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "access.yaml").write_text(ACCESS.replace("MODE", mode))
    with running_gateway(tmp_path, JOURNEYMAN_POLICIES=str(policies)) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="unused")
        asked = [{"role": "system", "content": "zebra-system"}, {"role": "user", "content": "zebra-words"}]
        answer = client.chat.completions.create(model="auto", messages=asked)
        row = wait_loaded(gateway.state, answer.id)
        assert bool(row["prompt_hash"]) is (mode == "hash")
        assert b"zebra" not in everything_under(gateway.state)


def test_the_store_has_the_logical_tables(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "You are the triage step of the support desk of a shop."},
        {"role": "user", "content": "where is my parcel?"},
    ]
    answer = client.chat.completions.create(model="auto", messages=messages)
    client.post("/feedback", cast_to=dict, body={"id": answer.id, "outcome": "success", "score": 1.0})
    wait_loaded(gateway.state, answer.id)
    with open_reader(StatePaths(gateway.state)) as store:
        counts = {
            name: store.execute(f"select count(*) from {name}").fetchone()[0]  # type: ignore[index]
            for name in (
                "slm_observation_raw",
                "slm_observation_curated",
                "model_registry",
                "model_metrics_timeseries",
                "cluster_model_assignment",
                "promotion_audit_log",
            )
        }
    assert all(counts[name] > 0 for name in counts if name != "promotion_audit_log"), counts
