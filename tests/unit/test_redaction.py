"""What a caller of the redactor sees: placeholders, sessions, JSON, bounds, disguises, overlaps, refusals."""

import json

import pytest

from policies.redaction import ExtraPattern, RedactionPolicy, Redactor, residual_scan
from registry.errors import RedactionError

REDACTOR = Redactor()


def clean(text: str) -> str:
    return REDACTOR.redact(text).text


def test_text_without_data_comes_back_as_it_was():
    text = "Set an alarm for 7:30 on 2024-01-02, then play 3 songs; it costs $1,234.50 (about 12.5 %)."
    assert REDACTOR.redact(text).text is text
    assert REDACTOR.redact(text).spans == ()


def test_spans_point_into_the_original_and_do_not_hold_the_value():
    text = "Zoë: jo@example.com"
    (span,) = REDACTOR.redact(text).spans
    assert text[span.start : span.end] == "jo@example.com"
    assert (span.kind, span.placeholder) == ("EMAIL", "<EMAIL_1>")
    assert "jo@example" not in repr(span)


def test_a_value_keeps_its_number_through_a_session_whatever_its_spelling():
    session = REDACTOR.session()
    assert session.redact("card 4111 1111 1111 1111").text == "card <CREDIT_CARD_1>"
    assert session.redact("or 5500-0000-0000-0004, 4111111111111111").text == "or <CREDIT_CARD_2>, <CREDIT_CARD_1>"
    assert session.redact_json({"from": "A@b.example", "to": ["a@B.example"]}) == {
        "from": "<EMAIL_1>",
        "to": ["<EMAIL_1>"],
    }
    assert session.counts == {"CREDIT_CARD": 2, "EMAIL": 1}
    assert REDACTOR.session().redact("5500-0000-0000-0004").text == "<CREDIT_CARD_1>"


@pytest.mark.parametrize(
    "text",
    [
        "jo\\u0040example.com",
        '{"a": "x\\njo@example.com"}',
        "jo@exa\u200bmple.com",
        "jo＠example.com",
        "jo%40example.com",
        "jo [at] example [dot] com",
        "４１１１\u00a01111\u20111111\u00a01111",
        "4\u200b111-1111\u200d-1111-1111",
        "4111\\u00a01111\\u00a01111\\u00a01111",
        "GB82\u00a0WEST\u00a01234\u00a05698\u00a07654\u00a032",
        "078\u201105\u20111120",
        "AKIA\u00adIOSFODNN7EXAMPLE",
    ],
)
def test_disguised_values_are_seen(text):
    assert REDACTOR.redact(text).spans


def test_an_escaped_line_break_before_a_value_is_left_whole():
    assert json.loads(clean('{"a": "x\\njo@example.com"}')) == {"a": "x\n<EMAIL_1>"}


def test_nothing_of_overlapping_finds_survives():
    assert clean("https://jo:hunter22@example.com/?token=abc123def456&mail=jo@example.com") == "<URL_1>"
    assert clean("password=jo@example.com;") == "password=<EMAIL_1>;"
    without_urls = Redactor(RedactionPolicy(kinds=RedactionPolicy().kinds - {"URL"}))
    assert "hunter22" not in without_urls.redact("postgres://jo:hunter22@db/prod").text


def test_redacting_twice_changes_nothing():
    once = clean("jo@example.com, phone 467 3395, password: hunter2, born 1 May 1980, 10.0.0.7 zip code 94107")
    assert clean(once) == once
    assert once.count("<") == 6


