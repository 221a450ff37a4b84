"""Reads what is trained on, and turns text into token ids with a mark on those that are learnt. Knows no torch.

The prompt is encoded on its own, as the engine and vLLM encode it when they serve, then the completion and the token
that ends it; only the latter two are learnt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.dataset_split import SplitShares, part_of
from pipelines.datasets import read_dataset
from registry.entries import TemplateEntry
from registry.errors import BadInputError
from specialists.templates import prompt_text

LEAST_EXAMPLES: Final = 100
IGNORED: Final = -100
"""The label of a token that is not learnt; torch's cross-entropy passes over it."""
_FINDINGS_SHOWN: Final = 20
_PAIRS: Final = (("input", "output"), ("prompt", "completion"))
_PLAIN: Final = TemplateEntry()

Encode = Callable[[str], list[int]]


class Pair(Struct, frozen=True):
    """A prompt and what should follow it."""

    prompt: str
    completion: str


class TrainingData(Struct, frozen=True):
    """The pairs of both parts, and where they came from."""

    train: list[Pair]
    dev: list[Pair]
    source: str
    """The dataset's uri, or the file's path."""
    sha256: str
    template: TemplateEntry


class Tokens(Struct, frozen=True):
    """One example as the model sees it."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learnt(self) -> int:
        """Tokens that are learnt."""
        return sum(label != IGNORED for label in self.labels)


def read_data(path: Path, least: int = LEAST_EXAMPLES) -> TrainingData:
    """Read a dataset's folder, or a file of JSON lines, of which a tenth is kept for dev.

    A file's `input` is put into the plain template (`{input}` and a line end); a `prompt` is taken as it is.
    Raises BadInputError with every bad line, or when there are fewer than `least` examples.
    """
    data = _read_version(path) if path.is_dir() else _read_file(path)
    count = len(data.train) + len(data.dev)
    if count < least:
        raise BadInputError(f"{path}: {count} examples, and at least {least} are needed. Collect more.")
    if not data.train or not data.dev:
        raise BadInputError(
            f"{path}: all examples fell into one part; there must be some to train on and some to stop by."
        )
    return data


def tokens_of(pair: Pair, encode: Encode, encode_more: Encode, end_id: int) -> Tokens:
    """Return a pair's ids. `encode` adds the special tokens that a prompt gets, `encode_more` adds none."""
    prompt, rest = encode(pair.prompt), [*encode_more(pair.completion), end_id]
    return Tokens([*prompt, *rest], [IGNORED] * len(prompt) + rest)


def fitting(every: Sequence[Tokens], most: int) -> list[Tokens]:
    """Return the examples of at most `most` tokens; cutting one would teach half an answer."""
    return [one for one in every if len(one.input_ids) <= most]


def middling_batch(examples: Sequence[Tokens], size: int) -> list[Tokens]:
    """Return the batch of middling length: its time by the padded token stands for the others'."""
    ordered = sorted(examples, key=lambda one: len(one.input_ids))
    middle = max(0, (len(ordered) - size) // 2)
    return ordered[middle : middle + size]


def shown(one: Tokens, decode: Callable[[list[int]], str]) -> str:
    """Return an example as text, what is learnt between ⟦ and ⟧."""
    start = next((i for i, label in enumerate(one.labels) if label != IGNORED), len(one.labels))
    return f"{decode(one.input_ids[:start])}⟦{decode(one.input_ids[start:])}⟧"


def bucketed_order(lengths: Sequence[int], size: int, seed: int) -> list[int]:
    """Return indices so that each `size` in a row are of like length, the batches in a random order.

    Lengths are jittered by a tenth, so that an example does not meet the same neighbours in every epoch.
    """
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.95, 1.05))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    rest = [batches.pop()] if batches and len(batches[-1]) < size else []
    rng.shuffle(batches)
    return [i for batch in [*batches, *rest] for i in batch]


def padded_tokens(lengths: Sequence[int], size: int, seed: int) -> int:
    """Return the tokens that one pass in that order computes, padding included."""
    order = [lengths[i] for i in bucketed_order(lengths, size, seed)]
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    return sum(len(batch) * max(batch) for batch in batches)


def _read_version(folder: Path) -> TrainingData:
    dataset = read_dataset(folder)
    train = [Pair(row.prompt, row.completion) for row in dataset.rows("train")]
    dev = [Pair(row.prompt, row.completion) for row in dataset.rows("dev")]
    return TrainingData(train, dev, dataset.uri, dataset.sha256, dataset.manifest.template)


def _read_file(path: Path) -> TrainingData:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}).") from error
    pairs = _checked(path, content.splitlines())
    shares = SplitShares(dev=0.1, test=0.1, shadow=0.0)
    dev = [pair for pair in pairs if part_of("", pair.prompt, shares) == "dev"]
    train = [pair for pair in pairs if part_of("", pair.prompt, shares) != "dev"]
    return TrainingData(train, dev, str(path), hashlib.sha256(content).hexdigest(), _PLAIN)


def _checked(path: Path, lines: Iterable[bytes]) -> list[Pair]:
    found = [_pair_or_fault(line) for line in lines if line.strip()]
    faults = [f"{path}:{n}: {one}" for n, one in _numbered(lines, found) if isinstance(one, str)]
    if faults:
        more = len(faults) - _FINDINGS_SHOWN
        raise BadInputError("\n".join([*faults[:_FINDINGS_SHOWN], *([f"and {more} more"] if more > 0 else [])]))
    return [one for one in found if isinstance(one, Pair)]


def _numbered(lines: Iterable[bytes], found: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Pair each result with the number of its line in the file; blank lines gave none."""
    return zip((n for n, line in enumerate(lines, start=1) if line.strip()), found, strict=True)


def _pair_or_fault(line: bytes) -> Pair | str:
    try:
        raw = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    if not isinstance(raw, dict):
        return "is no JSON object; write one with `input` and `output` on each line"
    names = next((names for names in _PAIRS if names[0] in raw), None)
    if names is None:
        return "has neither `input` nor `prompt`"
    for name in names:
        if not isinstance(raw.get(name), str) or not raw[name].strip():
            return f"`{name}` must be text, and not empty"
    prompt = prompt_text(_PLAIN, raw["input"]) if names[0] == "input" else raw["prompt"]
    return Pair(prompt, raw[names[1]])
