"""Strict YAML: what is accepted, what is said about the rest, and that no text at all can hurt."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from registry.entries import RegistryFile
from registry.errors import ConfigError
from registry.findings import ConfigFileError
from registry.strict_yaml import load_strict, parse_strict
from registry.yaml_positions import MAX_BYTES, MAX_DEPTH

SAMPLE = (Path(__file__).parents[2] / "registry.sample.yaml").read_text()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Struct, frozen=True):
    size: Annotated[int, Meta(ge=1, le=10)]
    ratio: float = 0.5


class Circle(Struct, frozen=True, tag="circle", tag_field="shape"):
    radius: float


class Square(Struct, frozen=True, tag="square", tag_field="shape"):
    side: float


class Everything(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=2, max_length=12, pattern=r"^[a-z0-9-]+\Z")]
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] | None = None
    table: dict[str, float] = {}
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    colour: Colour = Colour.RED
    flag: bool = False
    either: int | str | None = None
    shape: Circle | Square | None = None
    address: Annotated[str, Meta(extra={"environment": True})] | None = None
    plain_text: str = ""
    free: Any = None
    few: Annotated[tuple[int, ...], Meta(max_length=2)] = ()


class Checked(Struct, frozen=True):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Outer(Struct, frozen=True):
    ranges: tuple[Checked, ...]


def load(text: str, **environ: str) -> Everything:
    return load_strict(text, Everything, "t.yaml", environ)


def complaints(text: str, type_: type[Any] = Everything) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        load_strict(text, type_, "t.yaml")
    return str(caught.value).splitlines()


def test_a_full_file_becomes_the_struct() -> None:
    value = load(
        "name: ab\ninner: {size: 3, ratio: 1}\nmany: [{size: 1}, {size: 2}]\npair: [4, x]\ntable: {a: 1e-3, 7: .5}\n"
        "mode: slow\nlevel: 2\ncolour: blue\nflag: true\neither: 5\nshape: {shape: square, side: 2}\n"
        "free: {a: [1, no, ~]}\n"
    )
    assert value.inner == Inner(3, 1.0)
    assert isinstance(value.inner.ratio, float)
    assert value.many == (Inner(1), Inner(2))
    assert value.pair == (4, "x")
    assert value.table == {"a": 0.001, "7": 0.5}
    assert (value.mode, value.level, value.colour, value.flag, value.either) == ("slow", 2, Colour.BLUE, True, 5)
    assert value.shape == Square(2.0)
    assert value.free == {"a": [1, "no", None]}


def test_every_error_is_reported_at_once_with_its_line_and_path() -> None:
    assert complaints(
        "nam: ab\ninner:\n  size: 11\n  rato: 2\nmany:\n  - {size: x}\n  - 3\ntable: [1]\nmode: fats\nlevel: 3\n"
        "flag: yes\nname: UPPER\nfew: [1, 2, 3]\n"
    ) == [
        "t.yaml:1: $.nam: unknown key; did you mean name?",
        "t.yaml:3: $.inner.size: 11 must be at most 10",
        "t.yaml:4: $.inner.rato: unknown key; did you mean ratio?",
        "t.yaml:6: $.many[0].size: expected a whole number, got 'x'",
        "t.yaml:7: $.many[1]: expected a mapping of keys, got 3",
        "t.yaml:8: $.table: expected a mapping, got a list",
        "t.yaml:9: $.mode: must be one of fast, slow; got 'fats'; did you mean fast?",
        "t.yaml:10: $.level: must be one of 1, 2; got 3",
        "t.yaml:11: $.flag: expected true or false, got 'yes'; write true",
        "t.yaml:12: $.name: 'UPPER' must match ^[a-z0-9-]+\\Z",
        "t.yaml:13: $.few: may have at most 2 entries, has 3",
    ]


def test_findings_carry_columns_and_hints_apart() -> None:
    with pytest.raises(ConfigFileError) as caught:
        load("name: ab\ninner: {size: 3, rtio: 1}\n")
    (finding,) = caught.value.findings
    assert (finding.line, finding.column, finding.path) == (2, 18, "$.inner.rtio")
    assert (finding.message, finding.hint, finding.severity) == ("unknown key", "did you mean ratio?", "error")
    assert isinstance(caught.value, ConfigError)


def test_a_missing_key_is_reported_where_its_mapping_starts() -> None:
    assert complaints("flag: true\nmany:\n  - ratio: 1\n") == [
        "t.yaml:1: $.name: missing required key",
        "t.yaml:3: $.many[0].size: missing required key",
    ]


def test_a_misspelt_required_key_is_one_finding_not_two() -> None:
    assert complaints("nmae: ab\n") == ["t.yaml:1: $.nmae: unknown key; did you mean name?"]


@pytest.mark.parametrize("word", ["no", "on", "1:30", "2026-01-01", "0x1f", "1.2.3"])
def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text(word: str) -> None:
    assert load(f"name: ab\nplain_text: {word}\n").plain_text == word


def test_a_plain_number_is_taken_as_typed_where_text_is_expected() -> None:
    assert load("name: 0123456789\nplain_text: 12e456789012\n").name == "0123456789"


@pytest.mark.parametrize("value", ["true", "~", ""])
def test_a_flag_or_null_is_not_text(value: str) -> None:
    assert "put it in quotes" in complaints(f"name: ab\nplain_text: {value}\n")[0]


def test_quoted_numbers_are_not_numbers() -> None:
    assert complaints('name: ab\ninner: {size: "3"}\n')[0].endswith("got '3'; remove the quotes")


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e999"])
def test_numbers_must_be_finite(number: str) -> None:
    assert "finite" in complaints(f"name: ab\ntable: {{a: {number}}}\n")[0]


def test_whole_numbers_may_have_underscores_but_no_fraction() -> None:
    assert load("name: ab\neither: 1_000_000\n").either == 1_000_000
    assert "whole number" in complaints("name: ab\ninner: {size: 3.0}\n")[0]


def test_an_enormous_number_is_refused_rather_than_overflowing() -> None:
    assert "too large" in complaints(f"name: ab\neither: x\npair: [{'9' * 30}, a]\n")[0]
    assert complaints(f"name: ab\npair: [{'9' * 5000}, a]\n")


def test_duplicate_keys_are_all_reported_with_the_first_line() -> None:
    assert complaints("name: ab\nflag: true\nname: cd\nmany:\n  - size: 1\n    size: 2\n") == [
        "t.yaml:3: $.name: key given twice, first in line 1",
        "t.yaml:6: $.many[0].size: key given twice, first in line 5",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("name: [a\n", "not YAML"),
        ("name: 'a\n", "not YAML"),
        ("\tname: a\n", "not YAML"),
        ("name: a\x00b\n", "not YAML"),
        ("name: ab\n---\nname: cd\n", "second document"),
        ("name: !!python/object/apply:os.system [ls]\n", "tag"),
        ("name: !custom ab\n", "tag"),
        ("? [a, b]\n: c\n", "key must be text"),
        ("name: *missing\n", "missing"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: &a {size: 1}\ninner:\n  <<: *a\n", "merge keys"),
        ("name: ab\ud800\n", "not YAML"),
        ("[" * 5000, f"deeper than {MAX_DEPTH}"),
        ("- " * 5000 + "a", f"deeper than {MAX_DEPTH}"),
        ("x" * (MAX_BYTES + 1), "over 4 MiB"),
    ],
)
def test_what_is_not_one_plain_document_is_refused(text: str, said: str) -> None:
    assert said in complaints(text)[0]


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases" in complaints("\n".join(levels))[0]


def test_an_honest_anchor_works_and_keeps_its_line() -> None:
    parsed = parse_strict("name: ab\ninner: &i {size: 3}\nmany: [*i, *i]\n", Everything, "t.yaml")
    assert parsed.value.many == (Inner(3), Inner(3))
    assert parsed.spots["$.many[1].size"].line == 2


def test_environment_variables_only_where_the_type_says_so() -> None:
    text = "name: ab\naddress: http://${HOST}:${PORT:-80}/v1\nplain_text: ${HOST}\n"
    value = load(text, HOST="example.org")
    assert value.address == "http://example.org:80/v1"
    assert value.plain_text == "${HOST}"


def test_an_unset_environment_variable_is_a_finding() -> None:
    assert complaints("name: ab\naddress: ${NOWHERE}\n") == [
        "t.yaml:2: $.address: environment variable NOWHERE is not set; set it or write ${NOWHERE:-default}"
    ]


def test_an_environment_value_stays_text_whatever_it_looks_like() -> None:
    assert load("name: ab\naddress: ${X}\n", X="null").address == "null"
    assert load("name: ab\naddress: ${X}\n", X="a: [b").address == "a: [b"


def test_a_struct_s_own_check_is_reported_at_its_place() -> None:
    text = "ranges:\n  - {low: 1, high: 2}\n  - {low: 3, high: 2}\n"
    assert complaints(text, Outer) == ["t.yaml:3: $.ranges[1]: low is above high"]


def test_a_tagged_union_reports_inside_the_member_that_was_meant() -> None:
    assert complaints("name: ab\nshape: {shape: circle, radios: 2}\n") == [
        "t.yaml:2: $.shape.radios: unknown key; did you mean radius?"
    ]


def test_a_huge_pile_of_errors_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigFileError) as caught:
        load("name: ab\nmany:\n" + "  - 1\n" * 1000)
    assert len(caught.value.findings) == 1000
    assert str(caught.value).endswith("and 800 more")


LINES = SAMPLE.splitlines(keepends=True)
SNIPPETS = [
    "",
    " ",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!x ",
    "~",
    "\t",
    '"',
    "'",
    "#",
    "1e9",
    "-1",
    "|\n",
    "${A}",
]


@st.composite
def mutated_samples(draw: st.DrawFn) -> str:
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "double", "move", "insert", "indent", "cut"])):
            case "drop":
                lines[at] = ""
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(at, lines.pop(draw(st.integers(0, len(lines) - 1))))
            case "indent":
                lines[at] = " " + lines[at]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case _:
                column = draw(st.integers(0, len(lines[at])))
                piece = draw(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=4)))
                lines[at] = lines[at][:column] + piece + lines[at][column:]
    return "".join(lines)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=mutated_samples())
def test_a_mutated_sample_loads_or_raises_config_error_with_places(text: str) -> None:
    try:
        load_strict(text, RegistryFile, "registry.yaml")
    except ConfigFileError as error:
        last = text.count("\n") + 2
        assert error.findings
        assert all(1 <= finding.line <= last and finding.column >= 1 and finding.message for finding in error.findings)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200))
def test_arbitrary_text_raises_nothing_but_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        load_strict(text, RegistryFile, "registry.yaml")
