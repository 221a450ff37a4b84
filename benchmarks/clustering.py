"""Clustering side by side: how well a workload's families are found again, and what many calls take.

    python benchmarks/clustering.py quality --data DIR [--per 400] [--split train]
    python benchmarks/clustering.py scale --data DIR --calls 10000 --calls 100000 [--mode shown]

Families are the true tasks; ARI is the adjusted Rand index with noise as one more cluster. Modes: `shown`, all as it
is sent; `varied`, something new in each system prompt, so no signature comes twice; `hidden`, no signature and no
system prompt, tools and response format stay; `bare`, neither of those either: the user's words and the answer alone.
The alternatives: calls by signature alone, and HDBSCAN on the users' words alone. `scale` repeats the rows under new
ids and runs each size in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from sklearn.metrics import adjusted_rand_score

from pipelines.cluster import ClusterOptions, find_clusters
from pipelines.cluster_step import History, cluster_file
from pipelines.fit_embedder import fit_embedder
from pipelines.loop_rows import CuratedCall, write_rows
from pipelines.workload import Workload
from policies.features import signature_of

MODES = ("shown", "varied", "hidden", "bare")
LEFT_OUT = ("passage_questions", "booking_slots")
_BIG = 400


@dataclass(frozen=True)
class Agreement:
    """How well one clustering found the families."""

    ari: float
    clusters: int
    noise: float
    seconds: float


def workload_calls(per_family: int, split: str = "train", data: str = "env") -> tuple[list[CuratedCall], list[str]]:
    """Calls with their gold answers, and the family of each, shuffled."""
    workload = Workload.parse(data)
    found = []
    for family in workload.families:
        if family in LEFT_OUT:
            continue
        rows = list(workload.rows([family], [split]))
        random.Random(7).shuffle(rows)
        found += [(curated(row, workload.request(row)), family) for row in rows[: per_family or None]]
    random.Random(8).shuffle(found)
    return [call for call, _ in found], [family for _, family in found]


def curated(row: Any, body: dict[str, Any]) -> CuratedCall:
    """A row as if a large model had answered it rightly."""
    system = "\n".join(turn["content"] for turn in body["messages"] if turn["role"] == "system")
    tools, form = body.get("tools"), body.get("response_format")
    answer_text, tool_calls = gold(row)
    return CuratedCall(
        call_id=f"{row.family}-{row.id}",
        at_ms=1_700_000_000_000 + int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:4]),
        tenant="t",
        end_user="",
        signature=signature_of(system, tools, form),
        cluster="unknown",
        cluster_source="none",
        input=row.text,
        system=system,
        tool_names=tuple(tool["function"]["name"] for tool in tools or ()),
        tools=tools,
        response_format=form,
        answer_text=answer_text,
        answer_tool_calls=tool_calls,
        answer_source="verified",
        served_by="large",
        frontier="large",
        prompt_tokens=len(json.dumps(body)) // 4,
        completion_tokens=12,
        cost_usd=0.001,
        frontier_cost_usd=0.001,
        latency_ms=800.0,
    )


def gold(row: Any) -> tuple[str | None, list[dict[str, Any]] | None]:
    """The row's answer as text or as tool calls."""
    expected = row.expected
    if row.family == "voice_tools":
        return None, [expected]
    if row.family == "open_tools":
        calls = [(name, given) for one in expected for name, given in one.items()]
        return None, [{"name": name, "arguments": {k: v[0] for k, v in given.items() if v}} for name, given in calls]
    if row.family == "open_tail":
        return f"The answer is {expected}." if expected else "Here is a text as you asked for.", None
    return json.dumps(expected), None


def as_seen(call: CuratedCall, mode: str) -> CuratedCall:
    """The call in a mode."""
    if mode == "shown":
        return call
    if mode == "varied":
        note = hashlib.sha256(call.call_id.encode()).hexdigest()
        return replace(call, signature=note, system=f"Session {note[:8]}, user {note[8:14]}.\n{call.system}")
    call = replace(call, signature="", system="")
    return call if mode == "hidden" else replace(call, tools=None, tool_names=(), response_format=None)


