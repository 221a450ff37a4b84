"""Plain scalars mean what YAML 1.2 says."""

from __future__ import annotations

import pytest

from registry.scalars import read_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("nulls", "nulls"),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("010", 10),
        ("1_000", 1000),
        ("1__0", "1__0"),
        ("_1", "_1"),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("-2.5e+2", -250.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("inf", "inf"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        (".", "."),
        ("e3", "e3"),
        ("١٢", "١٢"),
    ],
)
def test_reads(text: str, value: object) -> None:
    found = read_plain(text)
    assert found == value
    assert type(found) is type(value)