@pytest.mark.parametrize(
    "text",
    [
        "order 12345678 shipped on 2024-01-02 10:11:12",
        "between 1939-1945 and (1914–1918)",
        "pi is 3.14159265358979, e is 2.718281828",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "git@github.com:org/repo.git and icon@2x.png",
        "std::vector<int> a::b version 1.2.3.4",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "timestamps 1700000000 and 1700000000000",
        "max_tokens: 200, token_type: bearer, password: str",
        "The password must be reset; your password is incorrect.",
        'password = os.environ["DB_PASSWORD"]',
        '{"$schema": "https://json-schema.org/draft/2020-12/schema"}',
        "4111111111111112",
        "666-12-3456",
        "rows 12 34 of 1,234,567,890",
    ],
)
def test_look_alikes_stay(text):
    assert clean(text) == text


def test_json_keeps_keys_and_checks_numbers_by_their_key():
    value = {
        "password": "swordfish",
        "card": 4111111111111111,
        "rows": [1, 2.5, True, None, {"phone": 4673395, "size": 4673395}],
        "a@b.example": "x",
    }
    assert REDACTOR.redact_json(value) == {
        "password": "<SECRET_1>",
        "card": "<CREDIT_CARD_1>",
        "rows": [1, 2.5, True, None, {"phone": "<PHONE_1>", "size": 4673395}],
        "a@b.example": "x",
    }


def test_json_text_stays_json():
    session = REDACTOR.session()
    assert json.loads(session.redact_json_text('{"card": 4111111111111111, "n": 2}')) == {
        "card": "<CREDIT_CARD_1>",
        "n": 2,
    }
    assert session.redact_json_text('{"n":  2}') == '{"n":  2}'
    assert session.redact_json_text("not json, jo@example.com") == "not json, <EMAIL_1>"


def test_what_is_over_a_bound_is_refused_without_its_value():
    small = Redactor(RedactionPolicy(max_chars=20, max_depth=3, max_nodes=10))
    deep: object = "jo@example.com"
    for _ in range(5):
        deep = [deep]
    for call in (
        lambda: small.redact("jo@example.com " * 10),
        lambda: small.session().redact_json_text('"' + "jo@example.com " * 10 + '"'),
        lambda: small.redact_json(deep),
        lambda: small.redact_json(["jo@x.example"] * 11),
        lambda: small.redact_json({"a": object()}),
    ):
        with pytest.raises(RedactionError) as caught:
            call()
        assert "jo@" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_failing_detector_withholds_the_text(monkeypatch):
    def fail(view):
        raise ValueError(view.data)

    broken = Redactor()
    monkeypatch.setattr(
        broken, "_by_trigger", [[each._replace(find=fail) for each in group] for group in broken._by_trigger]
    )
    with pytest.raises(RedactionError, match="ValueError") as caught:
        broken.redact("jo@example.com")
    assert "jo@" not in str(caught.value)
    with pytest.raises(RedactionError):
        broken.redact(None)  # type: ignore[arg-type]


def test_kinds_can_be_turned_off_and_own_patterns_added():
    policy = RedactionPolicy(
        kinds=RedactionPolicy().kinds - {"IP_ADDRESS"}, extra=(ExtraPattern("EMPLOYEE_ID", r"\bE[0-9]{6}\b"),)
    )
    redactor = Redactor(policy)
    once = redactor.redact("E123456 at 10.1.2.3 wrote to jo@example.com").text
    assert once == "<EMPLOYEE_ID_1> at 10.1.2.3 wrote to <EMAIL_1>"
    assert redactor.redact(once).text == once


def test_hostile_text_takes_linear_time():
    for piece in (
        "1 ",
        "(1",
        "a@",
        "-----BEGIN PRIVATE KEY-----",
        "password=",
        "http://)",
        "AB12",
        "::1",
        "1.2.3.4",
        "\\u0031",
        "<EMAIL_1>",
        "eyJ",
    ):
        REDACTOR.redact(piece * (20_000 // len(piece)))


def test_the_second_look_respects_kinds_that_are_off():
    assert residual_scan("jo@example.com GB82WEST12345698765432", frozenset({"IBAN"})) == ["IBAN"]
    assert residual_scan("nothing here but 4111111111111112 and <EMAIL_1>") == []
