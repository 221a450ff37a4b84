"""Puts the engine together from its settings: weights, tokenizer, compute thread, names. The one place that knows
all the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from registry.errors import InvalidRequestError
from specialists.engine.answers import Heading
from specialists.engine.architecture import read_config, read_shape
from specialists.engine.constraint import Grammars, schema_of
from specialists.engine.llama import LlamaModel
from specialists.engine.loop import EngineLoop
from specialists.engine.prompting import Prompter
from specialists.engine.requests import ChatRequest, CompletionRequest, sampling_of
from specialists.engine.scheduler import Limits
from specialists.engine.sequence import Constraint, Delta, Sequence
from specialists.engine.served import ServedModels
from specialists.engine.settings import EngineSettings
from specialists.engine.text_stream import TextStream
from specialists.engine.weights import Report, ensure_model


class Engine(msgspec.Struct, frozen=True):
    """A loaded engine. `begin` and `follow` serve a request; `loop` computes; `served` holds the names."""

    prompter: Prompter
    loop: EngineLoop
    served: ServedModels
    grammars: Grammars
    max_context_tokens: int
    vocabulary: int

    def start(self) -> None:
        """Starts computing; must be called on the event loop that will follow the requests."""
        events = asyncio.get_running_loop()
        self.loop.start(lambda deltas: _hand_over(events, deltas))

    def begin(self, request: ChatRequest | CompletionRequest) -> tuple[Heading, Sequence]:
        """Checks a request and makes its sequence; nothing runs yet. Raises BadInputError's kinds."""
        adapter = self.served.resolve(request.model)
        chat = isinstance(request, ChatRequest)
        prompt = self._prompt(request)
        if not prompt:
            raise InvalidRequestError("the prompt comes to no tokens at all", param="prompt")
        sampling = sampling_of(request, self._most_new_tokens(len(prompt), request.most_new_tokens))
        self._check_ids(sampling.stop_token_ids, "stop_token_ids")
        self._check_ids((token_id for token_id, _ in sampling.logit_bias), "logit_bias")
        text = TextStream(self.prompter.tokenizer, sampling.stop)
        sequence = Sequence(prompt, sampling, adapter, text, constraint=self._constraint(request))
        return Heading.new(chat, request.model, len(prompt)), sequence

    async def follow(self, sequence: Sequence) -> AsyncIterator[Delta]:
        """Runs a sequence, giving what each step adds. Leaving early cancels it. Raises BackendOverloadedError."""
        arrivals: asyncio.Queue[Delta] = asyncio.Queue()
        sequence.sink = arrivals.put_nowait
        self.loop.submit(sequence)
        ended = False
        try:
            while not ended:
                delta = await arrivals.get()
                ended = delta.finish_reason is not None
                yield delta
        finally:
            if not ended:
                self.loop.cancel(sequence)

    def _prompt(self, request: ChatRequest | CompletionRequest) -> list[int]:
        if isinstance(request, ChatRequest):
            return self.prompter.from_messages(request.messages, request.tools)
        prompt = request.one_prompt()
        if isinstance(prompt, str):
            return self.prompter.from_text(prompt)
        self._check_ids(prompt, "prompt")
        return prompt

    def _check_ids(self, token_ids: Iterable[int], param: str) -> None:
        """An id beyond the vocabulary would fail in the compute thread, and everyone's step with it."""
        if not all(0 <= token_id < self.vocabulary for token_id in token_ids):
            raise InvalidRequestError(f"{param}: token ids are from 0 to {self.vocabulary - 1}", param=param)

    def _most_new_tokens(self, prompt_tokens: int, wanted: int | None) -> int:
        left = self.max_context_tokens - prompt_tokens
        if left < (wanted or 1):
            error = InvalidRequestError(
                f"This model's maximum context length is {self.max_context_tokens} tokens; the request has "
                f"{prompt_tokens} in the prompt and wants {wanted or 1} in the answer. Shorten one of them.",
                param="messages",
            )
            error.code = "context_length_exceeded"
            raise error
        return wanted or left

    def _constraint(self, request: ChatRequest | CompletionRequest) -> Constraint | None:
        wants_json, schema = schema_of(request.response_format)
        return self.grammars.json(schema) if wants_json else None


def _hand_over(events: asyncio.AbstractEventLoop, deltas: list[tuple[Sequence, Delta]]) -> None:
    """From the compute thread to the event loop, once a step."""

    def put() -> None:
        for sequence, delta in deltas:
            sequence.sink(delta)

    if deltas and not events.is_closed():
        events.call_soon_threadsafe(put)


def load_engine(settings: EngineSettings, report: Report) -> Engine:
    """Loads everything and computes one token, so that the first request is as fast as the rest (about 10 s)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder = ensure_model(settings.model, settings.cache_dir, report=report)
    report(f"loading {folder}")
    config, prompter = read_config(folder), Prompter(folder)
    shape = read_shape(config, _eos_token_ids(config, folder, prompter))
    context = min(settings.max_context_tokens or shape.max_context_tokens, shape.max_context_tokens)
    model = LlamaModel(folder, config, shape, context)
    served = ServedModels(_served_name(settings), str(folder), shape, settings.max_loras, settings.max_lora_rank)
    for name, path in settings.adapters:
        served.load(name, str(path))
        report(f"loaded adapter {name}")
    limits = _limits(settings, shape.kv_token_bytes)
    loop = EngineLoop(model, limits, context, settings.prefix_cache_mib << 20, settings.max_guesses)
    grammars = Grammars(prompter.tokenizer, shape.vocabulary, shape.eos_token_ids)
    return Engine(prompter, loop, served, grammars, context, shape.vocabulary)


def _limits(settings: EngineSettings, kv_token_bytes: int) -> Limits:
    return Limits(
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_step_tokens=max(settings.max_step_tokens, settings.max_running + 1),
        max_cached_tokens=int(settings.kv_cache_gib * (1 << 30)) // kv_token_bytes,
    )


def _served_name(settings: EngineSettings) -> str:
    return settings.served_name or (Path(settings.model).name if Path(settings.model).is_dir() else settings.model)


def _eos_token_ids(config: Any, folder: Path, prompter: Prompter) -> tuple[int, ...]:
    """Every token that ends an answer: the config's, the generation config's and the tokenizer's."""
    found = [config.eos_token_id, prompter.eos_token_id]
    generation = folder / "generation_config.json"
    if generation.is_file():
        found.append(msgspec.json.decode(generation.read_bytes()).get("eos_token_id"))
    flat = [one for entry in found for one in (entry if isinstance(entry, list) else [entry]) if one is not None]
    return tuple(dict.fromkeys(flat))
