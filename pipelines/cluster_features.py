"""What a call looks like to the clustering: five blocks of numbers, each of length 1 at most, times its weight.

1. The fixed part: TF-IDF of the system prompt's words, its leading verbs, tool names, JSON keys and allowed values.
2. The answer's kind: text, JSON or tool calls.
3. Its form: JSON keys; tool names, their verbs and arguments.
4. Its values: a short value that recurs (a label) stands where the texts that get it stand.
5. The user's text, by a fitted embedding.

Source of the features: SLM agents, arXiv:2506.02153, S3. It knows nothing of clusters, ids or files. scikit-learn and
scipy are needed for a fit alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.fit_embedder import fit_embedder
from pipelines.loop_rows import CuratedCall
from registry.errors import BadInputError
from registry.identifiers import digest_of
from specialists.embedder import Embedder, hashing_embedder
from specialists.words import words_of

Matrix = NDArray[np.float32]
Kind = Literal["tool_call", "json", "text"]

KINDS: Final[tuple[Kind, ...]] = ("tool_call", "json", "text")
MAX_DEPTH: Final = 3
MAX_ITEMS: Final = 64
"""Of a JSON object or list: what lies deeper or further is not looked at."""
MAX_VALUE_CHARS: Final = 48
_SENTENCE_ENDS: Final = (". ", "! ", "? ", "; ")
_SEED: Final = 20_261_121
_MIN_DOCUMENTS: Final = 2


class FeatureOptions(Struct, frozen=True):
    """Weights and sizes of the blocks. A distance of 1 parts two calls that share nothing in a block of weight 0.7."""

    fixed_weight: float = 0.8
    kind_weight: float = 0.45
    """Of whether an answer is text, JSON or tool calls: a specialist gives one kind."""
    form_weight: float = 0.8
    value_weight: float = 0.7
    text_weight: float = 0.35
    fixed_dimension: int = 48
    form_dimension: int = 24
    text_dimension: int = 24
    known_share: float = 0.3
    """Of the other weights, for calls whose fixed part is known: what an agent is told says more than its questions."""
    labelled_share: float = 0.5
    """Of the text's weight, for calls whose answer has labels."""
    label_distance: float = 1.1
    """Labels of one key whose texts (and agents) are nearer than this, on average, belong together; 1.41 is unlike."""
    dimension: int = 32
    """Of the whole vector, after a rotation to its main axes."""


def kind_of(call: CuratedCall) -> Kind:
    """Return what the answer is, by its look."""
    if call.answer_tool_calls:
        return "tool_call"
    text = (call.answer_text or "").lstrip()
    return "json" if text.startswith(("{", "[")) and _parsed(text) is not None else "text"


def fixed_key_of(call: CuratedCall) -> str:
    """Return what names the call's fixed part: its signature, or a digest of what else is the same on every call.

    "" when nothing fixed is known: then no other call is known to come from the same agent.
    """
    if call.signature:
        return call.signature
    if not (call.system or call.tool_names or call.response_format):
        return ""
    return digest_of([call.system, sorted(call.tool_names), call.response_format])


def fixed_tokens(call: CuratedCall) -> list[str]:
    """Return the words and structural tokens of the fixed part."""
    tokens = [f"w:{word}" for word in words_of(call.system)]
    tokens += [f"verb:{verb}" for verb in leading_verbs(call.system)]
    for name in call.tool_names[:MAX_ITEMS]:
        tokens += [f"tool:{name}", *(f"w:{word}" for word in words_of(name.replace("_", " ")))]
    if call.response_format:
        tokens += [f"schema:{step}" for step in _steps(call.response_format, MAX_DEPTH * 3)]
    return tokens


def leading_verbs(text: str) -> list[str]:
    """Return the first word of each sentence or line: in an instruction that is its verb, in whatever language."""
    for end in _SENTENCE_ENDS:
        text = text.replace(end, "\n")
    starts = (words_of(line[:80]) for line in text[:4_000].split("\n"))
    return [words[0] for words in starts if words]


def form_tokens(call: CuratedCall) -> list[str]:
    """Return the structural tokens of the answer: never a value."""
    if call.answer_tool_calls:
        return ["kind:tool_call", *_tool_tokens(call.answer_tool_calls)]
    value = _parsed(call.answer_text or "")
    if value is None:
        return ["kind:text"]
    return ["kind:json", *(f"key:{step}" for step in _keys(value))]


def answer_keys(call: CuratedCall) -> list[str]:
    """Return the top-level JSON keys of the answer, or of its first tool call's arguments."""
    value: Any = _parsed(call.answer_text or "")
    if call.answer_tool_calls:
        value = _arguments(call.answer_tool_calls[0])
    return list(value)[:MAX_ITEMS] if isinstance(value, dict) else []


def value_tokens(call: CuratedCall) -> list[str]:
    """Return `key=value` of the answer's short top-level values: those that recur are labels."""
    if call.answer_tool_calls:
        return [f"tool={one.get('name', '')}" for one in call.answer_tool_calls[:MAX_ITEMS]]
    value = _parsed(call.answer_text or "")
    return list(_value_tokens(value)) if isinstance(value, dict) else []


