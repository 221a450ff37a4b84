"""Decision time: signature, features, classification, constraints and plan of one call, for growing calls and rosters.

    python benchmarks/decision.py [--rounds 4000] [--live] [--json]

Prints p50 and p99 of the whole decision and of its parts, in microseconds of wall time; the last column is the CPU time
of the decision, which leaves out most of what a busy machine's scheduler adds. Target: p99 under 300. This is the
decision before anything was learned: without vector, beliefs and draw.

`--live` measures the gateway's own `decide` on real services that have learned, in CPU time: classification, the text's
vector, the beliefs about every contender and the draw, beside the planner alone on the same candidates.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from observations.records import AttemptRecord, CallRecord
from policies.classify import ClassifyInput, ClusterRule, ClusterTable, TableClassifier
from policies.constraints import Question, reject
from policies.features import FeatureInput, features_of, sampling_key_of, signature_of
from policies.plan import Candidate, Hints, PlanRequest
from policies.planner import plan
from policies.terms import PlannerPolicy, terms_of
from registry.entries import Prices
from router_service.auth import Caller
from router_service.job import Admission, Job, job_of
from router_service.services import Services
from router_service.settings import Settings
from router_service.wire.chat import FeedbackRequest, decode_chat

POLICY = PlannerPolicy()
WORDS = (
    "please",
    "would",
    "refund",
    "order",
    "parcel",
    "late",
    "account",
    "card",
    "weather",
    "song",
    "stars",
    "delivery",
)


def make_classifier(clusters: int) -> TableClassifier:
    """A table of so many clusters, each with a pattern of the system prompt, two of the text and ten keywords."""
    rules = tuple(
        ClusterRule(
            name=f"cluster-{n}",
            system_patterns=(rf"^You are agent {n}\b",),
            patterns=(rf"(?i)\bcase[ -]{n}\d{{3}}\b", rf"(?i)order\s+[A-Z]{{2}}{n}"),
            keywords=tuple(f"word{n}x{k}" for k in range(10)),
        )
        for n in range(clusters)
    )
    return TableClassifier(ClusterTable(clusters=rules))


def make_tools(count: int) -> list[dict[str, object]]:
    """Tools with a schema of five arguments each."""
    arguments = {f"argument_{k}": {"type": "string", "description": "copied word for word"} for k in range(5)}
    parameters = {"type": "object", "properties": arguments, "required": ["argument_0"]}
    return [
        {"type": "function", "function": {"name": f"tool_{n}", "description": "does it", "parameters": parameters}}
        for n in range(count)
    ]


def make_candidates(count: int, rng: random.Random) -> list[Candidate]:
    """A frontier, and others of which about half may answer: the rest fall to one constraint or another."""
    made = []
    for n in range(count):
        frontier = n == 0
        price = 10.0 if frontier else 10 ** rng.uniform(-2, 0.5)
        made.append(
            Candidate(
                name=f"model-{n}",
                kind="model" if n % 3 == 0 else "specialist",
                backend="local",
                stage="active" if n % 7 != 5 else "shadow",
                safety_grade="B" if n % 5 != 4 else "D",
                context_len=32_768 if n % 11 != 9 else 512,
                prices=Prices(input_usd_per_mtok=price, output_usd_per_mtok=4 * price),
                clusters=("*",) if n % 4 != 3 else ("elsewhere",),
                tools=True,
                response_formats=True,
                first_token_ms=rng.uniform(50, 500),
                tokens_per_s=rng.uniform(20, 100),
                quality=0.97 if frontier else rng.uniform(0.7, 0.97),
                p_believed=1.0 if frontier else rng.uniform(0.2, 0.95),
                is_frontier=frontier,
            )
        )
    return made


def make_text(chars: int, rng: random.Random) -> str:
    """A user's words of about this length."""
    text = ""
    while len(text) < chars:
        text += rng.choice(WORDS) + " "
    return text


