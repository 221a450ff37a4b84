"""From messages or text to token ids, and from a token id to how it is shown. Knows nothing of the model's
computation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateError
from transformers import AutoTokenizer

from registry.errors import ConfigError, InvalidRequestError


class Prompter:
    """The tokenizer and chat template of one model folder."""

    def __init__(self, folder: Path) -> None:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        if not loaded.is_fast:
            raise ConfigError(f"{folder}: no tokenizer.json; save a fast tokenizer there")
        self._loaded = loaded
        self.tokenizer: Any = loaded.backend_tokenizer
        self.eos_token_id: int | None = loaded.eos_token_id

    def from_text(self, text: str) -> list[int]:
        """Token ids of a completion's prompt, with the special tokens that the tokenizer adds by itself."""
        return list(self.tokenizer.encode(text).ids)

    def from_messages(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
        """Token ids of a conversation in the model's chat template, ready for the assistant's turn."""
        if self._loaded.chat_template is None:
            raise InvalidRequestError("this model has no chat template; use /v1/completions", param="messages")
        plain = [_plain(message, index) for index, message in enumerate(messages)]
        try:
            text = self._loaded.apply_chat_template(
                plain, tools=list(tools or []) or None, add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidRequestError(
                f"messages do not fit the model's chat template: {error}", param="messages"
            ) from error
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def shown(self, token_id: int) -> str:
        """A token's own text; a part of a character is shown as U+FFFD."""
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False))


def _plain(message: dict[str, Any], index: int) -> dict[str, Any]:
    """A message whose content is a string and whose tool arguments are objects, as chat templates expect."""
    where = f"messages[{index}]"
    if not isinstance(message.get("role"), str):
        raise InvalidRequestError(f"{where}.role must be a string", param=where)
    plain = dict(message) | {"content": _content(message.get("content"), where)}
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [_plain_call(call, where) for call in calls]
    return plain


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    raise InvalidRequestError(
        f"{where}.content must be text; this engine reads no images or audio", param=f"{where}.content"
    )


def _plain_call(call: Any, where: str) -> Any:
    try:
        function = dict(call["function"])
        if isinstance(function.get("arguments"), str):
            function["arguments"] = msgspec.json.decode(function["arguments"] or "{}")
    except (TypeError, KeyError, msgspec.DecodeError) as error:
        raise InvalidRequestError(f"{where}.tool_calls: arguments must be JSON ({error})", param=where) from error
    return dict(call) | {"function": function}
