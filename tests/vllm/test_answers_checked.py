"""What vLLM says is checked before it is believed: its log-probabilities, whole and streamed, and its formats."""

import json
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.vllm.fleet import caller, id_of, messages, plan_of, running_fleet, specialist
from tests.vllm.trained_adapters import Adapter, request
from tests.vllm.vllm_process import VllmServer

pytestmark = pytest.mark.vllm
SURE = specialist
BARELY_EVER = -1e-9
"""A sum of log-probabilities that no real answer of several tokens reaches."""


def sum_of_logprobs(vllm: VllmServer, model: str, prompt: str) -> float:
    """As vLLM itself gives them."""
    body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, "logprobs": 1}
    asked = urllib.request.Request(
        vllm.base_url + "/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as response:
        return float(sum(json.load(response)["choices"][0]["logprobs"]["token_logprobs"]))


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("threshold", "outcome"), [(-5.0, "verified"), (BARELY_EVER, "unsure")])
async def test_its_log_probabilities_decide_whether_it_is_believed(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path, threshold: float, outcome: str, streams: bool
) -> None:
    adapter = adapters[0]
    entry = specialist(adapter, confidence_threshold=threshold)
    with running_fleet(tmp_path, vllm.base_url, [entry]) as gateway:
        client, number = caller(gateway), 300 + streams
        call = {"model": "auto", "messages": messages(adapter.desk, number), "max_tokens": 16}
        if streams:
            chunks = [chunk async for chunk in await client.chat.completions.create(**call, stream=True)]
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            call_id, model = chunks[0].id, chunks[-1].model
        else:
            said = await client.chat.completions.create(**call)
            text, call_id, model = said.choices[0].message.content or "", said.id, said.model
        plan = await plan_of(client, call_id)
    first = plan["attempts"][0]
    assert (first["candidate"], first["outcome"]) == (id_of(entry), outcome)
    assert first["confidence"] == pytest.approx(sum_of_logprobs(vllm, id_of(entry), request(number) + "\n"), abs=0.01)
    if outcome == "verified":
        assert (text, model, plan["escalated"]) == (adapter.answer, id_of(entry), False)
    else:
        assert plan["escalated"] and model == "echo"
        assert text and "desk" not in text, "not a word of what was not believed"


async def test_a_schema_binds_the_bare_model(fleet: GatewayProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "ripe": {"type": "boolean"}},
        "required": ["colour", "ripe"],
        "additionalProperties": False,
    }
    said = await caller(fleet).chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "Tell me a story about a tomato."}],
        response_format={"type": "json_schema", "json_schema": {"name": "tomato", "schema": schema, "strict": True}},
        max_tokens=64,
        temperature=0,
    )
    found = json.loads(said.choices[0].message.content or "")
    assert set(found) == {"colour", "ripe"} and found["colour"] in ("red", "green") and isinstance(found["ripe"], bool)
