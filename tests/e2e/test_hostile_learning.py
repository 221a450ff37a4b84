"""Learning on live gateways under bad luck: edits under load, kills, twins, words of strangers."""

import asyncio
import contextlib
import json
import re
import signal
from collections import Counter
from pathlib import Path

import aiohttp

from router_service.belief_store import BeliefStore
from tests.e2e.gateway_process import GatewayProcess, running_gateway, write_registry

HEAD = """
version: 1
defaults: {frontier: frontier}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: frontier, upstream_name: echo, backend: echo, safety_grade: A, eval_scores: {"*": 0.97},
     prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
"""
CHEAP = """  - {model_name: NAME, upstream_name: echo, backend: echo, safety_grade: B, eval_scores: {"*": 0.95},
     prices: {input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.02}}
"""


def registry(*cheap: str) -> str:
    return HEAD + "".join(CHEAP.replace("NAME", name) for name in cheap)


def strict(text: str):
    """JSON without NaN and Infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} in {text[:200]}")

    return json.loads(text, parse_constant=refuse)


async def ask(session: aiohttp.ClientSession, gateway: GatewayProcess, prompt: str, model: str = "auto"):
    """The plan of one call."""
    async with session.post(gateway.base_url + "/ask", json={"prompt": prompt, "model": model}) as answer:
        frames = [strict(part.removeprefix("data: ")) for part in (await answer.text()).split("\n\n") if part]
        assert answer.status == 200 and frames[-1]["type"] == "done", frames[-1]
        return frames[0]


async def judge(session: aiohttp.ClientSession, gateway: GatewayProcess, plan_id: str, **said) -> int:
    async with session.post(gateway.base_url + "/feedback", json={"id": plan_id, **said}) as answer:
        return answer.status


async def metrics(session: aiohttp.ClientSession, gateway: GatewayProcess) -> str:
    async with session.get(gateway.url + "/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


async def test_candidates_come_and_go_while_calls_and_feedback_flow(tmp_path: Path) -> None:
    rosters = [("a",), ("a", "b"), ("b",), (), ("c", "a"), ("renamed",)]
    statuses: Counter[int] = Counter()
    environment = {"JOURNEYMAN_RELOAD_INTERVAL_S": "0.05", "JOURNEYMAN_BELIEFS_INTERVAL_S": "0.05"}
    with running_gateway(tmp_path, registry("a"), **environment) as gateway:
        async with aiohttp.ClientSession() as session:

            async def edit() -> None:
                for number in range(30):
                    write_registry(tmp_path, registry(*rosters[number % len(rosters)]))
                    await asyncio.sleep(0.1)

            async def call(worker: int) -> None:
                while not editing.done():
                    plan = await ask(session, gateway, f"question of {worker}")
                    for said in ({"outcome": "failure"}, {"score": 1.0}, {"outcome": "success", "score": 0.0}):
                        statuses[await judge(session, gateway, plan["id"], **said)] += 1

            editing = asyncio.create_task(edit())
            await asyncio.gather(editing, *(call(worker) for worker in range(32)))
            assert set(statuses) == {200} and sum(statuses.values()) > 300
            text = await metrics(session, gateway)
        assert not re.search(r"[ =](nan|NaN|[+-]?[Ii]nf)$", re.sub(r'le="\+Inf"', "", text), re.MULTILINE)
        assert gateway.process.poll() is None
    log = gateway.log.read_text()
    assert "Traceback" not in log and "question of" not in log and "question of" not in text
    assert b"question" not in (tmp_path / "state" / "beliefs" / "router.beliefs").read_bytes()
    known = BeliefStore(tmp_path / "state" / "beliefs", "router").own()
    assert known is not None and set(known.bandit.arms) <= {"frontier", "a", "b", "c", "renamed"}


async def test_a_killed_gateway_leaves_a_whole_file_and_knows_what_it_knew(tmp_path: Path) -> None:
    outcomes, said = 0.0, []
    for _ in range(5):
        with running_gateway(tmp_path, registry("cheap"), JOURNEYMAN_BELIEFS_INTERVAL_S="0.002") as gateway:
            async with aiohttp.ClientSession() as session:
                for plan_id in said[-20:]:
                    assert await judge(session, gateway, plan_id, outcome="failure") == 200, "of before the kill"
                plan = await ask(session, gateway, "what is known")
                known = next(one for one in plan["candidates"] if one["name"] == "cheap")
                assert known["evidence"] >= outcomes - 0.5 and known["evidence"] < outcomes + 0.5, "each word once"
                for number in range(25):
                    plan = await ask(session, gateway, f"number {number}", model="cheap")
                    assert await judge(session, gateway, plan["id"], outcome="success") == 200
                    said.append(plan["id"])
                outcomes += 25
                await asyncio.sleep(0.3)
            gateway.process.send_signal(signal.SIGKILL)
            gateway.process.wait()
        assert BeliefStore(tmp_path / "state" / "beliefs", "router").own() is not None
        assert not list((tmp_path / "state" / "beliefs").glob("*unreadable*"))


async def test_two_gateways_of_one_name_say_so_and_spoil_nothing(tmp_path: Path) -> None:
    shared = {"JOURNEYMAN_BELIEFS": str(tmp_path / "shared"), "JOURNEYMAN_BELIEFS_INTERVAL_S": "0.01"}
    with contextlib.ExitStack() as running:
        gateways = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            gateways.append(running.enter_context(running_gateway(tmp_path / name, registry("cheap"), **shared)))
        async with aiohttp.ClientSession() as session:
            for gateway in gateways:
                for number in range(20):
                    plan = await ask(session, gateway, f"number {number}", model="cheap")
                    await judge(session, gateway, plan["id"], outcome="success")
            await asyncio.sleep(0.3)
            for _ in range(20):
                assert BeliefStore(tmp_path / "shared", "router").own() is not None
                await asyncio.sleep(0.02)
    logs = [gateway.log.read_text() for gateway in gateways]
    assert sum("JOURNEYMAN_ROUTER_NAME" in log for log in logs) == 1
