"""Clustering side by side: how well a workload's families are found again, and what many calls take.

    python benchmarks/clustering.py quality --data DIR [--per 400] [--split train]
    python benchmarks/clustering.py scale --data DIR --calls 10000 --calls 100000 --calls 1000000 [--mode shown]
    python benchmarks/clustering.py again --data DIR [--per 400] [--split train]

Families are the true tasks; ARI is the adjusted Rand index with noise as one more cluster. Modes: `shown`, all as it
is sent; `varied`, something new in each system prompt, so no signature comes twice; `hidden`, no signature and no
system prompt, tools and response format stay; `bare`, neither of those either: the user's words and the answer alone.
The alternatives: calls by signature alone, and HDBSCAN on the users' words alone. `scale` makes further rows of each
two of a family (the words of one, then of the other) and runs each size in a process of its own, one thread: first
without a model, then the same calls with the model of that. `again` leaves each family in turn out of a first run, and
asks of a second run over all calls whether the model of the first finds the new one, keeps the others' ids, and agrees
with a model fitted anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
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

from pipelines.cluster import ClusterOptions
from pipelines.cluster_identity import Known, Sketch
from pipelines.cluster_step import Clustering, History, cluster_file
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
    numbers = clustered(seen).found.numbers
    taken = time.perf_counter() - start
    found = float(adjusted_rand_score(families, numbers))
    return Agreement(found, len(set(numbers[numbers >= 0].tolist())), float((numbers < 0).mean()), taken)


def clustered(calls: list[CuratedCall], history: History | None = None) -> Clustering:
    """Cluster calls, by way of a file as a run does."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "curated.jsonl"
        write_rows(path, calls)
        return cluster_file(path, ClusterOptions(), history or History())


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


def repeated(calls: list[CuratedCall], families: list[str], count: int, mode: str) -> Iterator[CuratedCall]:
    """`count` calls under ids of their own, with texts of their own."""
    of_family: dict[str, list[str]] = {}
    for call, family in zip(calls, families, strict=True):
        of_family.setdefault(family, []).append(call.input)
    rng = random.Random(9)
    for at in range(count):
        call, texts = calls[at % len(calls)], of_family[families[at % len(calls)]]
        text = call.input if at < len(calls) else f"{call.input} {rng.choice(texts)}"
        yield as_seen(replace(call, call_id=f"{call.call_id}-{at}", input=text), mode)


def one_size(path: Path, families: list[str], answer: Any) -> None:
    """Cluster a file, then again with the model of that; tell what each took."""
    before = peak_mib()
    history = History()
    for run in ("fitted", "kept"):
        start, cpu = time.perf_counter(), time.process_time()
        done = cluster_file(path, ClusterOptions(), history)
        taken, used = time.perf_counter() - start, time.process_time() - cpu
        numbers = done.found.numbers
        truth = np.resize(np.unique(families, return_inverse=True)[1], len(numbers))
        answer.put((run, taken, used, peak_mib(), before, float(adjusted_rand_score(truth, numbers))))
        history = history_of(done)


def peak_mib() -> float:
    """The most memory that this process itself held."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024


def history_of(done: Clustering) -> History:
    """What a next run is given."""
    known = tuple(
        Known(card.id, Sketch(done.members[card.id], frozenset(card.signatures), card.terms))
        for card in done.file.clusters
    )
    return History(known, np.concatenate(list(done.members.values())), done.found.model, "")


def scale(data: str, sizes: list[int], mode: str) -> None:
    """Print the table of sizes."""
    calls, families = workload_calls(0, "train", data)
    print(f"mode {mode}, {len(calls)} rows and mixtures of them; from file to cards")
    print(
        f"{'calls':>9} {'model':7} {'file MiB':>9} {'s':>7} {'CPU s':>7} {'us of CPU':>10} {'peak MiB':>9} {'ARI':>6}"
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curated.jsonl"
            write_rows(path, repeated(calls, families, size, mode))
            context = multiprocessing.get_context("spawn")
            answer = context.Queue()
            process = context.Process(target=one_size, args=(path, families, answer))
            process.start()
            megabytes = path.stat().st_size / 2**20
            for _ in range(2):
                run, taken, used, peak, before, ari = answer.get()
                print(
                    f"{size:9} {run:7} {megabytes:9.0f} {taken:7.1f} {used:7.1f} {used / size * 1e6:10.0f} {peak:9.0f}"
                    f" {ari:6.3f}   (start {before:.0f} MiB)",
                    flush=True,
                )
            process.join()


def again(data: str, per: int, split: str) -> None:
    """Print how a kept model does when a family appears that it never saw."""
    calls, families = workload_calls(per, split, data)
    print(f"{len(calls)} {split} calls of {len(set(families))} families; ARI of a second run over all of them")
    print(f"{'mode':8} {'family left out':24} {'kept':>6} {'anew':>6} {'how':9} {'new':>4} {'ids':>9} {'noise':>6}")
    for mode in MODES:
        seen = [as_seen(call, mode) for call in calls]
        anew = adjusted_rand_score(families, clustered(seen).found.numbers)
        for out in sorted(set(families)):
            first = clustered([call for call, family in zip(seen, families, strict=True) if family != out])
            second = clustered(seen, history_of(first))
            kept = adjusted_rand_score(families, second.found.numbers)
            before = {card.id for card in first.file.clusters}
            stayed = len(before & {card.id for card in second.file.clusters})
            print(
                f"{mode:8} {out:24} {kept:6.3f} {anew:6.3f} {second.file.fitted:9} {len(second.file.new):4}"
                f" {stayed:4}/{len(before):<4} {second.file.noise / len(seen):6.1%} {second.file.why}",
                flush=True,
            )


def main() -> int:
    """Run one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "scale", "again"))
    parser.add_argument("--data", default="env", help="a workload: env, own or a folder")
    parser.add_argument("--per", type=int, default=_BIG, help="calls of a family; 0 for all")
    parser.add_argument("--split", default="train")
    parser.add_argument("--calls", type=int, action="append", help="size; may be repeated")
    parser.add_argument("--mode", choices=MODES, default="shown")
    given = parser.parse_args()
    if given.what == "quality":
        quality(given.data, given.per, given.split)
    elif given.what == "again":
        again(given.data, given.per, given.split)
    else:
        scale(given.data, given.calls or [10_000, 100_000], given.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
