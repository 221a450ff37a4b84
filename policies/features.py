"""What a planner may know of a call: the digest of its fixed part, and counts. Knows nothing of HTTP or of tokenizers.

The signature covers what an agent sends the same way every time: system prompt, tool schemas, response format and the
sampling settings that shape an answer (temperature, top_p, the penalties, stop words). Not in it: the messages, the
seed, `max_tokens`, `tool_choice` and `stream`, which vary from call to call without making it another task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from .plan import TaskFeatures

SamplingKey = tuple[float | None, float | None, float | None, float | None, tuple[str, ...]]

STRUCTURED_OUTPUT_TOKENS: Final = 48
"""Expected length of a tool call or a JSON answer, until the cluster's own figure is known."""
FREE_OUTPUT_TOKENS: Final = 160
"""The same for free text."""

_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_GAP: Final = b"\x1f"


class FeatureInput(Struct, frozen=True):
    """A call, as far as its features are concerned."""

    signature: str
    system: str
    """The leading system (or developer) prompt; "" when there is none."""
    variable: str
    """The text of everything after it, joined."""
    last_user: str = ""
    """The last user message: all that a specialist's template sends. `variable` when empty."""
    tools: Sequence[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None
    """The call's own limit; None when it set none."""
    default_max_tokens: int = 1024
    turns: int = 1
    """Messages that are not the system prompt."""
    expected_output_tokens: int | None = None
    """What this cluster's answers have taken lately; None when nobody knows."""


def sampling_key_of(
    temperature: float | None = None,
    top_p: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    stop: Sequence[str] = (),
) -> SamplingKey:
    """Return the sampling settings that belong to a signature; `0` and `0.0` are the same setting."""
    return (
        None if temperature is None else float(temperature),
        None if top_p is None else float(top_p),
        None if presence_penalty is None else float(presence_penalty),
        None if frequency_penalty is None else float(frequency_penalty),
        tuple(stop),
    )


def signature_of(
    system: str,
    tools: Sequence[dict[str, Any]] | None,
    response_format: dict[str, Any] | None,
    sampling_key: SamplingKey | None = None,
) -> str:
    """Return the sha256, in hex, of a call's fixed part.

    The order of keys inside tools and formats does not matter, the order of tools does (the model sees it). No tools
    and an empty list are the same, and so are no response format and `{"type": "text"}`.
    """
    if response_format is not None and response_format.get("type") == "text":
        response_format = None
    digest = hashlib.sha256(system.encode("utf-8", "surrogatepass"))
    digest.update(_GAP)
    digest.update(_ENCODER.encode((tools or None, response_format or None, sampling_key or sampling_key_of())))
    return digest.hexdigest()


def estimate_tokens(text: str) -> int:
    """Return about how many tokens the text takes: a quarter of its ASCII characters, one for each CJK character.

    Within 20 % for English prose on common BPE tokenizers; more for code and digits. Linear, and free for ASCII.
    """
    if text.isascii():
        return (len(text) + 3) >> 2
    extra_bytes = len(text.encode("utf-8", "surrogatepass")) - len(text)
    return (2 * len(text) + 3 * extra_bytes + 7) >> 3


def features_of(given: FeatureInput) -> TaskFeatures:
    """Return the features of a call. Token counts are estimates (`estimate_tokens`) plus 4 for each message."""
    needs_json = given.response_format is not None and given.response_format.get("type") in {
        "json_object",
        "json_schema",
    }
    variable = estimate_tokens(given.variable)
    fixed = estimate_tokens(given.system)
    if given.tools:
        fixed += len(_ENCODER.encode(given.tools)) >> 2
    if needs_json:
        fixed += len(_ENCODER.encode(given.response_format)) >> 2
    max_tokens = given.max_tokens if given.max_tokens is not None else given.default_max_tokens
    return TaskFeatures(
        signature=given.signature,
        prompt_tokens=fixed + variable + 4 * (given.turns + 1),
        max_tokens=max_tokens,
        variable_tokens=estimate_tokens(given.last_user) if given.last_user else variable,
        needs_tools=bool(given.tools),
        needs_json=needs_json,
        turns=given.turns,
        expected_output_tokens=_expected_output(given, needs_json, max_tokens),
    )


def _expected_output(given: FeatureInput, needs_json: bool, max_tokens: int) -> int:
    """What the answer will probably take; never more than it may."""
    expected = given.expected_output_tokens
    if expected is None:
        expected = STRUCTURED_OUTPUT_TOKENS if needs_json or given.tools else FREE_OUTPUT_TOKENS
    return max(1, min(expected, max_tokens))
