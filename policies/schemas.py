"""JSON schemas that strangers wrote, made safe to run: nothing is fetched, nothing blows up, nothing runs for minutes.

Compiled by jsonschema-rs, offline, with a bound on what patterns may cost. A schema's references are unfolded first, on
paper: one that would unfold to more than `MAX_UNFOLDED` parts (each `$ref` used twice doubles the work) is refused, and
so is a reference to anywhere but the schema itself. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs
from msgspec import Struct

MAX_DEPTH: Final = 64
MAX_UNFOLDED: Final = 20_000

_PATTERNS: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000)
"""With look-around, which generated schemas use (pydantic's decimals), and a bound on what it may cost."""

_REFS: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_DATA: Final = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords whose value is data: a `$ref` in it is no reference."""


class UnusableSchemaError(ValueError):
    """Says what is wrong with a schema; the caller adds where it stood."""


class CompiledSchema(Struct, frozen=True):
    """A validator, and whether it may be asked for the place of a fault (a recursive one could take for ever)."""

    validator: Any
    explains: bool

    def fault_of(self, instance: Any) -> str | None:
        """Return None when the instance is valid, else which rule of the schema it breaks; nothing of the data."""
        try:
            if self.validator.is_valid(instance):
                return None
            return self._place_of_fault(instance) if self.explains else "it does not match the schema"
        except Exception as error:  # a hostile value ends as a fault, whatever the library makes of it
            return f"it cannot be checked against the schema ({type(error).__name__})"

    def _place_of_fault(self, instance: Any) -> str:
        try:
            self.validator.validate(instance)
        except jsonschema_rs.ValidationError as error:
            place = "/".join(str(part) for part in error.schema_path)
            return f"it breaks the schema at `/{place[:200]}`"
        return "it does not match the schema"


def compile_schema(schema: Any) -> CompiledSchema:
    """Compile a schema (Draft 2020-12, or what its `$schema` names). Raises UnusableSchemaError."""
    if not isinstance(schema, dict | bool):
        raise UnusableSchemaError("a JSON schema is an object")
    recursive = _Unfolding(schema).measure()
    try:
        validator = jsonschema_rs.validator_for(
            schema, offline=True, validate_formats=False, pattern_options=_PATTERNS, ignore_unknown_formats=True
        )
    except jsonschema_rs.ValidationError as error:
        place = "/".join(str(part) for part in error.instance_path)
        raise UnusableSchemaError(f"at `/{place[:200]}`: {error.message[:300]}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise UnusableSchemaError(str(error).strip()[:300] or type(error).__name__) from None
    return CompiledSchema(validator, explains=not recursive)


class _Unfolding:
    """How large a schema becomes when every reference is replaced by what it refers to."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()
        self._anchors: dict[str, Any] = {}
        self._recursive = False

    def measure(self) -> bool:
        """Return whether the schema refers to itself. Raises UnusableSchemaError when it is too deep or too large."""
        self._find_anchors(self._root, 0)
        self._size(self._root)
        return self._recursive

    def _find_anchors(self, node: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnusableSchemaError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(node, dict) and isinstance(node.get("$anchor"), str):
            self._anchors[node["$anchor"]] = node
        for child in _parts(node):
            self._find_anchors(child, depth + 1)

    def _size(self, node: Any) -> int:
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        if id(node) in self._open:
            self._recursive = True
            return 1
        if len(self._open) > 2 * MAX_DEPTH:
            raise UnusableSchemaError("its references form too long a chain")
        self._open.add(id(node))
        size = 1 + sum(self._size(child) for child in self._targets(node))
        self._open.discard(id(node))
        if size > MAX_UNFOLDED:
            raise UnusableSchemaError(f"with its references followed it has more than {MAX_UNFOLDED} parts")
        self._sizes[id(node)] = size
        return size

    def _targets(self, node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            for keyword in _REFS & node.keys():
                if isinstance(node[keyword], str):
                    yield self._resolve(node[keyword])
        yield from _parts(node)

    def _resolve(self, reference: str) -> Any:
        if reference == "#":
            return self._root
        if reference.startswith("#/"):
            return _at_pointer(self._root, reference)
        if reference.startswith("#") and reference[1:] in self._anchors:
            return self._anchors[reference[1:]]
        raise UnusableSchemaError(f"`{reference[:100]}` refers outside the schema; only `#...` references are followed")


def _parts(node: Any) -> Iterator[Any]:
    """The sub-schemas, and the objects and lists that hold them."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key not in _DATA and isinstance(value, dict | list))
    elif isinstance(node, list):
        yield from (value for value in node if isinstance(value, dict | list))


def _at_pointer(root: Any, reference: str) -> Any:
    """Follow a JSON pointer (RFC 6901)."""
    node = root
    for raw in reference[2:].split("/"):
        part = unquote(raw).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise UnusableSchemaError(f"`{reference[:100]}` refers to nothing in the schema")
    return node
