"""Adapters on a real vLLM server: ready by their canary alone, pushed out and back by others, unloaded at the end."""

import asyncio
import json
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.vllm.fleet import caller, id_of, messages, plan_of, ready_names, registry, running_fleet, specialist
from tests.vllm.fleet import wait_until_ready as wait
from tests.vllm.trained_adapters import Adapter
from tests.vllm.vllm_process import MAX_CPU_LORAS, VllmServer

pytestmark = pytest.mark.vllm
UNLOADED_WITHIN_S = 90


def served(vllm: VllmServer) -> set[str]:
    """What vLLM itself lists."""
    with urllib.request.urlopen(vllm.base_url + "/models", timeout=10) as response:
        return {model["id"] for model in json.load(response)["data"]}


async def answer(gateway: GatewayProcess, desk: str, number: int) -> tuple[str, str]:
    said = await caller(gateway).chat.completions.create(model="auto", messages=messages(desk, number), max_tokens=16)
    return said.model, said.choices[0].message.content or ""


async def test_a_wrong_canary_keeps_an_adapter_out_of_service_and_says_why(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path
) -> None:
    right, other = adapters[0], adapters[1]
    swapped = specialist(other, name="swapped", canary=other.canary | {"text": right.answer})
    with running_fleet(tmp_path, vllm.base_url, [specialist(right)]) as gateway:
        gateway.registry.write_text(registry(vllm.base_url, [specialist(right), swapped]))
        end = time.monotonic() + 120
        while "answers its canary with" not in gateway.log.read_text():
            assert time.monotonic() < end, gateway.log.read_text()[-3000:]
            await asyncio.sleep(0.3)
        assert "swapped@" in gateway.log.read_text()
        assert ready_names(gateway) == {id_of(specialist(right))}
        model, _ = await answer(gateway, other.desk, 500)
        assert model == "echo", "its cluster stays with the frontier"
        assert await answer(gateway, right.desk, 501) == (id_of(specialist(right)), right.answer)


async def test_more_adapters_than_vllm_holds_take_turns_and_each_still_answers_as_itself(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path
) -> None:
    entries = []
    for number in range(MAX_CPU_LORAS + 2):
        adapter = adapters[number % len(adapters)]
        copied = shutil.copytree(adapter.folder, tmp_path / f"copy-{number}")
        # A name of its own: to vLLM it is another adapter.
        entry = specialist(adapter, name=f"crowd-{number}")
        entries.append(entry | {"adapter": str(copied)})
    with running_fleet(tmp_path, vllm.base_url, entries) as gateway:
        assert {id_of(entry) for entry in entries} <= served(vllm)
        client = caller(gateway)
        for turn in range(2):
            for number, entry in enumerate(entries):
                said = await client.chat.completions.create(
                    model=id_of(entry), messages=messages("any", 600 + turn), max_tokens=16
                )
                assert said.model == id_of(entry)
                assert said.choices[0].message.content == adapters[number % len(adapters)].answer


async def test_no_more_is_loaded_than_the_registry_allows_and_what_is_asked_for_takes_a_place(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path
) -> None:
    entries = [specialist(adapter, name=f"few-{adapter.desk}") for adapter in adapters]
    names = {id_of(entry) for entry in entries}
    limited = registry(vllm.base_url, entries).replace("max_loras: 8", "max_loras: 2\n    max_cpu_loras: 2")
    with running_fleet(tmp_path, vllm.base_url) as gateway:
        gateway.registry.write_text(limited)
        end = time.monotonic() + 120
        while len(first := ready_names(gateway)) < 2:
            assert time.monotonic() < end, gateway.log.read_text()[-3000:]
            await asyncio.sleep(0.3)
        waiting = next(number for number, entry in enumerate(entries) if id_of(entry) not in first)
        wanted, calls = id_of(entries[waiting]), 0
        while True:
            model, text = await answer(gateway, adapters[waiting].desk, 2000 + calls)
            calls += 1
            assert len(names & served(vllm)) <= 2
            if model == wanted:
                break
            assert model == "echo" and time.monotonic() < end, "until then the frontier answers"
            await asyncio.sleep(0.2)
        assert text == adapters[waiting].answer and calls > 1


async def test_a_specialist_taken_from_the_registry_is_unloaded_while_the_others_answer(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path
) -> None:
    going, staying = specialist(adapters[2], name="going"), specialist(adapters[3], name="staying")
    with running_fleet(tmp_path, vllm.base_url, [going, staying]) as gateway:
        gateway.registry.write_text(registry(vllm.base_url, [staying]))
        begun, asked = time.monotonic(), 0
        while id_of(going) in served(vllm):
            assert time.monotonic() - begun < UNLOADED_WITHIN_S, gateway.log.read_text()[-3000:]
            assert await answer(gateway, adapters[3].desk, 700 + asked) == (id_of(staying), adapters[3].answer)
            asked += 1
            await asyncio.sleep(1)
        assert asked and id_of(staying) in served(vllm)
        assert (await answer(gateway, adapters[2].desk, 700))[0] == "echo"
        gateway.registry.write_text(registry(vllm.base_url, [going, staying]))
        wait(gateway, [id_of(going)])
        assert await answer(gateway, adapters[2].desk, 701) == (id_of(going), adapters[2].answer)


async def test_the_plan_names_the_adapter_that_answered(fleet: GatewayProcess, adapters: list[Adapter]) -> None:
    client, adapter = caller(fleet), adapters[0]
    said = await client.chat.completions.create(model="auto", messages=messages(adapter.desk, 800), max_tokens=16)
    plan = await plan_of(client, said.id)
    assert plan["primary"] == id_of(specialist(adapter)) and plan["cluster_id"] == adapter.desk
    assert plan["attempts"][0]["outcome"] == "verified" and not plan["escalated"]
    assert plan["attempts"][0]["prompt_tokens"] < 20, "what the fine-tuning taught is not sent"
