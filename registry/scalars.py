"""What a plain YAML scalar stands for (YAML 1.2, core schema), and the words for what was expected instead."""

from __future__ import annotations

import re

from msgspec import inspect as mi

SUBSTITUTION = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

_NULLS = {"", "~", "null", "Null", "NULL"}
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)\Z")
_MAX_DIGITS = 400


def read_plain(text: str) -> str | int | float | bool | None:
    """Return null, a boolean, a number or the text itself.

    Unlike YAML 1.1: `yes`, `no`, `on`, `off`, dates and `1:30` are text, `1e-3` is a number, `010` is ten.
    """
    if text in _NULLS:
        return None
    if text in _FLAGS:
        return _FLAGS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    special = _SPECIAL.match(text)
    if special:
        return float(special["sign"] + "inf")
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def expected_name(type_: mi.Type) -> str:
    """Return what an operator would call a value of the type."""
    if isinstance(type_, mi.Metadata):
        return expected_name(type_.type)
    if isinstance(type_, mi.UnionType):
        return " or ".join(expected_name(member) for member in type_.types)
    if isinstance(type_, mi.LiteralType):
        return "one of " + ", ".join(str(value) for value in type_.values)
    if isinstance(type_, mi.TupleType):
        return f"a list of {len(type_.item_types)}"
    return next((name for kind, name in _NAMES if isinstance(type_, kind)), type(type_).__name__)


_NAMES: tuple[tuple[type, str], ...] = (
    (mi.StrType, "text"),
    (mi.IntType, "a whole number"),
    (mi.FloatType, "a number"),
    (mi.BoolType, "true or false"),
    (mi.NoneType, "null"),
    (mi.StructType, "a mapping of keys"),
    (mi.DictType, "a mapping"),
    (mi.CollectionType, "a list"),
)