def _value_tokens(value: Mapping[str, Any]) -> Iterator[str]:
    for key, one in list(value.items())[:MAX_ITEMS]:
        for item in one[:MAX_ITEMS] if isinstance(one, list) else [one]:
            if isinstance(item, str | bool) and len(str(item)) <= MAX_VALUE_CHARS:
                yield f"{key}={item}"


def _tool_tokens(calls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in calls[:MAX_ITEMS]:
        name = str(one.get("name", ""))
        yield f"tool:{name}"
        yield from (f"verb:{word}" for word in words_of(name.replace("_", " "))[:1])
        yield from (f"argument:{key}" for key in _arguments(one))


def _arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    given = call.get("arguments")
    value = _parsed(given) if isinstance(given, str) else given
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Any:
    """Return a JSON object or list, or None for text that is neither."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _keys(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the paths of the keys; a list counts as its items do."""
    if depth >= MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, one in list(value.items())[:MAX_ITEMS]:
            yield f"{path}{key}"
            yield from _keys(one, f"{path}{key}.", depth + 1)
    elif isinstance(value, list):
        for one in value[:MAX_ITEMS]:
            yield from _keys(one, path, depth + 1)


def _steps(value: Any, depth: int) -> Iterator[str]:
    """Yield every key and short string of a schema: keys of answers and allowed values are among them."""
    if depth <= 0:
        return
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _steps(one, depth - 1)
    elif isinstance(value, list):
        for one in value[: 8 * MAX_ITEMS]:
            yield from _steps(one, depth - 1)
    elif isinstance(value, str) and len(value) <= MAX_VALUE_CHARS:
        yield value


class TokenSpace:
    """Documents of tokens as vectors: TF-IDF and a truncated SVD, length 1, or 0 where no token is known."""

    def __init__(self, idf: dict[str, tuple[int, float]], components: Matrix) -> None:
        self._idf = idf
        self._rows = components

    @classmethod
    def fit(cls, documents: Sequence[Sequence[str]], counts: Sequence[int], dimension: int) -> TokenSpace:
        """Fit on documents that occur so many times; a token in fewer than one of 2,000 is not looked at."""
        df: Counter[str] = Counter()
        for document, count in zip(documents, counts, strict=True):
            df.update(dict.fromkeys(document, count))
        total = 1 + sum(counts)
        kept = sorted(token for token, count in df.items() if count >= min(_MIN_DOCUMENTS + total // 2_000, total - 1))
        idf = {token: (at, float(np.log(total / (1 + df[token])) + 1.0)) for at, token in enumerate(kept)}
        made = cls(idf, np.eye(len(kept), dtype=np.float32))
        if len(kept) > dimension:
            often = np.sqrt(np.asarray(counts, dtype=np.float32))[:, None]
            made._rows = _leading_axes(made._sparse(documents).multiply(often).tocsr(), dimension)
        return made

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._rows.shape[1])

    def vectors(self, documents: Sequence[Sequence[str]]) -> Matrix:
        """Return shape (n, dimension)."""
        return _unit_rows(np.asarray(self._sparse(documents) @ self._rows, dtype=np.float32))

    def _sparse(self, documents: Sequence[Sequence[str]]) -> Any:
        from scipy.sparse import csr_matrix  # noqa: PLC0415

        columns: list[int] = []
        values: list[float] = []
        ends = [0]
        for document in documents:
            found = [(*self._idf[token], count) for token, count in Counter(document).items() if token in self._idf]
            weights = [(1.0 + math.log(count)) * idf for _, idf, count in found]
            length = math.sqrt(math.fsum(weight * weight for weight in weights)) or 1.0
            columns += [at for at, _, _ in found]
            values += [weight / length for weight in weights]
            ends.append(len(columns))
        return csr_matrix((values, columns, ends), shape=(len(documents), len(self._idf)), dtype=np.float32)


class FeatureModel:
    """Calls as vectors of one length, fitted on a sample of them. The same sample gives the same model."""

    def __init__(self, spaces: tuple[TokenSpace, TokenSpace], embedder: Embedder, options: FeatureOptions) -> None:
        self._fixed, self._form = spaces
        self._embedder = embedder
        self._options = options
        self._places: dict[str, Matrix] = {}
        self._axes: Matrix | None = None

    @classmethod
    def fit(cls, sample: Sequence[CuratedCall], options: FeatureOptions | None = None) -> FeatureModel:
        """Fit on a sample. Raises BadInputError when there is none."""
        if not sample:
            raise BadInputError("There are no calls to fit features on.")
        options = options or FeatureOptions()
        often = Counter(map(fixed_key_of, sample))
        fixed = {fixed_key_of(call): call for call in sample}
        fixed_space = TokenSpace.fit(
            [fixed_tokens(call) for call in fixed.values()], [often[key] for key in fixed], options.fixed_dimension
        )
        form = TokenSpace.fit([form_tokens(call) for call in sample], [1] * len(sample), options.form_dimension)
        made = cls((fixed_space, form), _embedder_of(sample, options.text_dimension), options)
        made._place_values(sample)
        blocks = made._blocks(sample)
        if blocks.shape[1] > options.dimension:
            made._axes = _leading_axes(blocks - blocks.mean(axis=0), options.dimension)
        return made

    def vectors(self, calls: Sequence[CuratedCall]) -> Matrix:
        """Return shape (n, dimension)."""
        blocks = self._blocks(calls)
        return blocks if self._axes is None else blocks @ self._axes

    def _place_values(self, sample: Sequence[CuratedCall]) -> None:
        """Put each label where the texts that get it stand, and labels of near texts or of one agent together."""
        texts = self._embedder.embed_many([call.input for call in sample]).astype(np.float32)
        fixed = self._fixed_block(sample)
        found: dict[str, list[int]] = defaultdict(list)
        for at, call in enumerate(sample):
            for token in set(value_tokens(call)):
                found[token].append(at)
        by_key: dict[str, list[str]] = defaultdict(list)
        for token in _labels(found, len(sample)):
            by_key[token.partition("=")[0]].append(token)
        for tokens in by_key.values():
            places = _unit_rows(np.stack([texts[found[token]].mean(axis=0) for token in tokens]))
            agents = _unit_rows(np.stack([fixed[found[token]].mean(axis=0) for token in tokens]))
            groups = _groups(np.hstack((places, agents)), self._options.label_distance)
            for group in np.unique(groups):
                place = _unit_rows(places[groups == group].mean(axis=0, keepdims=True))[0]
                self._places.update((tokens[at], place) for at in np.flatnonzero(groups == group))

    def _blocks(self, calls: Sequence[CuratedCall]) -> Matrix:
        options = self._options
        texts = self._embedder.embed_many([call.input for call in calls]).astype(np.float32)
        fixed, values = self._fixed_block(calls), self._value_block(calls)
        known = np.where(np.any(fixed != 0, axis=1), options.known_share, 1.0).astype(np.float32)[:, None]
        labelled = np.where(np.any(values != 0, axis=1), options.labelled_share, 1.0).astype(np.float32)[:, None]
        return np.hstack(
            (
                options.fixed_weight * fixed,
                options.kind_weight * _kind_block(calls),
                options.form_weight * known * self._form.vectors([form_tokens(call) for call in calls]),
                options.value_weight * known * values,
                options.text_weight * known * labelled * texts,
            )
        )

    def _fixed_block(self, calls: Sequence[CuratedCall]) -> Matrix:
        """An agent sends the same fixed part on every call: each is looked at once."""
        numbers: dict[str, int] = {}
        first: list[CuratedCall] = []
        at = np.empty(len(calls), dtype=np.int64)
        for place, call in enumerate(calls):
            number = numbers.setdefault(fixed_key_of(call), len(numbers))
            if number == len(first):
                first.append(call)
            at[place] = number
        return self._fixed.vectors([fixed_tokens(call) for call in first])[at]

    def _value_block(self, calls: Sequence[CuratedCall]) -> Matrix:
        """Where the labels of a call's answer stand; 0 for one without labels."""
        block = np.zeros((len(calls), self._embedder.dimension), dtype=np.float32)
        for at, call in enumerate(calls):
            known = [self._places[token] for token in value_tokens(call) if token in self._places]
            if known:
                block[at] = np.mean(known, axis=0)
        return _unit_rows(block)


def _groups(places: Matrix, cut: float) -> NDArray[np.int64]:
    """Number the groups of places whose mean distance is below the cut."""
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415

    if len(places) < 2:
        return np.zeros(len(places), dtype=np.int64)
    return np.asarray(fcluster(linkage(places, "average"), cut, "distance"), dtype=np.int64)


def _kind_block(calls: Sequence[CuratedCall]) -> Matrix:
    return np.array([[kind_of(call) == kind for kind in KINDS] for call in calls], dtype=np.float32)


def _labels(found: Mapping[str, Sequence[int]], calls: int) -> Iterable[str]:
    """Yield the values that are labels: they recur, and the values of their key are few against its calls."""
    least = max(3, calls // 5_000)
    different: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for token, places in found.items():
        key = token.partition("=")[0]
        different[key] += 1
        covered[key] += len(places)
    for token, places in found.items():
        key = token.partition("=")[0]
        if len(places) >= least and different[key] <= covered[key] / 5:
            yield token


def _embedder_of(sample: Sequence[CuratedCall], dimension: int) -> Embedder:
    try:
        return fit_embedder((call.input for call in sample), dimension)
    except BadInputError:  # too few texts with a word in common
        return hashing_embedder(dimension)


def _leading_axes(matrix: Any, dimension: int) -> Matrix:
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415

    size = min(dimension, *matrix.shape)
    fitted = TruncatedSVD(size, random_state=_SEED, n_iter=4).fit(matrix)
    return np.ascontiguousarray(fitted.components_.T, dtype=np.float32)


def _unit_rows(rows: Matrix) -> Matrix:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    unit: Matrix = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-9)
    return unit
