"""Curated calls of a small task, for the tests of datasets and training."""

import json

from pipelines.loop_rows import CuratedCall

INTENTS = ("balance", "pay_bill", "transfer", "freeze_account")
WORDS = {
    "balance": ("what is my balance", "how much money is there", "tell me the balance"),
    "pay_bill": ("pay my bill", "settle the invoice", "please pay what i owe"),
    "transfer": ("send money", "wire some cash", "move money over"),
    "freeze_account": ("freeze my account", "block the account", "stop all payments"),
}
PLACES = ("savings", "checking", "holiday fund", "joint account", "business", "student plan", "rent", "car loan")
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": list(INTENTS)}},
    "required": ["intent"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "intent", "schema": SCHEMA}}
TOOL = {
    "type": "function",
    "function": {
        "name": "rate_book",
        "parameters": {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]},
    },
}


def curated(number, **changed):
    """One call; its words and answer follow from its number."""
    intent = INTENTS[number % len(INTENTS)]
    words = WORDS[intent][number // 4 % 3]
    place = PLACES[number // 12 % 8]
    tail = "".join(chr(97 + int(digit)) for digit in str(number))
    values = {
        "call_id": f"chatcmpl-{number:05}",
        "at_ms": 1_000_000 + number,
        "tenant": "acme",
        "end_user": "",
        "signature": "s" * 64,
        "cluster": "bank",
        "cluster_source": "table",
        "input": f"{words} for {place} {tail}",
        "system": "You route.",
        "tool_names": (),
        "tools": None,
        "response_format": FORMAT,
        "answer_text": json.dumps({"intent": intent}),
        "answer_tool_calls": None,
        "answer_source": "verified",
        "served_by": "large",
        "frontier": "large",
        "prompt_tokens": 200,
        "completion_tokens": 8,
        "cost_usd": 0.001,
        "frontier_cost_usd": 0.001,
        "latency_ms": 800.0,
    }
    return CuratedCall(**(values | changed))


def calls(count, **changed):
    return [curated(number, **changed) for number in range(count)]