def agreement(calls: list[CuratedCall], families: list[str], mode: str) -> Agreement:
    """Cluster the calls in a mode and compare with the families."""
    seen = [as_seen(call, mode) for call in calls]
    start = time.perf_counter()
    found = find_clusters(lambda: seen)
    taken = time.perf_counter() - start
    noise = float((found.numbers < 0).mean())
    return Agreement(float(adjusted_rand_score(families, found.numbers)), found.clusters, noise, taken)


def by_signature(calls: list[CuratedCall], families: list[str], mode: str) -> float:
    """ARI of calls by their signature alone."""
    return float(adjusted_rand_score(families, [as_seen(call, mode).signature for call in calls]))


def by_words(calls: list[CuratedCall], families: list[str]) -> float:
    """ARI of HDBSCAN on the users' words alone."""
    import hdbscan  # noqa: PLC0415

    texts = [call.input for call in calls]
    vectors = fit_embedder(texts, 64).embed_many(texts)
    return float(adjusted_rand_score(families, hdbscan.HDBSCAN(min_cluster_size=20).fit_predict(vectors)))


def quality(data: str, per: int, split: str) -> None:
    """Print the table of agreements."""
    calls, families = workload_calls(per, split, data)
    words = by_words(calls, families)
    print(f"{len(calls)} {split} calls of {len(set(families))} families; ARI")
    print(f"{'mode':8} {'ours':>6} {'by signature':>13} {'by words':>9} {'clusters':>9} {'noise':>6} {'s':>6}")
    for mode in MODES:
        ours = agreement(calls, families, mode)
        signature = by_signature(calls, families, mode)
        print(
            f"{mode:8} {ours.ari:6.3f} {signature:13.3f} {words:9.3f}"
            f" {ours.clusters:9} {ours.noise:6.1%} {ours.seconds:6.1f}",
            flush=True,
        )


def repeated(calls: list[CuratedCall], count: int, mode: str) -> Iterator[CuratedCall]:
    """`count` calls under ids of their own."""
    for at in range(count):
        call = calls[at % len(calls)]
        yield as_seen(replace(call, call_id=f"{call.call_id}-{at}"), mode)


def one_size(path: Path, families: list[str], answer: Any) -> None:
    """Cluster a file and tell seconds, peak MiB and ARI."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    done = cluster_file(path, ClusterOptions(), History())
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = len(done.found.numbers)
    codes = np.unique(families, return_inverse=True)[1]
    truth = np.resize(codes, count)
    answer.put((taken, peak / 1024, before / 1024, float(adjusted_rand_score(truth, done.found.numbers))))


def scale(data: str, sizes: list[int], mode: str) -> None:
    """Print the table of sizes."""
    calls, families = workload_calls(0, "train", data)
    print(f"mode {mode}, {len(calls)} rows repeated; seconds from file to cards")
    print(f"{'calls':>9} {'file MiB':>9} {'s':>7} {'us a call':>10} {'peak MiB':>9} {'at start':>9} {'ARI':>6}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curated.jsonl"
            write_rows(path, repeated(calls, size, mode))
            context = multiprocessing.get_context("spawn")
            answer = context.Queue()
            process = context.Process(target=one_size, args=(path, families, answer))
            process.start()
            taken, peak, before, ari = answer.get()
            process.join()
            megabytes = path.stat().st_size / 2**20
        print(
            f"{size:9} {megabytes:9.0f} {taken:7.1f} {taken / size * 1e6:10.0f} {peak:9.0f} {before:9.0f} {ari:6.3f}",
            flush=True,
        )


def main() -> int:
    """Run one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "scale"))
    parser.add_argument("--data", default="env", help="a workload: env, own or a folder")
    parser.add_argument("--per", type=int, default=_BIG, help="calls of a family; 0 for all")
    parser.add_argument("--split", default="train")
    parser.add_argument("--calls", type=int, action="append", help="size; may be repeated")
    parser.add_argument("--mode", choices=MODES, default="shown")
    given = parser.parse_args()
    if given.what == "quality":
        quality(given.data, given.per, given.split)
    else:
        scale(given.data, given.calls or [10_000, 100_000], given.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
