"""Keeps an answer within a JSON schema (or to a JSON object) by masking tokens, with llguidance."""

from __future__ import annotations

import json
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from registry.errors import InvalidRequestError

LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As json.dumps writes by default, which is what models are mostly trained on."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Grammars:
    """Compiles constraints for one tokenizer."""

    def __init__(self, tokenizer: Any, vocabulary: int, eos_token_ids: tuple[int, ...]) -> None:
        self._vocabulary = vocabulary
        self._tokens = LLTokenizer(tokenizer.to_str(), n_vocab=vocabulary, eos_token=list(eos_token_ids))

    def json(self, schema: dict[str, Any] | None) -> JsonConstraint:
        """A fresh constraint for one answer. Raises InvalidRequestError for a schema that llguidance cannot hold."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema or ANY_OBJECT, defaults=LAYOUT)
        except ValueError as error:
            raise _refuse(str(error)) from error
        matcher = LLMatcher(self._tokens, grammar)
        if matcher.is_error():
            raise _refuse(matcher.get_error())
        return JsonConstraint(matcher, self._vocabulary)


def _refuse(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"response_format: {reason}", param="response_format")


class JsonConstraint:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self._matcher.is_stopped())

    def apply(self, logits: Tensor) -> None:
        """Sets the logits (vocabulary,) of what may not come next to minus infinity."""
        if (
            self._matcher.is_error()
        ):  # a limit of the grammar's: `complete` now ends the answer, and the gateway judges it
            return
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        logits[: self._vocabulary].masked_fill_(allowed[: self._vocabulary] == 0, float("-inf"))

    def accept(self, token_id: int) -> None:
        """Moves on past the chosen token."""
        self._matcher.consume_token(token_id)


def schema_of(response_format: dict[str, Any] | None) -> tuple[bool, dict[str, Any] | None]:
    """(whether JSON is wanted, the schema if one is given) of OpenAI's `response_format`."""
    kind = (response_format or {}).get("type", "text")
    if kind == "json_object":
        return True, None
    if kind != "json_schema":
        return False, None
    schema = (response_format or {}).get("json_schema", {}).get("schema")
    if not isinstance(schema, dict):
        raise _refuse(f"json_schema.schema must be an object, not {json.dumps(schema)[:80]}")
    return True, schema
