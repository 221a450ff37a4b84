"""YAML text as a tree whose every node knows its line, within limits that a hostile file cannot pass.

Built from parser events without recursion: nesting, size and the growth by aliases are bounded before
anything walks the tree. Knows nothing of types; `registry.strict_yaml` gives the nodes their meaning.
"""

from __future__ import annotations

from typing import Any

import yaml
from msgspec import Struct

from .findings import ConfigFileError, Finding, Spot

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 500_000
"""Nodes after aliases are counted as often as they are used."""
MAX_DEPTH = 64

# libyaml's parser where the wheel has it (it does for CPython): some 30 times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Node(Struct, eq=False):
    """A value in the file. `nodes` and `depth` count what is under it, itself included."""

    spot: Spot
    nodes: int = 1
    depth: int = 1


class ScalarNode(Node, eq=False, kw_only=True):
    """Text as written; `plain` when it had no quotes, so that it may stand for a number or null."""

    text: str
    plain: bool


class SequenceNode(Node, eq=False, kw_only=True):
    """A list."""

    items: list[Node]


class MappingNode(Node, eq=False, kw_only=True):
    """Keys with their values, in order and each key once."""

    entries: list[tuple[ScalarNode, Node]]


class _Open(Struct, eq=False):
    """A list or mapping whose end has not come yet."""

    node: SequenceNode | MappingNode
    anchor: str | None
    key: ScalarNode | None = None
    seen: dict[str, Spot] | None = None


def parse_tree(text: str, source_name: str) -> Node:
    """Return the root of the one document in the text.

    Raises ConfigFileError for bad syntax, tags, duplicate or merge keys, a second document, or a file
    over the limits. Duplicate keys are reported all at once.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _fault(source_name, Spot(1, 1), f"the file is over {MAX_BYTES // 1024**2} MiB")
    builder = _Builder(source_name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _fault(source_name, _spot(error.problem_mark), f"not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise _fault(source_name, Spot(1, 1), f"not YAML: {' '.join(str(error).split())}") from None
    return builder.finish()


class _Builder:
    """Takes parser events and keeps the open lists and mappings on a stack of its own."""

    def __init__(self, source_name: str) -> None:
        self._source = source_name
        self._root: Node | None = None
        self._documents = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._findings: list[Finding] = []

    def take(self, event: yaml.Event) -> None:
        """Add one event to the tree."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _fault(self._source, _spot(event.start_mark), "a second document; one file holds one")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._aliased(event))
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_tag(event, plain=bool(event.implicit[0]))
            node = ScalarNode(_spot(event.start_mark), text=event.value, plain=event.style in (None, ""))
            self._name(event.anchor, node)
            self._add(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def finish(self) -> Node:
        """Return the root, or raise with every duplicate key."""
        if self._findings:
            raise ConfigFileError(self._findings, self._source)
        if self._root is None:
            raise _fault(self._source, Spot(1, 1), "the file is empty")
        return self._root

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        spot = _spot(event.start_mark)
        self._refuse_tag(event, plain=bool(event.implicit))
        if len(self._stack) >= MAX_DEPTH:
            raise _fault(self._source, spot, f"nested deeper than {MAX_DEPTH} levels")
        if self._stack and self._wants_key():
            raise _fault(self._source, spot, "a key must be text, not a list or mapping")
        self._name(event.anchor, None)
        if isinstance(event, yaml.MappingStartEvent):
            self._stack.append(_Open(MappingNode(spot, entries=[]), event.anchor, seen={}))
        else:
            self._stack.append(_Open(SequenceNode(spot, items=[]), event.anchor))

    def _close(self) -> None:
        done = self._stack.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = done.node
        self._add(done.node)

    def _name(self, anchor: str | None, node: Node | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _aliased(self, event: yaml.AliasEvent) -> Node:
        if event.anchor not in self._anchors:
            raise _fault(self._source, _spot(event.start_mark), f"*{event.anchor} names no anchor above it")
        node = self._anchors[event.anchor]
        if node is None:
            raise _fault(self._source, _spot(event.start_mark), f"*{event.anchor} contains itself")
        return node

    def _wants_key(self) -> bool:
        top = self._stack[-1]
        return isinstance(top.node, MappingNode) and top.key is None

    def _add(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if isinstance(top.node, SequenceNode):
            top.node.items.append(node)
        elif top.key is None:
            top.key = self._as_key(node)
            return
        else:
            self._add_entry(top, top.node, node)
        parent = top.node
        parent.nodes += node.nodes
        parent.depth = max(parent.depth, node.depth + 1)
        if parent.nodes > MAX_NODES or parent.depth > MAX_DEPTH:
            raise _fault(self._source, parent.spot, "too large once its aliases are written out")

    def _as_key(self, node: Node) -> ScalarNode:
        if not isinstance(node, ScalarNode):
            raise _fault(self._source, node.spot, "a key must be text, not a list or mapping")
        if node.plain and node.text == "<<":
            raise _fault(self._source, node.spot, "merge keys (<<) are not supported; write the keys out")
        return node

    def _add_entry(self, top: _Open, mapping: MappingNode, value: Node) -> None:
        key, seen = top.key, top.seen
        assert key is not None and seen is not None
        top.key = None
        if key.text in seen:
            first = seen[key.text].line
            self._findings.append(
                Finding(
                    key.spot.line,
                    key.spot.column,
                    _dotted(self._stack, key.text),
                    f"key given twice, first in line {first}",
                )
            )
            return
        seen[key.text] = key.spot
        mapping.entries.append((key, value))

    def _refuse_tag(self, event: Any, *, plain: bool) -> None:
        if event.tag is not None and not (plain and event.tag == "!"):
            raise _fault(
                self._source, _spot(event.start_mark), f"tag {event.tag} is not allowed; write the plain value"
            )


def _dotted(stack: list[_Open], key: str) -> str:
    """The path of a key in the innermost open mapping."""
    path = "$"
    for level in stack[:-1]:
        if isinstance(level.node, SequenceNode):
            path += f"[{len(level.node.items)}]"
        elif level.key is not None:
            path += f".{level.key.text}"
    return f"{path}.{key}"


def _spot(mark: Any) -> Spot:
    return Spot(1, 1) if mark is None else Spot(mark.line + 1, mark.column + 1)


def _fault(source_name: str, spot: Spot, message: str) -> ConfigFileError:
    return ConfigFileError([Finding(spot.line, spot.column, "$", message)], source_name)
