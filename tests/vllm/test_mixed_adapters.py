"""Four adapters on one real vLLM server with room for two in a batch: every answer is its own adapter's."""

import asyncio
from collections import Counter

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.vllm.fleet import caller, id_of, messages, specialist
from tests.vllm.trained_adapters import Adapter
from tests.vllm.vllm_process import MAX_LORAS, VllmServer

pytestmark = pytest.mark.vllm
CALLS = 80
AT_ONCE = 16


async def test_each_of_eighty_mixed_calls_is_answered_by_its_own_adapter(
    fleet: GatewayProcess, vllm: VllmServer, adapters: list[Adapter]
) -> None:
    assert len(adapters) > MAX_LORAS, "the server must have to swap adapters in and out"
    client, room = caller(fleet), asyncio.Semaphore(AT_ONCE)

    async def ask(number: int) -> tuple[str, str, str]:
        adapter = adapters[number % len(adapters)]
        # Neighbours say the same words to different adapters: a prefix shared between adapters would show.
        async with room:
            said = await client.chat.completions.create(
                model="auto", messages=messages(adapter.desk, number // len(adapters)), max_tokens=16
            )
        return adapter.desk, said.model, said.choices[0].message.content or ""

    answers = await asyncio.gather(*(ask(number) for number in range(CALLS)))
    owners = {adapter.desk: id_of(specialist(adapter)) for adapter in adapters}
    wrong = [one for one in answers if (one[1], one[2]) != (owners[one[0]], f'{{"desk":"{one[0]}"}}')]
    assert not wrong, wrong
    assert Counter(desk for desk, _, _ in answers) == dict.fromkeys(owners, CALLS // len(adapters))
    assert vllm.metric("vllm:num_requests_running") == 0


async def test_an_adapter_asked_by_its_name_answers_and_so_does_the_bare_model(
    fleet: GatewayProcess, adapters: list[Adapter]
) -> None:
    client, first = caller(fleet), adapters[0]
    named = await client.chat.completions.create(
        model=first.desk, messages=messages("unnamed", 200), max_tokens=16, temperature=0
    )
    assert named.choices[0].message.content == first.answer
    bare = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "Name the capital of France."}],
        max_tokens=24,
        temperature=0,
    )
    assert bare.model == "small" and "Paris" in (bare.choices[0].message.content or "")
