"""Takes personal data and secrets out of text before it is stored: `Redactor`, its sessions and spans.

Decides only where and by what a span is replaced; what a datum looks like is in the `redaction_*` detector modules.
Fails closed: whatever goes wrong is a RedactionError that names no value, and the caller then writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policies.redaction_detector import Detector, Hit
from policies.redaction_detectors import detectors_for
from policies.redaction_policy import KINDS, ExtraPattern, RedactionPolicy, policy_from_mapping
from policies.redaction_residual import residual_scan
from policies.redaction_view import DISGUISE, View, careful_view, covered, encode, plain_view, trigger_set
from registry.errors import RedactionError

__all__ = [
    "KINDS",
    "ExtraPattern",
    "Redacted",
    "RedactionPolicy",
    "Redactor",
    "Session",
    "Span",
    "policy_from_mapping",
    "residual_scan",
]

_MAX_PASSES: Final = 8
_CASED: Final = frozenset({"SECRET", "API_KEY", "PRIVATE_KEY", "CRYPTO_ADDRESS", "URL"})
_WRITTEN_OUT: Final = frozenset({"EMAIL", "IP_ADDRESS", "ADDRESS", "DATE_OF_BIRTH"})


class Span(msgspec.Struct, frozen=True):
    """Characters [start, end) of the original text, replaced by `placeholder`. Never the value itself."""

    start: int
    end: int
    kind: str
    placeholder: str


class Redacted(msgspec.Struct, frozen=True):
    """The text without its data, and where they were (sorted, disjoint)."""

    text: str
    spans: tuple[Span, ...] = ()


class Redactor:
    """Finds and replaces by one policy. Holds no caller's data; safe to share between threads."""

    def __init__(self, policy: RedactionPolicy | None = None) -> None:
        self.policy = policy or RedactionPolicy()
        self._known = frozenset(KINDS) | {extra.kind for extra in self.policy.extra}
        by_trigger: dict[bytes, list[Detector]] = {DISGUISE: []}
        for detector in detectors_for(self.policy):
            by_trigger.setdefault(detector.trigger, []).append(detector)
        self._by_trigger = list(by_trigger.values())
        self._triggers = trigger_set(list(by_trigger))

    def session(self) -> Session:
        """One call's worth of texts: a value keeps its number through all of them."""
        return Session(self)

    def redact(self, text: str) -> Redacted:
        """Redact one text by itself.

        Raises:
            RedactionError: too long, or a detector failed; the text must not be written.
        """
        return self.session().redact(text)

    def redact_json(self, value: Any) -> Any:
        """Redact one decoded JSON value by itself; see `Session.redact_json`."""
        return self.session().redact_json(value)

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Spans (start, end, kind) in character offsets, sorted and disjoint.

        Repeats over the masked text until nothing more is found, so that redacting the result again changes nothing.
        """
        data = encode(text)
        fired = self._triggers.Match(data)
        if not fired:
            return []
        is_disguised = 0 in fired
        view = plain_view(data)
        taken: list[tuple[int, int, str]] = []
        for _ in range(_MAX_PASSES):
            if is_disguised or taken:
                view = careful_view(data, [(start, end) for start, end, _ in taken], self._known)
                fired = self._triggers.Match(view.data) or []
            found = self._hits(view, fired)
            if not found:
                return taken
            taken = sorted(taken + [(view.origin(hit.start), view.origin(hit.end), hit.kind) for hit in found])
        raise RedactionError("redaction did not settle; the text is withheld")

    def _hits(self, view: View, fired: list[int]) -> list[Hit]:
        chosen = [detector for at in fired for detector in self._by_trigger[at]]
        hits = _disjoint(self._run([each for each in chosen if not each.is_late], view))
        late = [each for each in chosen if each.is_late]
        if late and hits:
            view = covered(view, [(hit.start, hit.end) for hit in hits])
        return sorted(hits + _disjoint(self._run(late, view))) if late else hits

    def _run(self, detectors: list[Detector], view: View) -> list[Hit]:
        return [
            hit
            for detector in detectors
            for hit in detector.find(view)
            if hit.kind in self.policy.kinds or hit.kind not in KINDS
        ]


def _disjoint(hits: list[Hit]) -> list[Hit]:
    """Settle overlaps. Of two that cross, the better rank stays and the next pass looks at what is left of the other;
    at equal rank, or when one holds the other, both are covered and the longer names the whole.
    """
    hits.sort(key=lambda hit: (hit.start, -hit.end, -hit.rank))
    kept: list[Hit] = []
    for hit in hits:
        last = kept[-1] if kept else None
        if last is None or hit.start >= last.end:
            kept.append(hit)
        elif hit.end > last.end:
            kept[-1] = _crossed(last, hit)
        elif hit.end - hit.start == last.end - last.start and hit.rank > last.rank:
            kept[-1] = hit
    return kept


def _crossed(first: Hit, second: Hit) -> Hit:
    if first.rank != second.rank:
        return max(first, second, key=lambda hit: hit.rank)
    longer = max(first, second, key=lambda hit: hit.end - hit.start)
    return Hit(first.start, second.end, longer.kind, longer.rank)


class Session:
    """Redacts the texts of one call. Not shared between threads; drop it when the call is recorded."""

    __slots__ = ("_numbers", "_redactor", "counts")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._numbers: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}
        """How many different values of each kind were taken out so far."""

    def redact(self, text: str) -> Redacted:
        """Redact one text. Offsets of the spans are into `text`.

        Raises:
            RedactionError: too long, or a detector failed; the text must not be written.
        """
        try:
            if len(text) > self._redactor.policy.max_chars:
                raise RedactionError(f"text is over {self._redactor.policy.max_chars} characters (redaction max_chars)")
            return self._replaced(text)
        except RedactionError:
            raise
        except Exception as error:
            raise RedactionError(f"redaction failed ({type(error).__name__}); the text is withheld") from None

    def _replaced(self, text: str) -> Redacted:
        found = self._redactor.find(text)
        if not found:
            return Redacted(text)
        spans: list[Span] = []
        pieces: list[str] = []
        last = 0
        for start, end, kind in found:
            placeholder = self._placeholder(kind, _same(kind, text[start:end]))
            spans.append(Span(start, end, kind, placeholder))
            pieces += (text[last:start], placeholder)
            last = end
        pieces.append(text[last:])
        return Redacted("".join(pieces), tuple(spans))

    def _placeholder(self, kind: str, value: str) -> str:
        number = self._numbers.get((kind, value))
        if number is None:
            number = self.counts[kind] = self.counts.get(kind, 0) + 1
            self._numbers[(kind, value)] = number
        return f"<{kind}_{number}>"

    def redact_json(self, value: Any) -> Any:
        """Redact every text and number in a decoded JSON value; keys stay, and tell what their value may be.

        A number that turns out to be a datum becomes a placeholder text.

        Raises:
            RedactionError: too deep, too many values, not a JSON value, or as `redact`.
        """
        return _Walk(self, self._redactor.policy).value(value, "", 0)

    def redact_json_text(self, text: str) -> str:
        """Redact JSON in text form (a tool call's arguments) so that it stays JSON; other text as `redact`.

        Raises:
            RedactionError: as `redact_json`.
        """
        if len(text) > self._redactor.policy.max_chars:
            raise RedactionError(f"text is over {self._redactor.policy.max_chars} characters (redaction max_chars)")
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return self.redact(text).text
        clean = self.redact_json(value)
        return text if clean == value else msgspec.json.encode(clean).decode()

    def redact_under(self, key: str, text: str) -> str:
        """Redact `text` as the value of `key`: the key's words count as context, and stay out of the result."""
        if not key:
            return self.redact(text).text
        lead = len(key) + 3
        whole = self.redact(f'{key}: "{text}"')
        return "".join(_behind(whole, lead, f'{key}: "{text}"'))


def _same(kind: str, value: str) -> str:
    """What two spellings of one value have in common."""
    if kind in _CASED:
        return value
    value = value.casefold()
    return value if kind in _WRITTEN_OUT else "".join(filter(str.isalnum, value)) or value


def _behind(whole: Redacted, lead: int, original: str) -> list[str]:
    """Pieces of the redacted text from `lead` on, without the closing quote."""
    pieces: list[str] = []
    last = lead
    for span in whole.spans:
        if span.end <= lead:
            continue
        pieces += (original[last : max(span.start, lead)], span.placeholder)
        last = span.end
    pieces.append(original[last:-1] if last < len(original) else "")
    return pieces


class _Walk:
    """One pass over a JSON value, with its bounds."""

    def __init__(self, session: Session, policy: RedactionPolicy) -> None:
        self._session = session
        self._policy = policy
        self._nodes = 0

    def value(self, value: Any, key: str, depth: int) -> Any:
        self._nodes += 1
        if depth > self._policy.max_depth:
            raise RedactionError(f"JSON is nested over {self._policy.max_depth} deep (redaction max_depth)")
        if self._nodes > self._policy.max_nodes:
            raise RedactionError(f"JSON holds over {self._policy.max_nodes} values (redaction max_nodes)")
        if isinstance(value, str):
            return self._session.redact_under(key, value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self._number(value, key)
        if isinstance(value, Mapping):
            return {name: self.value(item, _words(name), depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, key, depth + 1) for item in value]
        raise RedactionError(f"{type(value).__name__} is not a JSON value; the record is withheld")

    def _number(self, value: float, key: str) -> float | str:
        if -10 < value < 10:
            return value
        try:
            is_whole = isinstance(value, float) and value.is_integer()
            text = str(int(value) if is_whole else value)
        except ValueError:
            raise RedactionError("a JSON number is too large to check; the record is withheld") from None
        clean = self._session.redact_under(key, text)
        return value if clean == text else clean


def _words(name: object) -> str:
    """A key as context: one line, bounded."""
    return str(name)[:64].translate(_KEY_NOISE)


_KEY_NOISE: Final = str.maketrans(dict.fromkeys('\n\r"\\<>', " "))
