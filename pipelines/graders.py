"""Decides whether an answer is right: one function, `grade`, over a table of graders.

It knows what was expected and what was answered, and nothing of who answered, over which wire or at what price.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipelines.graders_bfcl import check_calls
from registry.errors import WorkloadError


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool: its name and the arguments as the JSON text that went over the wire."""

    name: str
    arguments: str

    def parsed(self) -> Any:
        """The arguments as a value; `None` when they are not JSON."""
        try:
            return msgspec.json.decode(self.arguments)
        except msgspec.DecodeError:
            return None


class Answer(msgspec.Struct, frozen=True):
    """What came back: text, tool calls, and the documents it cites (best first) where there are any."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    citations: tuple[str, ...] = ()


class Grade(msgspec.Struct, frozen=True):
    """`correct` is `None` when nothing can be said; `score` is in 0..1; `reason` says what was wrong."""

    correct: bool | None
    score: float
    reason: str = ""


RIGHT: Final = Grade(correct=True, score=1.0)
UNGRADED: Final = Grade(correct=None, score=0.0, reason="not graded")


def grade(grader: str, expected: Any, answer: Answer, functions: Sequence[Mapping[str, Any]] = ()) -> Grade:
    """Judge `answer` against `expected`; `functions` are the declarations that `bfcl_ast` checks types against.

    Raises:
        WorkloadError: no such grader.
    """
    if grader == "bfcl_ast":
        return _grade_bfcl(expected, answer, functions)
    judge = GRADERS.get(grader)
    if judge is None:
        raise WorkloadError(f"there is no grader {grader!r}; known: {', '.join(known_graders())}")
    return judge(expected, answer)


def known_graders() -> tuple[str, ...]:
    """The names that `grade` takes, sorted."""
    return tuple(sorted([*GRADERS, "bfcl_ast"]))


def grade_json_equal(expected: Any, answer: Answer) -> Grade:
    """The whole text is one JSON value and it equals `expected` (1 equals 1.0; true does not equal 1)."""
    try:
        value = msgspec.json.decode(answer.text)
    except msgspec.DecodeError:
        return _wrong("tool call instead of text" if answer.tool_calls and not answer.text else "not JSON")
    if same_json(expected, value):
        return RIGHT
    if not isinstance(expected, dict) or not isinstance(value, dict):
        return _wrong("another value")
    keys = sorted(set(expected) | set(value))
    bad = [key for key in keys if key not in expected or key not in value or not same_json(expected[key], value[key])]
    return Grade(correct=False, score=1 - len(bad) / len(keys), reason="differs in " + ", ".join(bad))


def grade_tool_call(expected: Any, answer: Answer) -> Grade:
    """Exactly one call, of the expected tool, its arguments equal as strings (4 equals "4")."""
    if len(answer.tool_calls) != 1:
        return _wrong(f"{len(answer.tool_calls)} tool calls instead of one")
    call = answer.tool_calls[0]
    if call.name != expected["name"]:
        return _wrong(f"called {call.name} instead of {expected['name']}")
    arguments = call.parsed()
    if not isinstance(arguments, dict):
        return _wrong("the arguments are not a JSON object")
    want, got = _as_texts(expected["arguments"]), _as_texts(arguments)
    if want == got:
        return RIGHT
    keys = sorted(want.keys() | got.keys())
    bad = [key for key in keys if want.get(key) != got.get(key)]
    return Grade(correct=False, score=1 - len(bad) / len(keys), reason="differs in " + ", ".join(bad))


def grade_number(expected: Any, answer: Answer) -> Grade:
    """The last number of the text equals the expected one; commas, `$` and a closing dot do not matter."""
    want, got = last_number(str(expected)), last_number(answer.text)
    if want is None:
        raise WorkloadError(f"grader number: {expected!r} holds no number")
    if got is None:
        return _wrong("no number in the answer")
    if abs(want - got) <= 1e-6 * max(1.0, abs(want)):
        return RIGHT
    return _wrong(f"{got:g} instead of {want:g}")


def grade_extractive(expected: Any, answer: Answer) -> Grade:
    """SQuAD's exact match (correct) and best token F1 (score) over the accepted answers."""
    accepted = expected["answers"] if isinstance(expected, dict) else expected
    accepted = [accepted] if isinstance(accepted, str) else accepted
    score = max((token_f1(one, answer.text) for one in accepted), default=0.0)
    if any(normal_words(one) == normal_words(answer.text) for one in accepted):
        return RIGHT
    return Grade(correct=False, score=score, reason="other words than expected")


def grade_exact(expected: Any, answer: Answer) -> Grade:
    """The text equals the expected text, outer white space aside."""
    return RIGHT if str(expected).strip() == answer.text.strip() else _wrong("another text")


def grade_retrieval(expected: Any, answer: Answer) -> Grade:
    """The expected document leads `answer.citations` (correct); the score is the reciprocal rank."""
    doc = expected["doc"] if isinstance(expected, dict) else expected
    if doc not in answer.citations:
        return _wrong("the document is not among the citations")
    rank = answer.citations.index(doc) + 1
    return RIGHT if rank == 1 else Grade(correct=False, score=1 / rank, reason=f"the document is at rank {rank}")


def same_json(left: Any, right: Any) -> bool:
    """JSON equality: as Python's, but true and 1 differ."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return bool(left == right)


# A minus counts only where it cannot be a hyphen or a range ("3-4", "GPT-4").
_NUMBER: Final = re.compile(r"(?:(?<![\w.)])-)?[$€£]?(?:(?<=[$€£])-)?(\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(\.\d+)?")


def last_number(text: str) -> float | None:
    """The last number written in `text`, or `None`."""
    matches = list(_NUMBER.finditer(text.replace("\u2212", "-")))
    if not matches:
        return None
    found = matches[-1]
    value = float(found[1].replace(",", "") + (found[2] or "")) if found[1] or found[2] else 0.0
    return -value if "-" in found[0] else value


def normal_words(text: str) -> list[str]:
    """SQuAD's normal form: lower case, without punctuation and articles (Rajpurkar et al. 2016, evaluation script)."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def token_f1(expected: str, given: str) -> float:
    """Harmonic mean of precision and recall over the normal words of both texts."""
    want, got = Counter(normal_words(expected)), Counter(normal_words(given))
    if not want or not got:
        return float(want == got)
    shared = sum((want & got).values())
    return 2 * shared / (want.total() + got.total())


def _grade_bfcl(expected: Any, answer: Answer, functions: Sequence[Mapping[str, Any]]) -> Grade:
    calls = []
    for call in answer.tool_calls:
        arguments = call.parsed()
        if not isinstance(arguments, dict):
            return _wrong(f"the arguments of {call.name} are not a JSON object")
        calls.append((call.name, arguments))
    finding = check_calls(functions, expected, calls)
    return RIGHT if finding is None else _wrong(finding)


def _as_texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in arguments.items()
    }


def _wrong(reason: str) -> Grade:
    return Grade(correct=False, score=0.0, reason=reason)


def _not_graded(expected: Any, answer: Answer) -> Grade:
    return UNGRADED


GRADERS: Final[Mapping[str, Callable[[Any, Answer], Grade]]] = {
    "json_equal": grade_json_equal,
    "tool_call": grade_tool_call,
    "number": grade_number,
    "extractive": grade_extractive,
    "exact": grade_exact,
    "retrieval": grade_retrieval,
    "none": _not_graded,
}
