"""Swaps between two versions of a specialist on a running gateway under load: how soon they count, and what they break.

    python benchmarks/swaps.py [--swaps 100] [--callers 2] [--backend echo|embedded] [--json]

A real `journeyman serve` answers closed-loop callers while the ledger moves one version in (canary, then active) and
out again (rollback). Printed for each direction: how long after its entry was written the last call was sent that the
version before still answered. And over all: calls, failed calls, and stale ones (sent more than two seconds after a
move and answered by the version before). `--backend embedded` loads two real LoRA adapters into the real engine.

Last: what verifying costs, for ledgers of growing length: a first reading, and one that knows all but the last entry.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp

from registry.entries import TemplateEntry
from registry.ledger import Draft, Ledger
from registry.manifest import SpecialistManifest
from registry.registrar import Note, Registrar
from registry.signing import TRUSTED, Signer, Verifier
from registry.stage_moves import Move
from tests.e2e.engine_process import make_adapter
from tests.e2e.gateway_process import running_gateway
from tests.unit.made_specialists import make_folder

REGISTRY = """
version: 1
defaults: {{frontier: echo}}
backends:
  - {{name: echo, kind: echo}}
  - {{name: engine, kind: embedded, model: smollm2-135m-instruct}}
models:
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    eval_scores: {{"*": 0.97}}
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
  - {{model_name: small, backend: {backend}, upstream_name: {upstream}, supported_clusters: []}}
"""
CLUSTERS = 'clusters: [{name: parcels, system_patterns: ["^You sort"]}]\n'
PLANNER = "learning: {enabled: false}\n"
MESSAGES = [{"role": "system", "content": "You sort parcels."}, {"role": "user", "content": "The capital of France is"}]
NOTE = Note("benchmark", "swap")
STALE_S = 2.0


class Swapping:
    """A live gateway and the two versions."""

    def __init__(self, url: str, registrar: Registrar, old: str, new: str) -> None:
        self.url, self.registrar, self.old, self.new = url, registrar, old, new
        self.calls: list[tuple[float, int, str]] = []
        """When each was sent (monotonic seconds), its status, and who answered."""
        self.turns: list[tuple[float, str]] = []
        """When each move was written, and who should answer from then on."""

    async def ask(self, session: aiohttp.ClientSession) -> str:
        """Make a call; who answered."""
        sent_s = time.monotonic()
        body = {"model": "auto", "max_tokens": 4, "messages": MESSAGES}
        try:
            async with session.post(self.url + "/v1/chat/completions", json=body) as response:
                said = await response.json()
                self.calls.append((sent_s, response.status, str(said.get("model"))))
        except aiohttp.ClientError as error:
            self.calls.append((sent_s, 0, type(error).__name__))
        return self.calls[-1][2]

    async def keep_asking(self, done: asyncio.Event) -> None:
        """Make call after call."""
        async with aiohttp.ClientSession() as session:
            while not done.is_set():
                await self.ask(session)

    async def turn(self, name: str, most_s: float, *moves: Callable[[], object]) -> float:
        """Make the moves, and wait until a call is answered by the name; how late the other still took one."""
        for move in moves:
            await asyncio.to_thread(move)
        started_s = time.monotonic()
        self.turns.append((started_s, name))
        async with aiohttp.ClientSession() as session:
            while await self.ask(session) != name:
                if time.monotonic() - started_s > most_s:
                    sys.exit(f"{name} did not answer within {most_s} s; last: {self.calls[-1]}")
                await asyncio.sleep(0.02)
        other = self.old if name == self.new else self.new
        return max((sent - started_s for sent, _, who in self.calls if who == other and sent > started_s), default=0.0)

    def stale(self) -> int:
        """Calls that were sent long after a move and answered by the version before it."""
        count = 0
        for (at_s, name), following in zip(self.turns, [*self.turns[1:], (float("inf"), "")], strict=True):
            other = self.old if name == self.new else self.new
            count += sum(at_s + STALE_S < sent < following[0] and who == other for sent, _, who in self.calls)
        return count


async def swap(swapping: Swapping, swaps: int, callers: int) -> dict[str, list[float]]:
    """Alternate the versions; seconds until each had taken effect."""
    registrar, old, new = swapping.registrar, swapping.old, swapping.new
    while registrar.history().stages[old].stage != "active":
        registrar.promote(old, NOTE)
    registrar.promote(new, NOTE)
    await swapping.turn(old, 180.0)
    await asyncio.sleep(8.0)  # until the other adapter, in shadow, is loaded too
    done = asyncio.Event()
    askers = [asyncio.create_task(swapping.keep_asking(done)) for _ in range(callers)]
    took: dict[str, list[float]] = {"promote": [], "rollback": []}
    for number in range(swaps // 2):
        steps = (lambda: registrar.promote(new, NOTE, "canary", 1.0), lambda: registrar.promote(new, NOTE))
        took["promote"].append(await swapping.turn(new, 60.0, *steps))
        took["rollback"].append(await swapping.turn(old, 60.0, lambda: registrar.rollback("parcels", NOTE)))
        if (number + 1) % max(1, swaps // 20) == 0:
            print(f"  {2 * (number + 1)} of {swaps} swaps, {len(swapping.calls)} calls", file=sys.stderr, flush=True)
    await asyncio.sleep(STALE_S + 1)
    done.set()
    await asyncio.gather(*askers)
    return took


def manifest(base_digest: str) -> SpecialistManifest:
    """What the two versions share."""
    return SpecialistManifest(
        name="sorter",
        adapter_digest="",
        base="small",
        base_digest=base_digest,
        dataset="ds://benchmark/parcels@1.0.0",
        dataset_sha256="0" * 64,
        clusters=("parcels",),
        template=TemplateEntry(prompt="{input}"),
        eval_scores={"parcels": 0.95},
    )


def run_swaps(folder: Path, swaps: int, callers: int, backend: str) -> dict[str, object]:
    """Make the two versions, start the gateway, swap."""
    (folder / "policies").mkdir()
    (folder / "policies" / "clusters.yaml").write_text(CLUSTERS)
    (folder / "policies" / "planner.yaml").write_text(PLANNER)
    registrar = Registrar(folder / "state")
    made = []
    for seed in (1, 2):
        adapter = folder / f"adapter-{seed}"
        if backend == "embedded":
            make_adapter(adapter, seed=seed, scale=0.02)
        else:
            make_folder(adapter, bytes([seed]) * 16)
        for extra in adapter.glob("*"):
            if extra.suffix not in (".safetensors", ".json", ".md", ".txt"):
                extra.unlink()
        made.append(registrar.register(adapter, manifest("b" * 64), NOTE))
    named = {"echo": ("echo", "echo"), "embedded": ("engine", "smollm2-135m-instruct")}[backend]
    registry = REGISTRY.format(backend=named[0], upstream=named[1])
    if backend == "echo":
        registry = registry.replace("  - {name: engine, kind: embedded, model: smollm2-135m-instruct}\n", "")
    with running_gateway(folder, registry, JOURNEYMAN_POLICIES=str(folder / "policies")) as gateway:
        swapping = Swapping(gateway.url, registrar, *made)
        took = asyncio.run(swap(swapping, swaps, callers))
    statuses = Counter(status for _, status, _ in swapping.calls)
    return {
        "swaps": swaps,
        "calls": len(swapping.calls),
        "failed": len(swapping.calls) - statuses[200],
        "stale": swapping.stale(),
        "answered_by": dict(Counter(who for _, _, who in swapping.calls)),
        "seconds": {way: figures(seconds) for way, seconds in took.items()},
    }


def figures(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst."""
    ordered = sorted(seconds)
    return {"p50": statistics.median(ordered), "p95": ordered[int(0.95 * (len(ordered) - 1))], "max": ordered[-1]}


