"""Strict YAML into msgspec structs: every error at once, each with line, path, and the nearest known word.

Reads YAML 1.2's plain scalars (`no` and `on` are text, `1e-3` is a number). A field whose type carries
`Meta(extra={"environment": True})` may hold `${NAME}` or `${NAME:-default}`. Knows nothing of the registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec import inspect as mi

from .findings import ConfigFileError, Finding, Spot
from .type_walk import Walk
from .yaml_positions import parse_tree

T = TypeVar("T")

_AT_PATH = re.compile(r" - at `(?P<path>[^`]+)`$")


class Parsed(Struct, Generic[T], frozen=True):
    """A value, and where each of its parts stands in the file (by path, e.g. `$.models[0].backend`)."""

    value: T
    spots: Mapping[str, Spot]


def load_strict(text: str, type_: type[T], source_name: str, environ: Mapping[str, str] | None = None) -> T:
    """Return the text as a value of the type.

    Raises ConfigFileError (a ConfigError) whose message holds every finding, one a line. `environ` is what
    `${NAME}` is looked up in; None means that nothing is set.
    """
    return parse_strict(text, type_, source_name, environ).value


def parse_strict(text: str, type_: type[T], source_name: str, environ: Mapping[str, str] | None = None) -> Parsed[T]:
    """Like `load_strict`, and keep the place of every part. Raises ConfigFileError."""
    hashable: Any = type_
    walk = Walk(environ or {})
    builtins = walk.value(parse_tree(text, source_name), _info_of(hashable), "$")
    if walk.findings:
        raise ConfigFileError(sorted(walk.findings, key=lambda f: (f.line, f.column)), source_name)
    return Parsed(_converted(builtins, type_, walk.spots, source_name), walk.spots)


@cache
def _info_of(type_: Any) -> mi.Type:
    """Look into a type once: that takes as long as reading a small file."""
    return mi.type_info(type_)


def _converted(builtins: Any, type_: type[T], spots: Mapping[str, Spot], source_name: str) -> T:
    """Make the value; what is left to fail here is a struct's own `__post_init__`."""
    try:
        return msgspec.convert(builtins, type_)
    except msgspec.ValidationError as error:
        match = _AT_PATH.search(str(error))
        path = match["path"] if match else "$"
        spot = spots.get(path, Spot(1, 1))
        message = _AT_PATH.sub("", str(error))
        raise ConfigFileError([Finding(spot.line, spot.column, path, message)], source_name) from None
