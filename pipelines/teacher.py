"""The teacher: a large model's stand-in that looks its answers up and is wrong as often as it is told to be.

Given an OpenAI request it finds the row it stands for by system prompt, tools and the user's words, and answers with
the row's gold answer or, for a fixed share of rows, a plausible wrong one. It knows nothing of HTTP or of time.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pipelines.graders import Answer, ToolCall
from pipelines.teacher_gold import gold_answer, wrong_answer
from pipelines.workload import Workload
from pipelines.workload_rows import App, Row
from registry.errors import BadInputError
from specialists.echo_schema import least_arguments, least_instance

# The format of these answers does not depend on the system prompt, so a changed prompt (documents put in by a
# retriever, say) still finds its row by the user's words.
_FREE_TEXT: Final = frozenset({"number", "extractive", "exact", "retrieval", "none"})
_Z95: Final = 1.6448536269514722
_FILLING: Final = "unknown"


class TeacherConfig(msgspec.Struct, frozen=True):
    """How the teacher behaves. Rates in 0..1, times in ms, prices in US dollars for a million tokens."""

    model: str = "teacher-large"
    error_rate: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    tokens_per_s: float = 0.0
    """Pace of generation after the first token; 0 is at once."""
    price_input_usd_per_mtok: float = 0.0
    price_output_usd_per_mtok: float = 0.0
    seed: int = 7

    def __post_init__(self) -> None:
        if not 0 <= self.error_rate <= 1:
            raise BadInputError(f"error rate must be in 0..1, not {self.error_rate}")
        for name in ("latency_p50_ms", "tokens_per_s", "price_input_usd_per_mtok", "price_output_usd_per_mtok"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInputError(f"{name} must be a number from 0 up, not {getattr(self, name)}")
        if self.latency_p95_ms and not self.latency_p50_ms <= self.latency_p95_ms < math.inf:
            raise BadInputError("latency_p95_ms must be at least latency_p50_ms")


class Reply(msgspec.Struct, frozen=True):
    """An answer and where it comes from: `gold`, `wrong`, `reference` (nobody can grade it) or `unknown`."""

    answer: Answer
    source: str
    row_id: str | None = None


class Teacher:
    """All gold answers of some workloads, and the will to err."""

    def __init__(self, workloads: Sequence[Workload], config: TeacherConfig) -> None:
        self.config = config
        self.row_count = 0
        self.conflicts = 0
        """Rows whose request is the same as an earlier row's, with another expected answer: the first one is served."""
        self._apps: dict[str, App] = {}
        self._rows: dict[bytes, Row] = {}
        self._free: dict[str, Row | None] = {}
        self._latency = random.Random(f"latency:{config.seed}")  # noqa: S311 (no secret)
        for workload in workloads:
            self._learn(workload)

    def reply(self, body: Mapping[str, Any]) -> Reply:
        """The answer to an OpenAI chat request."""
        row = self._find(body)
        if row is None:
            return Reply(generic_answer(body), "unknown")
        if row.grader == "none":
            return Reply(gold_answer(row), "reference", row.id)
        rng = random.Random(f"{self.config.seed}:{row.id}")  # noqa: S311
        if rng.random() < self.config.error_rate:
            return Reply(wrong_answer(self._apps[row.family], row, rng), "wrong", row.id)
        return Reply(gold_answer(row), "gold", row.id)

    def draw_latency_ms(self) -> float:
        """Time to the first token: lognormal with the configured median and 95th percentile."""
        median, p95 = self.config.latency_p50_ms, self.config.latency_p95_ms
        if median <= 0:
            return 0.0
        sigma = math.log(p95 / median) / _Z95 if p95 > median else 0.0
        return self._latency.lognormvariate(math.log(median), sigma)

    def _find(self, body: Mapping[str, Any]) -> Row | None:
        messages = body.get("messages") or []
        if not messages or messages[-1].get("role") != "user":
            return None
        text = message_text(messages[-1])
        found = self._rows.get(request_key(messages, body.get("tools") or ()))
        return found if found is not None else self._free.get(text)

    def _learn(self, workload: Workload) -> None:
        for family in workload.families:
            self._apps[family] = workload.app(family)
        for row in workload.rows():
            body = workload.request(row)
            key = request_key(body["messages"], body.get("tools") or ())
            self.row_count += 1
            known = self._rows.setdefault(key, row)
            self.conflicts += known.expected != row.expected
            if row.grader in _FREE_TEXT:
                other = self._free.setdefault(row.text, row)
                if other is not None and other.expected != row.expected:
                    self._free[row.text] = None


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message, be it a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def request_key(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bytes:
    """Digest of what tells requests apart: system prompts, names and argument names of the tools, the user's words."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages[:-1]:
        if message.get("role") in ("system", "developer"):
            digest.update(message_text(message).encode() + b"\x00")
    digest.update(_tools_digest(tools) + b"\x00" + message_text(messages[-1]).encode())
    return digest.digest()


def _tools_digest(tools: Sequence[Mapping[str, Any]]) -> bytes:
    names = []
    for tool in tools:
        function = tool.get("function") or {}
        properties = (function.get("parameters") or {}).get("properties") or {}
        names.append([function.get("name"), sorted(properties)])
    return msgspec.json.encode(sorted(names, key=str))


def generic_answer(body: Mapping[str, Any]) -> Answer:
    """A harmless answer to an unknown request, in the form that the request demands."""
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if schema is not None:
        return Answer(text=msgspec.json.encode(least_instance(schema, _FILLING)).decode())
    if (body.get("response_format") or {}).get("type") == "json_object":
        return Answer(text="{}")
    choice, tools = body.get("tool_choice"), body.get("tools") or ()
    if tools and (choice == "required" or isinstance(choice, dict)):
        name = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
        known: dict[str, Any] = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
        arguments = msgspec.json.encode(least_arguments(known.get(name), _FILLING)).decode()
        return Answer(tool_calls=(ToolCall(name, arguments),))
    return Answer(
        text="I can help with that. Here is a short answer: it depends on the details, so start with the basics."
    )