def reading(entries: int) -> dict[str, float]:
    """Milliseconds to append the last entry, to read the ledger for the first time, and to read it with one more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signer = Signer.load_or_create(folder / "signing")
        verifier = Verifier(folder / "signing" / TRUSTED)
        ledger, reader, stranger = (Ledger(folder / "ledger", folder / "signing" / "head.json") for _ in range(3))
        stages = ("candidate", "shadow")
        specialist = "sorter@" + "0" * 12
        ledger.append(
            Draft(moves=(Move(specialist, None, "candidate"),), actor="a", manifest="0" * 64), signer, verifier
        )
        for number in range(entries - 1):
            if number == entries - 2:
                reader.read(verifier)
            move = Move(specialist, stages[number % 2], stages[(number + 1) % 2])
            append_ms = timed(lambda move=move: ledger.append(Draft(moves=(move,), actor="a"), signer, verifier))
        again_ms = timed(lambda: reader.read(verifier))
        return {"append": append_ms, "first": timed(lambda: stranger.read(verifier)), "again": again_ms}


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of wall time."""
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1000.0


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--backend", choices=("echo", "embedded"), default="embedded")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = run_swaps(Path(name), given.swaps, given.callers, given.backend)
    ledgers = {entries: reading(entries) for entries in (10, 100, 1000)}
    if given.json:
        print(json.dumps({"swaps": found, "ledger_ms": ledgers}, indent=2))
        return
    print(f"{found['swaps']} swaps on {given.backend}, {given.callers} callers: {found['calls']} calls, ", end="")
    print(f"{found['failed']} failed, {found['stale']} stale; answered by {found['answered_by']}")
    print(f"{'in effect after, s':24}{'p50':>8}{'p95':>8}{'max':>8}")
    for way, row in found["seconds"].items():  # type: ignore[attr-defined]
        print(f"{way:24}{row['p50']:8.2f}{row['p95']:8.2f}{row['max']:8.2f}")
    print(f"{'ledger entries':24}{'append':>10}{'first read':>12}{'read again':>12}   ms")
    for entries, row in ledgers.items():
        print(f"{entries:<24}{row['append']:10.2f}{row['first']:12.2f}{row['again']:12.2f}")


if __name__ == "__main__":
    main()
