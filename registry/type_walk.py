"""Compares a YAML tree with a msgspec type and collects everything that does not fit.

Returns builtins that `msgspec.convert` takes without a complaint. Knows nothing of files or of YAML's syntax.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import inspect as mi

from .findings import MAX_FINDINGS, Finding, Spot, did_you_mean, nearest
from .scalars import SUBSTITUTION, expected_name, read_plain
from .yaml_positions import MappingNode, Node, ScalarNode, SequenceNode

_SIMPLE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def child_path(path: str, key: str) -> str:
    """Return the path of a key: `$.a.b`, or `$.a["b c"]` where a dot would mislead."""
    return f"{path}.{key}" if _SIMPLE_KEY.match(key) else f'{path}["{key}"]'


class Walk:
    """One comparison: the findings and the place of every value met."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.findings: list[Finding] = []
        self.spots: dict[str, Spot] = {}

    def value(self, node: Node, type_: mi.Type, path: str) -> Any:
        """Return the node as builtins for the type; what does not fit is in `findings`."""
        self.spots[path] = node.spot
        substitute = False
        while isinstance(type_, mi.Metadata):
            substitute = substitute or bool((type_.extra or {}).get("environment"))
            type_ = type_.type
        if substitute and isinstance(node, ScalarNode):
            node = self._substituted(node, path)
        for kinds, method in _METHODS:
            if isinstance(type_, kinds):
                return method(self, node, type_, path)
        raise TypeError(f"no rule for {type_!r} at {path}")

    def _add(self, spot: Spot, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(spot.line, spot.column, path, message, hint))

    def _mismatch(self, node: Node, type_: mi.Type, path: str, hint: str = "") -> None:
        self._add(node.spot, path, f"expected {expected_name(type_)}, got {_describe(node)}", hint)

    def _substituted(self, node: ScalarNode, path: str) -> ScalarNode:
        def replace(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            found = self._environ.get(name) or default
            if found is None:
                self._add(
                    node.spot, path, f"environment variable {name} is not set", f"set it or write ${{{name}:-default}}"
                )
            return found or ""

        if not SUBSTITUTION.search(node.text):
            return node
        return ScalarNode(node.spot, text=SUBSTITUTION.sub(replace, node.text), plain=False)

    def _any(self, node: Node, _type: mi.Type, path: str) -> Any:
        if isinstance(node, ScalarNode):
            return read_plain(node.text) if node.plain else node.text
        if isinstance(node, SequenceNode):
            return self._items(node, mi.AnyType(), path)
        assert isinstance(node, MappingNode)
        return {key.text: self.value(value, mi.AnyType(), child_path(path, key.text)) for key, value in node.entries}

    def _none(self, node: Node, type_: mi.Type, path: str) -> None:
        if not _is_null(node):
            self._mismatch(node, type_, path)

    def _text(self, node: Node, type_: mi.StrType, path: str) -> str:
        if not isinstance(node, ScalarNode):
            self._mismatch(node, type_, path)
            return ""
        # A plain number is taken as it was typed (a digest of digits, say); null and booleans are surely meant.
        if node.plain and (read_plain(node.text) is None or isinstance(read_plain(node.text), bool)):
            self._mismatch(node, type_, path, "put it in quotes if you mean the text")
            return ""
        text = node.text
        if type_.min_length is not None and len(text) < type_.min_length:
            self._add(node.spot, path, f"must have at least {type_.min_length} characters")
        elif type_.max_length is not None and len(text) > type_.max_length:
            self._add(node.spot, path, f"must have at most {type_.max_length} characters")
        elif type_.pattern is not None and not re.search(type_.pattern, text):
            self._add(node.spot, path, f"{text[:60]!r} must match {type_.pattern}")
        return text

    def _flag(self, node: Node, type_: mi.Type, path: str) -> bool:
        found = read_plain(node.text) if isinstance(node, ScalarNode) and node.plain else None
        if isinstance(found, bool):
            return found
        said = node.text.casefold() if isinstance(node, ScalarNode) else ""
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(said)
        self._mismatch(node, type_, path, f"write {meant}" if meant else "")
        return False

    def _number(self, node: Node, type_: mi.IntType | mi.FloatType, path: str) -> int | float:
        found = read_plain(node.text) if isinstance(node, ScalarNode) and node.plain else None
        whole = isinstance(type_, mi.IntType)
        fits = not isinstance(found, bool) and isinstance(found, int if whole else (int, float))
        if not fits:
            quoted = isinstance(node, ScalarNode) and not node.plain and isinstance(read_plain(node.text), (int, float))
            self._mismatch(node, type_, path, "remove the quotes" if quoted else "")
            return 0
        assert isinstance(found, (int, float))
        problem = _out_of_range(found, type_)
        if problem:
            self._add(node.spot, path, f"{node.text[:40] if isinstance(node, ScalarNode) else found} {problem}")
            return 0
        return found if whole else float(found)

    def _choice(self, node: Node, type_: mi.LiteralType | mi.EnumType, path: str) -> Any:
        values = list(type_.values) if isinstance(type_, mi.LiteralType) else [item.value for item in type_.cls]
        if isinstance(node, ScalarNode):
            found = read_plain(node.text) if node.plain else node.text
            for value in values:
                if (type(found) is type(value) and found == value) or (isinstance(value, str) and node.text == value):
                    return value
        words = [str(value) for value in values]
        hint = did_you_mean(node.text, words, 0.5) if isinstance(node, ScalarNode) else ""
        self._add(
            node.spot,
            path,
            f"must be one of {', '.join(words)}; got {_describe(node)}",
            "" if "known:" in hint else hint,
        )
        return values[0]

    def _items(self, node: Node, item_type: mi.Type, path: str) -> list[Any]:
        assert isinstance(node, SequenceNode)
        return [self.value(item, item_type, f"{path}[{index}]") for index, item in enumerate(node.items)]

    def _list(self, node: Node, type_: Any, path: str) -> list[Any]:
        if not isinstance(node, SequenceNode):
            self._mismatch(node, type_, path, "write a list: [a, b], or one `- item` a line")
            return []
        self._check_length(node, len(node.items), type_, path)
        return self._items(node, type_.item_type, path)

    def _fixed_list(self, node: Node, type_: mi.TupleType, path: str) -> list[Any]:
        if not isinstance(node, SequenceNode) or len(node.items) != len(type_.item_types):
            self._mismatch(node, type_, path)
            return []
        pairs = enumerate(zip(node.items, type_.item_types, strict=True))
        return [self.value(item, item_type, f"{path}[{index}]") for index, (item, item_type) in pairs]

    def _table(self, node: Node, type_: mi.DictType, path: str) -> dict[Any, Any]:
        if not isinstance(node, MappingNode):
            self._mismatch(node, type_, path)
            return {}
        self._check_length(node, len(node.entries), type_, path)
        return {
            self.value(key, type_.key_type, child_path(path, key.text)): self.value(
                value, type_.value_type, child_path(path, key.text)
            )
            for key, value in node.entries
        }

    def _check_length(self, node: Node, length: int, type_: Any, path: str) -> None:
        if type_.min_length is not None and length < type_.min_length:
            self._add(node.spot, path, f"needs at least {type_.min_length} entries, has {length}")
        if type_.max_length is not None and length > type_.max_length:
            self._add(node.spot, path, f"may have at most {type_.max_length} entries, has {length}")

    def _struct(self, node: Node, type_: mi.StructType, path: str) -> dict[str, Any]:
        if not isinstance(node, MappingNode):
            self._mismatch(node, type_, path)
            return {}
        fields = {field.encode_name: field for field in type_.fields}
        if type_.tag_field is not None:
            fields.setdefault(type_.tag_field, mi.Field(type_.tag_field, type_.tag_field, mi.LiteralType((type_.tag,))))
        found: dict[str, Any] = {}
        meant: set[str] = set()
        for key, value in node.entries:
            below = child_path(path, key.text)
            if key.text in fields:
                found[key.text] = self.value(value, fields[key.text].type, below)
                continue
            missing = [name for name in fields if name not in found]
            # Looking for likenesses is what takes time; nobody reads them past the first few hundred.
            few = len(self.findings) < MAX_FINDINGS
            meant.add(nearest(key.text, missing) or "" if few else "")
            self._add(key.spot, below, "unknown key", did_you_mean(key.text, missing or list(fields)) if few else "")
        for name, field in fields.items():
            if field.required and name not in found and name not in meant:
                self._add(node.spot, child_path(path, name), "missing required key")
        return found

    def _union(self, node: Node, type_: mi.UnionType, path: str) -> Any:
        members = [m for m in type_.types if not isinstance(m, mi.NoneType)]
        if _is_null(node) and len(members) < len(type_.types):
            return None
        if len(members) == 1:
            return self.value(node, members[0], path)
        meant = self._by_tag(node, members) or _by_shape(node, members)
        if meant is not None:
            return self.value(node, meant, path)
        attempts = []
        for member in members:
            attempt = Walk(self._environ)
            result = attempt.value(node, member, path)
            if not attempt.findings:
                self.spots.update(attempt.spots)
                return result
            attempts.append(attempt)
        # The member that got deepest into the value is the one that was meant.
        best = max(attempts, key=lambda attempt: len(attempt.spots))
        if len(best.spots) > 1:
            self.findings.extend(best.findings)
        else:
            self._mismatch(node, type_, path)
        return None

    def _by_tag(self, node: Node, members: list[mi.Type]) -> mi.Type | None:
        if not isinstance(node, MappingNode):
            return None
        said = {key.text: value.text for key, value in node.entries if isinstance(value, ScalarNode)}
        for member in members:
            if isinstance(member, mi.StructType) and member.tag_field and said.get(member.tag_field) == str(member.tag):
                return member
        return None


def _by_shape(node: Node, members: list[mi.Type]) -> mi.Type | None:
    """Return the only member that a value of this shape can be: then its own findings say more than a mismatch."""
    fitting = [member for member in members if _shape_of(member) is type(node)]
    return fitting[0] if len(fitting) == 1 else None


def _shape_of(type_: mi.Type) -> type[Node]:
    while isinstance(type_, mi.Metadata):
        type_ = type_.type
    if isinstance(type_, mi.StructType | mi.DictType):
        return MappingNode
    return SequenceNode if isinstance(type_, mi.TupleType | mi.CollectionType) else ScalarNode


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.plain and read_plain(node.text) is None


def _describe(node: Node) -> str:
    if isinstance(node, SequenceNode):
        return "a list"
    if isinstance(node, MappingNode):
        return "a mapping"
    assert isinstance(node, ScalarNode)
    if _is_null(node):
        return "nothing"
    return repr(node.text[:60]) if not node.plain or isinstance(read_plain(node.text), str) else node.text[:60]


def _out_of_range(value: float, type_: mi.IntType | mi.FloatType) -> str:
    """Say which bound a number breaks; empty when it is within all of them."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is unequal to itself
        return "is not a finite number"
    if isinstance(type_, mi.IntType) and not -(2**63) <= value < 2**63:
        return "is too large"
    rules: tuple[tuple[float | None, str, Callable[[float, float], bool]], ...] = (
        (type_.ge, "at least", operator.ge),
        (type_.gt, "greater than", operator.gt),
        (type_.le, "at most", operator.le),
        (type_.lt, "less than", operator.lt),
        (type_.multiple_of, "a multiple of", lambda number, bound: number % bound == 0),
    )
    broken = [f"{word} {bound:g}" for bound, word, holds in rules if bound is not None and not holds(value, bound)]
    return f"must be {' and '.join(broken)}" if broken else ""


_METHODS: tuple[tuple[tuple[type, ...], Callable[..., Any]], ...] = (
    ((mi.AnyType,), Walk._any),
    ((mi.NoneType,), Walk._none),
    ((mi.BoolType,), Walk._flag),
    ((mi.StrType,), Walk._text),
    ((mi.IntType, mi.FloatType), Walk._number),
    ((mi.LiteralType, mi.EnumType), Walk._choice),
    ((mi.UnionType,), Walk._union),
    ((mi.StructType,), Walk._struct),
    ((mi.DictType,), Walk._table),
    ((mi.TupleType,), Walk._fixed_list),
    ((mi.CollectionType,), Walk._list),
)