def percentiles(
    action: Callable[[int], object], rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> tuple[float, float]:
    """p50 and p99 in microseconds of the clock, after a tenth of the rounds as warm-up."""
    for n in range(rounds // 10):
        action(n)
    took = []
    for n in range(rounds):
        started = clock()
        action(n)
        took.append(clock() - started)
    took.sort()
    return took[len(took) // 2] / 1e3, took[int(len(took) * 0.99)] / 1e3


def measure(chars: int, count: int, rounds: int, classifier: TableClassifier) -> dict[str, float]:
    """One row of the table."""
    rng = random.Random(f"{chars}:{count}")
    tools, candidates = make_tools(5), make_candidates(count, rng)
    texts = [make_text(chars, rng) for _ in range(64)]
    system = "You are agent 7 of a support desk. " + "Follow the rules of the house. " * 10
    names = tuple(f"tool_{n}" for n in range(5))
    hints, sampling = Hints(), sampling_key_of(temperature=0.0)

    def sign(n: int) -> tuple[str, object]:
        signature = signature_of(system, tools, None, sampling)
        text = texts[n % 64]
        return signature, features_of(FeatureInput(signature, system, text, text, tools, max_tokens=256))

    def classify(n: int) -> object:
        return classifier.classify(ClassifyInput("0" * 64, system, texts[n % 64], names))

    terms = terms_of(hints, POLICY)
    features = features_of(FeatureInput("0" * 64, system, texts[0], texts[0], tools, max_tokens=256))
    question = Question(features, "cluster-7", terms, POLICY)
    request = PlanRequest(features, "cluster-7", terms)
    tight = terms_of(Hints(latency_budget_ms=4_000, max_cost_usd=0.0375), POLICY)
    tight_request = PlanRequest(features, "cluster-7", tight)

    def decide(n: int) -> object:
        signature = signature_of(system, tools, None, sampling)
        text = texts[n % 64]
        seen = classifier.classify(ClassifyInput(signature, system, text, names))
        of_call = features_of(FeatureInput(signature, system, text, text, tools, max_tokens=256))
        return plan(PlanRequest(of_call, seen.cluster, terms_of(hints, POLICY)), candidates, POLICY)

    parts = {
        "signature": sign,
        "classify": classify,
        "constraints": lambda _: [reject(c, question) for c in candidates],
        "plan": lambda _: plan(request, candidates, POLICY),
        "plan_tight": lambda _: plan(tight_request, candidates, POLICY),
        "decision": decide,
    }
    row: dict[str, float] = {"chars": chars, "candidates": count}
    for name, action in parts.items():
        row[f"{name}_p50_us"], row[f"{name}_p99_us"] = percentiles(action, rounds)
    row["decision_cpu_p50_us"], row["decision_cpu_p99_us"] = percentiles(decide, rounds, time.thread_time_ns)
    return row


CLUSTER = "orders"
TABLE = f'clusters:\n  - {{name: {CLUSTER}, patterns: ["."]}}\n'


def make_services(folder: Path, count: int) -> Services:
    """A gateway of so many models of a built-in backend that may all answer, with 20 judged outcomes of each."""
    rng = random.Random(count)
    models = [
        f"  - {{model_name: m{n}, upstream_name: echo, backend: echo, safety_grade: A, context_len: 32768,"
        f' eval_scores: {{"*": {0.97 if n == 0 else rng.uniform(0.82, 0.95):.3f}}},'
        f" prices: {{input_usd_per_mtok: {10.0 if n == 0 else 10 ** rng.uniform(-2, 0.5):.4f},"
        f" output_usd_per_mtok: {40.0 if n == 0 else 10 ** rng.uniform(-1, 1):.4f}}}}}"
        for n in range(count)
    ]
    head = "version: 1\ndefaults: {frontier: m0}\nbackends:\n  - {name: echo, kind: echo}\nmodels:\n"
    (folder / "registry.yaml").write_text(head + "\n".join(models) + "\n")
    (folder / "policies").mkdir()
    (folder / "policies" / "clusters.yaml").write_text(TABLE)
    settings = Settings(
        registry=folder / "registry.yaml", state=folder / "state", policies=folder / "policies", load_records=False
    )
    services = Services(settings, {})
    for n in range(count):
        for k in range(20):
            attempt = AttemptRecord(candidate=f"m{n}", backend="echo", outcome="verified", completion_tokens=20)
            call = CallRecord(id=f"{n}-{k}", at_ms=1, cluster=CLUSTER, served_by=f"m{n}", attempts=(attempt,))
            said = FeedbackRequest(id="x", outcome="success" if rng.random() < 0.9 else "failure")
            services.beliefs.judged(call, said)
    return services


def make_job(services: Services, text: str) -> Job:
    """A call of `auto`, as the edge makes it."""
    body = {"model": "auto", "max_tokens": 256, "messages": [{"role": "user", "content": text}]}
    admission = Admission(
        caller=Caller(key_id="", tenant=services.policies.access.tenant("default")),
        route="chat",
        hints=Hints(),
        model="auto",
        default_max_tokens=256,
    )
    return job_of(decode_chat(json.dumps(body).encode()), admission)


def measure_live(chars: int, count: int, rounds: int) -> dict[str, float]:
    """One row of the table of `--live`, in CPU time: the whole live decision, and of it the planner alone."""
    rng = random.Random(f"{chars}:{count}")
    with tempfile.TemporaryDirectory() as folder:
        services = make_services(Path(folder), count)
        jobs = [make_job(services, make_text(chars, rng)) for _ in range(64)]
        policy = services.policies.decisions.planner
        known = [services.gateway.decide(job) for job in jobs]
        assert all(one.classification.cluster == CLUSTER for one in known)
        assert all(len(one.plan.estimates) + len(one.plan.rejections) == count for one in known)
        requests = [PlanRequest(one.plan.features, CLUSTER, one.plan.terms) for one in known]

        def decide(n: int) -> object:
            return services.gateway.decide(structs.replace(jobs[n % 64], call_id=f"chatcmpl-{n}"))

        def alone(n: int) -> object:
            return plan(requests[n % 64], known[n % 64].candidates, policy)

        row: dict[str, float] = {"chars": chars, "candidates": count}
        for name, action in {"live": decide, "planner": alone}.items():
            row[f"{name}_p50_us"], row[f"{name}_p99_us"] = percentiles(action, rounds, time.thread_time_ns)
        return row


def main() -> None:
    """Measure every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--live", action="store_true", help="the gateway's own decision, with vectors and beliefs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    classifier = make_classifier(given.clusters)
    gc.freeze()
    sizes = [(chars, n) for chars in (1_000, 8_000) for n in (2, 10, 50)]
    if given.live:
        rows = [measure_live(chars, n, given.rounds) for chars, n in sizes]
    else:
        rows = [measure(chars, n, given.rounds, classifier) for chars, n in sizes]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    names = [key.removesuffix("_p50_us") for key in rows[0] if key.endswith("_p50_us")]
    what = "CPU time, no tools" if given.live else f"{given.clusters} clusters, 5 tools"
    print(f"p50 / p99 in microseconds, {what}, {given.rounds} rounds")
    print("chars  cand.  " + "".join(f"{name:>17}" for name in names))
    for row in rows:
        cells = "".join(f"{row[f'{n}_p50_us']:>9.0f} /{row[f'{n}_p99_us']:>6.0f}" for n in names)
        print(f"{row['chars']:>5.0f}{row['candidates']:>7.0f}  {cells}")


if __name__ == "__main__":
    main()
