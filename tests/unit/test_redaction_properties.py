"""Laws of redaction over arbitrary text and JSON."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.redaction import KINDS, Redacted, Redactor, residual_scan
from registry.errors import RedactionError

REDACTOR = Redactor()
PIECES = st.sampled_from(
    [
        "jo@example.com",
        "4111 1111 1111 1111",
        "4111",
        "+1 541-714-1388",
        "password=",
        "hunter2",
        "phone ",
        "<EMAIL_1>",
        "<SECRET_7",
        "078-05-1120",
        "GB82 WEST 1234 5698 7654 32",
        "http://a.b/c?d",
        "\\u0040",
        "\\n",
        "\\",
        "\u200b",
        "\x00",
        "\x02",
        "１",
        "é",
        " ",
        "\n",
        "-",
        ".",
        ":",
        '"',
        "(",
        ")",
        "10.0.0.1",
        "fe80::1",
        "born 1/2/1980",
        "zip code ",
        "94107",
        "account ",
        "Authorization: Bearer ",
        "AKIAIOSFODNN7EXAMPLE",
        "1",
        "23",
        "@",
        "/",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----END RSA PRIVATE KEY-----",
        "Apt. 12",
        "221 Baker Street",
        "�",
        "is ",
        "=",
        "my ",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=14).map("".join))


def redact(text: str) -> Redacted | None:
    try:
        return REDACTOR.redact(text)
    except RedactionError:
        return None


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_spans_are_sorted_disjoint_and_all_that_changes(text):
    redacted = redact(text)
    if redacted is None:
        return
    rebuilt, last = "", 0
    for span in redacted.spans:
        assert last <= span.start < span.end <= len(text)
        assert span.kind in KINDS
        assert re.fullmatch(rf"<{span.kind}_[0-9]+>", span.placeholder)
        rebuilt += text[last : span.start] + span.placeholder
        last = span.end
    assert rebuilt + text[last:] == redacted.text


@settings(max_examples=1500, deadline=None)
@given(TEXTS)
def test_redacting_again_changes_nothing(text):
    redacted = redact(text)
    if redacted is not None:
        again = REDACTOR.redact(redacted.text)
        assert again.text == redacted.text
        assert again.spans == ()


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=8,
    )
)
def test_json_keeps_its_shape_and_settles(value):
    try:
        once = REDACTOR.redact_json(value)
    except RedactionError:
        return
    assert type(once) is type(value) or isinstance(once, str)
    if isinstance(value, dict):
        assert list(once) == list(value)
    assert repr(REDACTOR.redact_json(once)) == repr(once)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=14).map(" ".join))
def test_the_second_look_agrees_with_the_first(text):
    redacted = redact(text)
    if redacted is not None:
        assert residual_scan(redacted.text) == []
