"""Promotion and rollback on a signed ledger, with the real server under load: no call fails, each answer is right."""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from registry.entries import CanaryEntry, Prices, TemplateEntry
from registry.registrar import Note, Registrar
from tests.e2e.gateway_process import GatewayProcess
from tests.unit.made_specialists import manifest
from tests.vllm.fleet import TEMPLATE, caller, messages, running_fleet, wait_until_ready
from tests.vllm.trained_adapters import Adapter
from tests.vllm.vllm_process import VllmServer

pytestmark = pytest.mark.vllm
ASKERS = 4
SEEN_WITHIN_S = 60
NOTE = Note("ann", "test")


def register(registrar: Registrar, adapter: Adapter, output_usd_per_mtok: float) -> str:
    made = manifest(
        "sorter",
        clusters=("north",),
        eval_scores={"north": 0.96},
        template=TemplateEntry(**TEMPLATE),
        canary=CanaryEntry(**adapter.canary),
        prices=Prices(output_usd_per_mtok=output_usd_per_mtok),
        training={"desk": adapter.desk},
    )
    return registrar.register(adapter.folder, made, NOTE)


async def command(state: Path, *words: str) -> dict:
    """`journeyman registry ...` as an operator types it."""
    program = [sys.executable, "-m", "router_service.cli", "registry", *words, "--state", str(state), "--json"]
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(said))


class Load:
    """Callers that never pause; what each call came to."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._client = caller(gateway)
        self._done = False
        self.answers: list[tuple[str, str]] = []
        self._askers = [asyncio.create_task(self._ask(number)) for number in range(ASKERS)]

    async def _ask(self, asker: int) -> None:
        for number in range(100_000):
            if self._done:
                return
            said = await self._client.chat.completions.create(
                model="auto", messages=messages("north", 1000 + number * ASKERS + asker), max_tokens=16
            )
            self.answers.append((said.model, said.choices[0].message.content or ""))

    async def until_answered_by(self, name: str) -> None:
        begun, at = time.monotonic(), len(self.answers)
        while name not in [model for model, _ in self.answers[at:]]:
            assert time.monotonic() - begun < SEEN_WITHIN_S, Counter(model for model, _ in self.answers[at:])
            for asker in self._askers:
                assert not asker.done() or asker.result() is None
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        self._done = True
        await asyncio.gather(*self._askers)


async def test_promote_and_roll_back_while_calls_keep_coming(
    vllm: VllmServer, adapters: list[Adapter], tmp_path: Path
) -> None:
    registrar = Registrar(tmp_path / "state")
    old, new = register(registrar, adapters[0], 1.0), register(registrar, adapters[1], 0.1)
    for stage in ("shadow", "canary", "active"):
        registrar.promote(old, NOTE, stage, 1.0 if stage == "canary" else None)  # type: ignore[arg-type]
    registrar.promote(new, NOTE, "shadow")
    with running_fleet(tmp_path, vllm.base_url) as gateway:
        wait_until_ready(gateway, [old, new])
        load = Load(gateway)
        await load.until_answered_by(old)
        await command(gateway.state, "promote", new, "--to", "canary", "--share", "1.0")
        await command(gateway.state, "promote", new)
        await load.until_answered_by(new)
        await command(gateway.state, "rollback", "north", "--reason", "test")
        await load.until_answered_by(old)
        await load.end()
        right = {old: adapters[0].answer, new: adapters[1].answer}
        assert {model for model, _ in load.answers} == {old, new}, "nobody else had to answer"
        assert [one for one in load.answers if right[one[0]] != one[1]] == []
        assert (await command(gateway.state, "verify"))["ok"]
