"""Ids of calls and plans, and digests of what is compared by content.

Knows nothing of storage or HTTP. Ids sort by the time they were made.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import msgspec

CALL_PREFIX = "chatcmpl-"
PLAN_PREFIX = "plan_"
UNKNOWN_CLUSTER = "unknown"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_ENCODER = msgspec.json.Encoder(order="sorted")


def new_ulid(now_ms: int | None = None) -> str:
    """Return 26 characters: 48 bits of milliseconds, then 80 random bits (the ULID layout)."""
    stamp = int(time.time() * 1000) if now_ms is None else now_ms
    value = (stamp << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


def new_call_id() -> str:
    """Return the id of one call; it is the `id` of the OpenAI answer and the key of the record."""
    return CALL_PREFIX + new_ulid()


def plan_id_of(call_id: str) -> str:
    """Return the plan id that belongs to a call: the same ULID under another prefix."""
    return PLAN_PREFIX + call_id.removeprefix(CALL_PREFIX)


def call_id_of(any_id: str) -> str:
    """Return the call id for a call id or a plan id."""
    return CALL_PREFIX + any_id.removeprefix(PLAN_PREFIX).removeprefix(CALL_PREFIX)


def digest_of(value: Any) -> str:
    """Return the sha256, in hex, of a JSON-like value with sorted keys."""
    return hashlib.sha256(_ENCODER.encode(value)).hexdigest()
