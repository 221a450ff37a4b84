"""Decision time: signature, features, classification, constraints and plan of one call, for growing calls and rosters.

    python benchmarks/decision.py [--rounds 4000] [--json]

Prints p50 and p99 of the whole decision and of its parts, in microseconds of wall time; the last column is the CPU time
of the decision, which leaves out most of what a busy machine's scheduler adds. Target: p99 under 300.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable

from policies.classify import ClassifyInput, ClusterRule, ClusterTable, TableClassifier
from policies.constraints import Question, reject
from policies.features import FeatureInput, features_of, sampling_key_of, signature_of
from policies.plan import Candidate, Hints, PlanRequest
from policies.planner import plan
from policies.terms import PlannerPolicy, terms_of
from registry.entries import Prices

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


def main() -> None:
    """Measure every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    classifier = make_classifier(given.clusters)
    gc.freeze()
    rows = [measure(chars, n, given.rounds, classifier) for chars in (1_000, 8_000) for n in (2, 10, 50)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    names = [key.removesuffix("_p50_us") for key in rows[0] if key.endswith("_p50_us")]
    print(f"p50 / p99 in microseconds, {given.clusters} clusters, 5 tools, {given.rounds} rounds")
    print("chars  cand.  " + "".join(f"{name:>17}" for name in names))
    for row in rows:
        cells = "".join(f"{row[f'{n}_p50_us']:>9.0f} /{row[f'{n}_p99_us']:>6.0f}" for n in names)
        print(f"{row['chars']:>5.0f}{row['candidates']:>7.0f}  {cells}")


if __name__ == "__main__":
    main()
